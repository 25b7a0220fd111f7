"""Images of several label maps that look as if one scanner had made them: a task for a support.

Domain randomisation draws every image its own contrast. The images of one task share theirs, or
nothing could be learnt from one about the other.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from medjax import check, rng
from medjax.synth.generator import Generator
from medjax.types import Key, PyTree


def generate_alike(
  config: Generator,
  key: Key,
  labels: Int[Array, " map *space"],
  *,
  spread: float | jax.Array = 0.1,
) -> tuple[Float[Array, "map *space 1"], Int[Array, " map *space"]]:
  """`generate` for several maps under one draw of class intensities.

  Each map has its own deformation, bias field and noise. The means of its classes are the common
  ones, moved by `spread` towards a draw of its own; the deviations are the common ones.

  >>> from medjax.synth import grouping
  >>> config = Generator(grouping.identity(2))
  >>> labels = jnp.stack([jnp.eye(4, dtype=jnp.int32)] * 3)
  >>> images, moved = generate_alike(config, jax.random.key(0), labels)
  >>> images.shape, moved.shape
  ((3, 4, 4, 1), (3, 4, 4))

  Args:
    config: of the generator; gamma and bias fields change contrasts from image to image, keep them
      as small as images of one scanner differ.
    key: of the task.
    labels: raw values that `config.grouping` lists.
    spread: 0: the same means in all images; 1: independent ones, as from `generate`.
  """
  if not isinstance(spread, jax.Array):
    check.in_interval("spread", spread, 0.0, 1.0)
  common_key, own_key = rng.streams(key, "common", "own")
  shape = labels.shape[1:]
  classes = (*shape, config.grouping.num_generation)
  common = config.mixture.draw(common_key, classes)

  def one(key: Key, label: Array) -> tuple[Array, Array]:
    drawn = config.draw(key, shape)
    mixture = drawn["mixture"]
    means = common.means + spread * (mixture.means - common.means)
    drawn["mixture"] = mixture._replace(means=means, stds=common.stds)
    return config.apply(drawn, label)

  return jax.vmap(one)(rng.numbered(own_key, jnp.arange(len(labels))), labels)


def render_problem(
  config: Generator, key: Key, example: PyTree
) -> tuple[Float[Array, "map *space 1"], Float[Array, " map *space"]]:
  """Images and masks of a problem of `data.support_problems`, the query first.

  Args:
    config, key: as for `generate_alike`.
    example: "maps" [map, *space] and "target", the class whose mask is asked for.
  """
  images, labels = generate_alike(config, key, example["maps"])
  return images, (labels == example["target"]).astype(jnp.float32)
