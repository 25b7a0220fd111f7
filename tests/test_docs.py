"""What the text names exists: every `room.name` in docstrings and pages, every link to a file."""

import ast
import functools
import importlib.util
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
ROOMS = sorted(
  path.stem
  for path in (ROOT / "medjax").iterdir()
  if path.name not in ("__init__.py", "__pycache__")
)
# `grads.clipped_sum(...)` or `medjax.grads.clipped_sum`: a room and a name in it. A word before the
# room (`self.train.x`, `optax.losses`) makes it somebody else's.
REFERENCE = re.compile(r"`(?:medjax\.)?((?:" + "|".join(ROOMS) + r")\.[A-Za-z_][\w.]*)")
PAGES = sorted(
  [*ROOT.glob("*.md"), *ROOT.glob("medjax/**/*.md"), *ROOT.glob("experiments/**/*.md")]
)
FILE_ENDINGS = {"py", "json", "md", "csv", "html", "jsonl", "npz"}


def docstrings(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
      yield ast.get_docstring(node) or ""


def references(texts):
  found = {name.rstrip(".") for text in texts for name in REFERENCE.findall(text)}
  return {name for name in found if name.rsplit(".", 1)[1] not in FILE_ENDINGS}


@functools.cache
def exists(name):
  """Whether `room.a.b` can be reached: as an attribute, a field, or a module that a name hides."""
  thing = importlib.import_module("medjax." + name.split(".")[0])
  *holders, last = name.split(".")[1:]
  for part in holders:
    try:  # `ops.conv` is a function and a module: the module holds the rest
      thing = importlib.import_module(f"{thing.__name__}.{part}")
    except ImportError:
      thing = getattr(thing, part, None)
  # A field without a default is no attribute of its class.
  fields = getattr(thing, "__dataclass_fields__", None) or getattr(thing, "__annotations__", {})
  if hasattr(thing, last) or last in fields:
    return True
  return importlib.util.find_spec(f"{thing.__name__}.{last}") is not None


@pytest.mark.parametrize("folder", [*ROOMS, "pages"])
def test_every_name_that_the_text_mentions_exists(folder):
  if folder == "pages":
    texts = [page.read_text() for page in PAGES]
  else:
    place = ROOT / "medjax" / folder
    files = place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]
    texts = [text for path in files for text in docstrings(path)]
  assert not [name for name in sorted(references(texts)) if not exists(name)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_to_a_file_leads_somewhere(page):
  links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())
  assert not [link for link in links if not (page.parent / link).exists()]
