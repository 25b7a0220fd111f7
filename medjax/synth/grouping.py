"""Tables from label values to generation classes (intensities) and target classes (what is learnt).

Generation and target differ: SynthSeg draws separate intensities for skull, skin and lesions, and
teaches the network to call them background or white matter. Both are functions of the raw label.
"""

import dataclasses
from collections.abc import Hashable, Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from medjax import check
from medjax.types import IGNORE


@dataclasses.dataclass(frozen=True, eq=False)
class Grouping:
  """Lookup tables indexed by raw label value. Hashable by identity, so jit may close over it.

  Attributes:
    generation: int32 [num_labels] class of intensity; class 0 is background.
    target: int32 [num_labels] class id to learn, 0 background, `IGNORE` for none.
    mirror: int32 [num_labels] label of the other side, itself where there is none.
    is_listed: bool [num_labels] values that label maps may hold.
    target_names: names of the target classes.
  """

  generation: np.ndarray
  target: np.ndarray
  mirror: np.ndarray
  is_listed: np.ndarray
  target_names: tuple[str, ...]

  @property
  def num_generation(self) -> int:
    return int(self.generation.max()) + 1

  @property
  def num_targets(self) -> int:
    return len(self.target_names)

  def to_target(self, label: Int[Array, "*space"]) -> Int[Array, "*space"]:
    """Target class of every voxel; `IGNORE` stays. For values checked by `check_label`."""
    return _look_up(self.target, label, IGNORE)

  def to_generation(self, label: Int[Array, "*space"]) -> Int[Array, "*space"]:
    """Generation class of every voxel; `IGNORE` becomes background."""
    return _look_up(self.generation, label, 0)

  def check_label(self, label: np.ndarray) -> None:
    """Refuses a label map with values that the tables do not list (host, once per map)."""
    values = np.unique(np.asarray(label)).tolist()
    unknown = [v for v in values if not (0 <= v < len(self.is_listed) and self.is_listed[int(v)])]
    check.require(
      not unknown,
      "label values that the grouping lists",
      f"{unknown[:8]}",
      "add them to the mapping that the grouping was built from",
    )


def build(
  generation: Mapping[int, Hashable],
  target: Mapping[int, str],
  *,
  target_names: tuple[str, ...],
  sides: Mapping[int, int] | None = None,
) -> Grouping:
  """Tables from two mappings of raw label values.

  Args:
    generation: raw value -> any name; values of one name share an intensity class. The name of
      value 0 becomes class 0.
    target: raw value -> target class name; a value left out is `target_names[0]`.
    target_names: names of the target classes in the order of their ids, background first.
    sides: left value -> right value, for flips.
  Raises:
    InputError: value 0 missing, negative values, or target values or names not listed.

  >>> table = build({0: "air", 7: "brain", 9: "brain"}, {7: "brain"}, target_names=("air", "brain"))
  >>> table.to_target(jnp.array([0, 7, 9])).tolist(), table.num_generation
  ([0, 1, 0], 2)
  """
  check.require(0 in generation, "a class for value 0", f"{sorted(generation)[:4]}", "add it")
  smallest = min(generation)
  check.require(smallest >= 0, "label values >= 0", f"{smallest}", "re-encode the label maps")
  unlisted = sorted(set(target) - set(generation)) + sorted(
    {v for pair in (sides or {}).items() for v in pair} - set(generation)
  )
  check.require(not unlisted, "values with a generation class", f"{unlisted[:8]}", "add them")
  for name in target.values():
    check.one_of("target class", name, target_names)
  size = max(generation) + 1
  classes = {generation[0]: 0}
  table = np.zeros(size, np.int32)
  targets = np.zeros(size, np.int32)
  mirror = np.arange(size, dtype=np.int32)
  is_listed = np.zeros(size, bool)
  for value in sorted(generation):
    table[value] = classes.setdefault(generation[value], len(classes))
    targets[value] = target_names.index(target.get(value, target_names[0]))
    is_listed[value] = True
  for left, right in (sides or {}).items():
    mirror[left], mirror[right] = right, left
  return Grouping(table, targets, mirror, is_listed, target_names)


def identity(num_classes: int, target_names: tuple[str, ...] | None = None) -> Grouping:
  """Every class of a map 0..num_classes-1 has its own intensity and is its own target."""
  names = target_names or tuple(f"class_{c}" if c else "background" for c in range(num_classes))
  check.same_shape("target_names", (len(names),), "classes", (num_classes,))
  return build(
    {c: c for c in range(num_classes)},
    {c: names[c] for c in range(num_classes)},
    target_names=names,
  )


def _look_up(table: np.ndarray, label: Array, ignored: int) -> Array:
  values = jnp.asarray(table)[jnp.clip(label, 0, len(table) - 1)]
  return jnp.where(label == IGNORE, ignored, values)
