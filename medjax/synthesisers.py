"""Learned synthesisers on disk: how label maps become images, in one safetensors file.

A run of Learn2Synth keeps one file a training, synthesisers/<arm>-<seed>.safetensors. Its header
holds the generator and the learnable augmentation, its arrays are what was learnt. `load` gives a
function of key and label map that runs under jit, vmap and grad, on maps of any shape, and
`python -m medjax.synth --run RUN MAP.nii.gz OUT.nii.gz` shows what it makes of a label map.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from medjax import check, nets, rng, synth
from medjax.nets import spec
from medjax.train import weights
from medjax.types import Json, Key, PyTree

FOLDER = "synthesisers"
SUFFIX = ".safetensors"

_CLASSES: dict[str, type] = {
  one.__name__: one
  for one in (
    synth.BiasField,
    synth.Blur,
    synth.Deformation,
    synth.Flip,
    synth.Gamma,
    synth.Generator,
    synth.Grouping,
    synth.Mixture,
    synth.Noise,
    synth.ParametricAugmentation,
    synth.Resolution,
    synth.UNetResidual,
  )
}


@dataclasses.dataclass(frozen=True)
class Synthesiser:
  """A generator and what was learnt to do to its images.

  >>> from medjax import synth
  >>> augmentation = synth.ParametricAugmentation(bias=False)
  >>> made = Synthesiser(
  ...   synth.Generator(synth.identity(2)), augmentation, augmentation.init(sigma=0.1), (0, 7)
  ... )
  >>> image, target = made(jax.random.key(0), jnp.eye(8, dtype=jnp.int32))
  >>> image.shape, target.shape
  ((8, 8, 1), (8, 8))

  Attributes:
    generator: label map -> image in [0, 1].
    augmentation: what changes that image.
    theta: its parameters.
    label_values: value in the files of each class id that label maps hold, background first.
    axis: across which volumes are cut, for one that works on slices; None works on whole maps.
  """

  generator: synth.Generator
  augmentation: synth.LearnableAugmentation
  theta: PyTree
  label_values: tuple[int, ...]
  axis: int | None = None

  def __call__(
    self, key: Key, label: Int[Array, "*space"]
  ) -> tuple[Float[Array, "*space 1"], Int[Array, "*space"]]:
    """One image, and the class ids that belong to it (the generator moves the anatomy)."""
    generator_key, augmentation_key = rng.streams(key, "generator", "augmentation")
    image, raw = synth.generate(self.generator, generator_key, label)
    image = self.augmentation(self.theta, augmentation_key, image)
    return image, self.generator.grouping.to_target(raw)


def save(path: str | os.PathLike, synthesiser: Synthesiser, *, network: Any = None) -> None:
  """Writes a synthesiser; the file appears whole or not at all.

  Args:
    path: file to write, usually RUN/synthesisers/NAME.safetensors; its folder is made.
    synthesiser: with a generator and an augmentation of medjax.synth.
    network: the Linen module of `synth.UNetResidual`, of medjax.nets.
  Raises:
    InputError: a part that is not of medjax.synth, or a residual without its network.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  settings = {
    "generator": _described(synthesiser.generator, network),
    "augmentation": _described(synthesiser.augmentation, network),
    "label_values": list(synthesiser.label_values),
    "axis": synthesiser.axis,
  }
  weights.save_weights(path, {"theta": synthesiser.theta}, {"synthesiser": settings})


def load(path: str | os.PathLike, name: str | None = None) -> Synthesiser:
  """A synthesiser from its file, or from a run directory.

  Args:
    path: file, or run directory.
    name: which one of a directory that holds several, for example "learn2synth-0".
  Raises:
    InputError: none there, several and no `name`, or a file that holds something else.
  """
  path = pathlib.Path(path)
  if not path.name.endswith(SUFFIX):
    folder = path / FOLDER
    known = {p.name.removesuffix(SUFFIX): p for p in sorted(folder.glob(f"*{SUFFIX}"))}
    check.require(
      known, f"learned synthesisers, {folder}/*{SUFFIX}", "none", "pass a run of Learn2Synth"
    )
    if name is None:
      check.require(len(known) == 1, f"one synthesiser in {folder}", ", ".join(known), "name one")
      name = next(iter(known))
    check.one_of("name of the synthesiser", name, known)
    path = known[name]
  check.existing_file(path)
  found = weights.read_weights(path)
  settings = found.settings.get("synthesiser")
  if not isinstance(settings, Mapping):
    raise check.InputError(f"a synthesiser in {path}", "other weights", "pass another file")
  augmentation = _built(settings["augmentation"])
  tree: dict[str, Any] = {}
  for leaf, array in found.arrays.items():
    *parents, last = leaf.split("/")[1:]
    place = tree
    for parent in parents:
      place = place.setdefault(parent, {})
    place[last] = jnp.asarray(array)
  theta: PyTree = tree
  if isinstance(augmentation, synth.ParametricAugmentation):
    theta = synth.Theta(tree.get("exponents"), tree.get("sigma"))
  values = tuple(int(value) for value in settings["label_values"])
  return Synthesiser(_built(settings["generator"]), augmentation, theta, values, settings["axis"])


def synthesise_volume(
  synthesiser: Synthesiser, key: Key, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Image and class ids [*space] of a map of class ids, slice by slice if it works on slices."""
  if synthesiser.axis is None or label.ndim == 2:
    image, target = jax.jit(synthesiser)(key, jnp.asarray(label))
    return np.asarray(image[..., 0]), np.asarray(target)
  slices = np.moveaxis(label, synthesiser.axis, 0)
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(len(slices)))
  images, targets = jax.jit(jax.vmap(synthesiser))(keys, jnp.asarray(slices))
  back = lambda x: np.moveaxis(np.asarray(x), 0, synthesiser.axis)  # noqa: E731
  return back(images[..., 0]), back(targets)


def _described(value: object, network: Any) -> Json:
  """Plain data of a frozen record of medjax.synth and all that it holds."""
  if isinstance(value, np.ndarray):
    return {"array": value.tolist(), "dtype": value.dtype.name}
  if isinstance(value, tuple) and not hasattr(value, "_fields"):
    return [_described(one, network) for one in value]
  if value is None or isinstance(value, str | int | float):
    return value
  name = type(value).__name__
  check.require(
    _CLASSES.get(name) is type(value),
    f"parts of medjax.synth: {sorted(_CLASSES)}",
    name,
    "save theta with train.weights.save_weights and make your own parts anew",
  )
  fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}  # pyrefly: ignore[bad-argument-type]
  if isinstance(value, synth.UNetResidual):
    del fields["model"]
    if network is None:
      raise check.InputError("the network of UNetResidual", "none", "pass network=")
    return {
      "class": name,
      "network": spec.describe(network),
      "fields": {key: _described(one, network) for key, one in fields.items()},
    }
  return {"class": name, "fields": {key: _described(one, network) for key, one in fields.items()}}


def _built(value: Json) -> Any:
  """What `_described` described."""
  if isinstance(value, list):
    return tuple(_built(one) for one in value)
  if not isinstance(value, Mapping):
    return value
  if "array" in value:
    return np.array(value["array"], value["dtype"])
  check.one_of("part of a synthesiser", value["class"], sorted(_CLASSES))
  fields = {key: _built(one) for key, one in value["fields"].items()}
  if "network" in value:
    fields["model"] = nets.from_linen(spec.build(value["network"]))
  return _CLASSES[value["class"]](**fields)
