"""Strict mode for every test: typed, no rank promotion, two simulated devices.

Programs are compiled quickly rather than well: without LLVM's optimisations and with XLA's older
emitters of fusions, which together take two thirds off the time of compiling and change neither
flops nor memory. Your own XLA_FLAGS come last and win.
"""

import os
import pathlib
from importlib import metadata

_QUICK = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0 "
if metadata.version("jaxlib").startswith("0.10."):
  # XLA ends the process at a flag that it does not know, so this one is named for the releases that
  # were tried.
  _QUICK += "--xla_cpu_use_fusion_emitters=false "
os.environ["XLA_FLAGS"] = _QUICK + os.environ.get("XLA_FLAGS", "")
_CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook(["medjax", "kernels"], "beartype.beartype")

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
