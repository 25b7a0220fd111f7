"""The house: imports point down, third-party libraries have one owner, the core needs little."""

import ast
import functools
import graphlib
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent

# Each room may import the rooms named with it, and itself.
BASE = {"types", "check", "rng", "tree", "files", "axes", "devices", "labels", "programs"}
BASE |= {"transforms"}
MAY_IMPORT = {
  "types": set(),
  "check": {"types"},
  "tables": {"check"},
  "rng": {"types", "tree"},
  "tree": {"types", "check"},
  "files": {"types"},
  "axes": {"check"},
  "labels": {"types", "check"},
  "programs": {"types", "tree", "rng", "sweeps"},
  "devices": {"types"},
  "transforms": {"types", "check", "rng"},
  "sweeps": {"types", "check", "rng"},
  "ops": BASE | {"kernels"},
  "losses": BASE | {"ops"},
  "explain": BASE | {"ops"},
  "metrics": BASE | {"tables", "ops"},
  "nets": BASE | {"ops"},
  "synth": BASE | {"ops"},
  "data": BASE | {"tables", "ops", "losses", "metrics", "nets", "synth"},
  "grads": BASE | {"ops", "losses"},
  "privacy": BASE | {"sweeps", "ops", "data", "grads"},
  "federated": BASE | {"sweeps", "data", "grads", "privacy"},
  "methods": BASE
  | {"sweeps", "ops", "losses", "metrics", "nets", "synth", "data", "grads", "privacy"},
  "inference": BASE | {"ops", "data"},
  "train": BASE | {"sweeps", "metrics", "data"},
  "adapt": BASE | {"data", "train"},
  "study": BASE | {"metrics", "synth", "data", "inference", "train"},
  "loading": BASE | {"nets", "data", "inference", "train"},
  "synthesisers": BASE | {"nets", "synth", "train"},
  "cli": BASE | {"train"},
  "predict_classes": BASE | {"data", "inference", "metrics", "train"},
  "predict_prompts": BASE | {"adapt", "data", "inference", "metrics", "nets", "tables", "train"},
  "predict": BASE
  | {"cli", "data", "inference", "loading", "nets", "predict_classes", "predict_prompts", "train"},
  "export": BASE | {"cli", "inference", "loading", "train"},
}
OWNERS = {
  "flax": {"medjax/nets"},
  "orbax": {"medjax/train/checkpoint.py"},
  "nibabel": {"medjax/data/formats/nifti.py"},
  "tyro": {"medjax/cli.py"},
  "rich": {"medjax/train/progress.py"},
  "matplotlib": {"medjax/train/figures.py"},
  "nilearn": {"medjax/data/sets/mni152.py"},
  "PIL": {"medjax/data/formats/png.py", "medjax/data/sets/class_folders.py"},
  "safetensors": {"medjax/train/weights.py", "medjax/nets/torch_files.py"},
  "tensorboardX": {"medjax/train/writers.py"},
  "wandb": {"medjax/train/writers.py"},
  "nvflare": {"medjax/federated/remote.py"},
  "dp_accounting": {"medjax/privacy/accounting.py", "medjax/privacy/mixture.py"},
  "jax_privacy": {"medjax/privacy/correlated.py"},
  "tensorflow_datasets": {"medjax/data/sets/prepared.py", "medjax/data/sets/tfds_builders.py"},
}


def modules(*folders):
  return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@functools.cache
def imported(path):
  """Names that a file imports; every test asks it of every file."""
  names = []
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
  return names


def room(name):
  parts = name.split(".")
  if parts[0] == "kernels":
    return "kernels"
  return parts[1] if parts[0] == "medjax" and len(parts) > 1 else None


@pytest.mark.parametrize("path", modules("medjax"), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
  relative = path.relative_to(ROOT / "medjax")
  own = relative.parts[0].removesuffix(".py")
  if own == "__init__" or path.name == "__main__.py":  # commands sit on top of everything
    return
  allowed = MAY_IMPORT[own] | {own}
  rooms = {room(name) for name in imported(path)} - {None}
  assert rooms <= allowed, f"{relative} imports {sorted(rooms - allowed)}"


def test_the_map_shows_every_room():
  rows = [line for line in (ROOT / "ARCHITECTURE.md").read_text().splitlines() if line[:1] == "|"]
  shown = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
  assert shown == set(MAY_IMPORT)


def test_no_circle_of_imports():
  """Files of medjax in an order in which each imports earlier ones only; packages are no files."""
  files = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in modules("medjax")
    if path.name != "__init__.py"
  }
  graph = {name: set(imported(path)) & set(files) - {name} for name, path in files.items()}
  tuple(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError and names the circle


@pytest.mark.parametrize("path", modules("kernels"), ids=lambda p: str(p.relative_to(ROOT)))
def test_kernels_stand_alone(path):
  assert not any(name.split(".")[0] in ("medjax", "experiments") for name in imported(path))


def test_nothing_imports_experiments():
  for path in modules("medjax", "kernels"):
    assert not any(name.split(".")[0] == "experiments" for name in imported(path)), path


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_has_one_owner(library):
  for path in modules("medjax", "kernels"):
    if any(name.split(".")[0] == library for name in imported(path)):
      name = str(path.relative_to(ROOT))
      assert any(name.startswith(owner) for owner in OWNERS[library]), name


def test_the_core_imports_with_five_libraries():
  """The maths packages load jax, flax, optax, numpy, jaxtyping and what these need."""
  heavy = ["scipy.ndimage", "nibabel", "PIL", "tyro", "matplotlib", "nilearn", "grain"]
  heavy += ["SimpleITK", "tensorflow_datasets", "dp_accounting"]
  code = (
    "import sys, medjax\n"
    "from medjax import methods, privacy\n"  # what these would load costs half of JAX's own time
    "late = ['flax', 'orbax', 'scipy.special', 'medjax.data', 'medjax.nets', 'medjax.synth']\n"
    "late += ['medjax.metrics', 'medjax.train']\n"
    "late += ['medjax.privacy.audit', 'medjax.privacy.sensitivity']\n"
    "found = [name for name in late if name in sys.modules]\n"
    "assert not found, found\n"
    "from medjax import losses, metrics, nets, ops, synth, grads, methods, train\n"
    f"found = [name for name in {heavy!r} if name in sys.modules]\n"
    "assert not found, found"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
  assert done.returncode == 0, done.stderr


def test_a_command_line_shows_its_help_without_the_libraries_that_its_work_needs():
  late = [
    "flax",
    "orbax",
    "matplotlib",
    "nibabel",
    "PIL",
    "scipy.ndimage",
    "scipy.special",
    "optax",
  ]
  code = f"import sys, medjax.predict; assert not {{*{late!r}}} & set(sys.modules)"
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
  assert done.returncode == 0, done.stderr
