"""Strict mode for every test: typed, no rank promotion, two simulated devices.

Programs are compiled without LLVM's optimisations, which takes a third off the suite's time and
changes neither flops nor memory; your own XLA_FLAGS come last and win. XLA's older emitters of
fusions (--xla_cpu_use_fusion_emitters=false) compile most programs three times as fast and a few,
such as augmentations, in minutes.
"""

import os
import pathlib

os.environ["XLA_FLAGS"] = (
  "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0 "
  + os.environ.get("XLA_FLAGS", "")
)
_CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook(["medjax", "kernels"], "beartype.beartype")

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
