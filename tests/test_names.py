"""One public thing, one name: who reads `Report` or `Site` need not ask which of two is meant."""

import ast
import collections
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent / "medjax"
TYPE = re.compile(r"[A-Z]+[A-Za-z0-9]*[a-z][A-Za-z0-9]*")  # a class or an alias, not a CONSTANT
# Every command line has its Config; TFDS names a data set by the class of its builder.
MAY_STAND_TWICE = {"Config", "ProstateSites"}


def defined(path):
  for node in ast.parse(path.read_text()).body:
    if isinstance(node, ast.ClassDef):
      yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
      targets = node.targets if isinstance(node, ast.Assign) else [node.target]
      yield from (target.id for target in targets if isinstance(target, ast.Name))


def test_a_type_has_a_name_of_its_own():
  places = collections.defaultdict(set)
  for path in ROOT.rglob("*.py"):
    for name in defined(path):
      if TYPE.fullmatch(name):
        places[name].add(str(path.relative_to(ROOT)))
  twice = {name: found for name, found in places.items() if len(found) > 1}
  assert {name: sorted(found) for name, found in twice.items() if name not in MAY_STAND_TWICE} == {}


def test_two_rooms_publish_nothing_under_one_name():
  rooms = collections.defaultdict(set)
  for path in ROOT.glob("*/__init__.py"):
    for node in ast.parse(path.read_text()).body:
      if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
        for name in ast.literal_eval(node.value):
          rooms[name].add(path.parent.name)
  assert {name: found for name, found in rooms.items() if len(found) > 1} == {}
