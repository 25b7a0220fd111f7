"""Gradient methods for medical imaging under distribution shift, scarcity and privacy, in JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from medjax.loading import load_members, load_run

__all__ = ["load_members", "load_run"]


def __getattr__(name: str) -> Any:
  """`load_run` and `load_members` need the readers of files: `import medjax` alone does not."""
  if name in __all__:
    from medjax import loading

    return getattr(loading, name)
  raise AttributeError(f"module 'medjax' has no attribute {name!r}")
