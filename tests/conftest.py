"""Strict mode for every test: typed, no rank promotion, two simulated devices.

Programs are compiled quickly rather than well, in a third of the time: without LLVM's
optimisations, each as one LLVM module, and with XLA's older emitters of fusions. Flops and memory
are the same. The older emitters take minutes over a few programs, such as an augmentation of
volumes: their tests are slow ones, which are compiled as programs ship. Your own XLA_FLAGS come
last and win.
"""

import gc
import os
import pathlib
from importlib import metadata

os.environ["XLA_FLAGS"] = (
  "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0 "
  + os.environ.get("XLA_FLAGS", "")
)
_CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.05")

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook(["medjax", "kernels"], "beartype.beartype")

import jax  # noqa: E402
import pytest  # noqa: E402
from jax._src import compiler  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

_QUICK = {
  "xla_cpu_parallel_codegen_split_count": 1,
  "xla_llvm_enable_alias_scope_metadata": False,
  "xla_llvm_enable_noalias_metadata": False,
  "xla_llvm_enable_invariant_load_metadata": False,
  "xla_cpu_use_fusion_emitters": False,
}
# XLA refuses a flag that it does not know: these are given to the releases that were tried.
_KNOWS_FLAGS = metadata.version("jaxlib").startswith("0.10.")
_get_compile_options = compiler.get_compile_options
_flags: dict[str, int | bool] = {}


def _with_flags(*args, env_options_overrides=None, **options):
  flags = {**_flags, **(env_options_overrides or {})}
  return _get_compile_options(*args, env_options_overrides=flags, **options)


compiler.get_compile_options = _with_flags


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
  """Before the fixtures, which compile as their first test does."""
  _flags.clear()
  if not _KNOWS_FLAGS or item.get_closest_marker("slow"):
    return
  _flags.update(_QUICK)
  for name in [name for name in _flags if name in os.environ["XLA_FLAGS"]]:
    del _flags[name]


def pytest_collection_finish():
  """What is imported stays: the garbage collector need not look at it again."""
  gc.freeze()
