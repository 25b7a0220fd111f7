"""Class probabilities of whole images: softmax averaged over windows, symmetries, members."""

import functools
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from medjax.check import InputError, positive, require
from medjax.data.formats.volume import Volume
from medjax.data.grid.preprocess import Preprocessing
from medjax.devices import platform_of
from medjax.inference.test_time import IDENTITY, Symmetry
from medjax.inference.window import slide
from medjax.types import Model, Params, PyTree


class Member(NamedTuple):
  """A trained network.

  Members of one architecture share one `model`, so that a Predictor compiles once for all of them.

  Attributes:
    model: init and apply.
    params: parameters.
    preprocess: how files become its input.
    name: as in RUN/weights.
    model_state: what the model keeps beside its parameters (batch statistics), {} if nothing.
  """

  model: Model
  params: Params
  preprocess: Preprocessing
  name: str
  model_state: PyTree = types.MappingProxyType({})


class Predictor:
  """`predictor(params, image, model_state) -> probabilities`, compiled once for one model.

  Probabilities are the mean softmax over windows (Gaussian weights) and symmetries. nnU-Net
  averages logits; means of probabilities stay probabilities, which calibration measures.

  Args:
    model: one example [*patch, channel] -> logits [*patch, class].
    patch: window of prediction, voxels per axis.
    overlap: of neighbouring windows, as a fraction of the patch.
    batch_size: windows a call of the network; None: 1 on CPU, 4 elsewhere, times the
      devices of `mesh`.
    symmetries: moves to average over, see `test_time`; ones that swap axes need equal patch sizes.
    axis: axis of 3D images across which a 2D network works slice by slice; None otherwise.
    mesh: with one axis, over whose devices the windows of a call are spread; None: the device of
      the parameters.
  Raises:
    InputError: a batch_size that the devices of the mesh do not divide.
  """

  def __init__(
    self,
    model: Model,
    patch: Sequence[int],
    *,
    overlap: float = 0.5,
    batch_size: int | None = None,
    symmetries: Sequence[Symmetry] = (IDENTITY,),
    axis: int | None = None,
    mesh: Mesh | None = None,
  ):
    if batch_size is not None:
      positive("batch_size", batch_size)
    if mesh is not None and batch_size is not None:
      require(
        batch_size % mesh.size == 0,
        f"a batch_size that {mesh.size} devices divide",
        f"{batch_size}",
        "leave it out, or choose a multiple",
      )
    self._batch_size, self._mesh = batch_size, mesh
    require(symmetries, "at least one symmetry", "none", "pass test_time.IDENTITY")
    self._patch, self._overlap = tuple(patch), overlap
    self._symmetries, self._axis = tuple(symmetries), axis
    self._network = _network(model)

  def __call__(
    self, params: Params, image: np.ndarray, model_state: PyTree | None = None
  ) -> np.ndarray:
    """Probabilities [*space, class] float32 of a preprocessed image [*space, channel].

    `model_state` is that of the training, None for a model without.
    """
    variables = (params, dict(model_state or {}))
    if self._axis is None:
      return self._of_grid(variables, image)
    planes = np.moveaxis(image, self._axis, 0)
    return np.stack([self._of_grid(variables, plane) for plane in planes], axis=self._axis)

  def _of_grid(self, variables: tuple[Params, PyTree], image: np.ndarray) -> np.ndarray:
    each = 1 if platform_of(variables[0]) == "cpu" else 4
    if self._mesh is None:
      network, batch_size = functools.partial(self._network, variables), each
    else:
      # The parameters lie on every device, windows one after the other on one device each.
      whole = jax.device_put(variables, NamedSharding(self._mesh, PartitionSpec()))
      spread = NamedSharding(self._mesh, PartitionSpec(self._mesh.axis_names))
      batch_size = each * self._mesh.size

      def network(windows: np.ndarray) -> jax.Array:
        return self._network(whole, jax.device_put(windows, spread))

    batch_size = self._batch_size or batch_size

    def seen_through(symmetry: Symmetry) -> np.ndarray:
      moved = np.ascontiguousarray(symmetry.forward(image))
      values = slide(network, moved, self._patch, overlap=self._overlap, batch_size=batch_size)
      return symmetry.backward(values)

    total = functools.reduce(np.add, map(seen_through, self._symmetries))
    return total / len(self._symmetries) if len(self._symmetries) > 1 else total


class Ensemble:
  """`ensemble(image) -> probabilities`, the mean over members (folds, seeds).

  Args:
    members: networks with one preprocessing; only their normalisation may differ.
    overlap, batch_size, symmetries, mesh: see `Predictor`.
  Raises:
    InputError: members that differ in more than their normalisation, or one without a patch.
  """

  def __init__(
    self,
    members: Sequence[Member],
    *,
    overlap: float = 0.5,
    batch_size: int | None = None,
    symmetries: Sequence[Symmetry] = (IDENTITY,),
    mesh: Mesh | None = None,
  ):
    require(members, "at least one trained network", "none", "pass the run of a training")
    first = members[0].preprocess
    for member in members[1:]:
      _same_preprocessing(members[0], member)
    if first.patch is None:
      raise InputError("a patch size in the preprocessing", "None", "set Preprocessing.patch")
    self.preprocess = first
    predictors: dict[Callable, Predictor] = {}
    for member in members:
      if member.model.apply not in predictors:
        predictors[member.model.apply] = Predictor(
          member.model,
          first.patch,
          overlap=overlap,
          batch_size=batch_size,
          symmetries=symmetries,
          axis=first.axis,
          mesh=mesh,
        )
    self._parts = [(predictors[member.model.apply], member) for member in members]

  def __call__(self, image: np.ndarray) -> np.ndarray:
    """Probabilities [*space, class] float32 of an image [*space, channel] preprocessed for all."""
    require(
      all(member.preprocess == self.preprocess for _, member in self._parts),
      "members of one normalisation",
      "several",
      "call of_volume with the raw values",
    )
    return self._mean(of(m.params, image, m.model_state) for of, m in self._parts)

  def of_volume(self, volume: Volume, name: str = "the image") -> np.ndarray:
    """Probabilities [*network space, class] of raw values on the grid of a file."""
    images: dict[str, np.ndarray] = {}

    def values() -> Iterator[np.ndarray]:
      for predictor, member in self._parts:
        key = repr(member.preprocess)
        if key not in images:
          images[key] = member.preprocess.apply(volume, name).array
        yield predictor(member.params, images[key], member.model_state)

    return self._mean(values())

  def _mean(self, values: Iterable[np.ndarray]) -> np.ndarray:
    """Adds one by one: of large volumes only the sum and the next one are in memory."""
    return functools.reduce(np.add, values) / np.float32(len(self._parts))


def _network(model: Model) -> Callable[[tuple[Params, PyTree], np.ndarray], jax.Array]:
  def one(variables: tuple[Params, PyTree], image: jax.Array) -> jax.Array:
    params, model_state = variables
    return jax.nn.softmax(model.apply(params, image, model_state=model_state)[0].astype("float32"))

  return jax.jit(jax.vmap(one, (None, 0)))


def _same_preprocessing(first: Member, second: Member) -> None:
  one, two = first.preprocess.to_dict(), second.preprocess.to_dict()
  different = [name for name in one if one[name] != two[name] and name != "normalisation"]
  if different:
    name = different[0]
    raise InputError(
      f"networks with one grid and one set of labels ({name}={one[name]!r} of {first.name})",
      f"{name}={two[name]!r} of {second.name}",
      "predict with each run apart",
    )
