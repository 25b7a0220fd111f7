"""The trained part on disk, bound to the file of the frozen rest by its digest."""

import os
from collections.abc import Mapping

import jax.numpy as jnp

from medjax import check, files, tree
from medjax.adapt.lora import with_low_rank
from medjax.adapt.parts import SmallPart
from medjax.data import manifest
from medjax.train import weights
from medjax.types import Json, Params


def save_small(
  path: str | os.PathLike,
  small: SmallPart,
  base: str | os.PathLike,
  *,
  alpha: float | int | None = None,
  settings: Mapping[str, Json] | None = None,
) -> None:
  """Writes the part that was trained; the file appears whole or not at all.

  Args:
    path: a .safetensors file.
    small: of `take`, trained.
    base: the file that the frozen weights came from; its name and SHA-256 are kept.
    alpha: as in `with_low_rank`.
    settings: whatever else is to be kept.
  """
  base = check.existing_file(base)
  about = {"name": base.name, "digest": manifest.file_digest(base), "alpha": alpha}
  content = {"leaves": small.leaves, "factors": small.factors}
  weights.save_weights(path, content, {"small_of": about, **files.plain(dict(settings or {}))})


def load_small(
  path: str | os.PathLike, params: Params, base: str | os.PathLike
) -> tuple[Params, dict[str, Json]]:
  """The whole network: frozen parameters with the trained part put in.

  Args:
    path: of `save_small`.
    params: the parameters that `base` holds.
    base: their file.
  Returns:
    (parameters, settings that were kept).
  Raises:
    InputError: a file of another kind, a base with another digest, leaves that do not fit.
  """
  found = weights.read_weights(path)
  about = found.settings.get("small_of")
  check.require(
    about, f"a file of save_small at {path}", "another safetensors file", "load it with load_run"
  )
  assert about is not None
  digest = manifest.file_digest(check.existing_file(base))
  check.require(
    digest == about["digest"],
    f"the frozen weights that {path} was trained on, {about['name']} {about['digest']}",
    f"{base} {digest}",
    "pass that file",
  )
  own = tree.named_leaves(params)
  leaves, factors = {}, {}
  for name, array in found.arrays.items():
    kind, _, rest = name.partition("/")
    if kind == "leaves":
      leaves[rest] = array
    else:
      place, _, last = rest.rpartition("/")
      factors.setdefault(place, {})[last] = jnp.asarray(array)
  wrong = [name for name, x in leaves.items() if name not in own or own[name].shape != x.shape]
  wrong += [name for name in factors if name not in own]
  check.require(
    not wrong, "leaves of the network", f"{', '.join(wrong[:10])}", "load the network it belongs to"
  )
  put = lambda name, x: jnp.asarray(leaves[name], x.dtype) if name in leaves else x  # noqa: E731
  merged = tree.map_named(put, params)
  if factors:
    merged = with_low_rank(merged, factors, alpha=about["alpha"])
  return merged, {k: v for k, v in found.settings.items() if k != "small_of"}
