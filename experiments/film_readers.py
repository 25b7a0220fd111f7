"""Networks that read a radiograph, with or without its text and the gaze of a reader.

Not a study: the networks and the losses of `gaze_report`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import radiographs
from medjax import explain, losses, methods, nets, rng
from medjax.types import Array, Key, Params, PyTree, Step


class Reader(NamedTuple):
  """What a network is given, and what is asked of it.

  Attributes:
    text: "indication", "findings" or "report"; "" for none.
    by: how it reads the text, see `nets.ImageText`.
    draws: whether it also draws where the reader looked.
    sees: whether it is given the film.
  """

  text: str = ""
  by: Any = "none"
  draws: bool = False
  sees: bool = True


class Problem:
  """The networks of all arms and their Steps."""

  def __init__(self, config: Any, films: radiographs.Films):
    self.config, self.films, self.tx = config, films, optax.adam(config.learning_rate)
    self._inits: dict[Reader, Any] = {}  # one program a reader, whatever the number of seeds

  def network(self, reader: Reader) -> nets.ImageText:
    return nets.ImageText(
      len(radiographs.CLASSES),
      self.config.widths,
      text=reader.by,
      num_states=self.config.num_states,
      has_map=reader.draws,
      sees_image=reader.sees,
    )

  def inputs(self, reader: Reader, example: PyTree) -> tuple[Array, Array, Array]:
    """Film, vectors of its words, and which of them are words."""
    numbers = jnp.asarray(example[reader.text or "indication"])
    return example["image"], jnp.asarray(self.films.vectors)[numbers], numbers >= 0

  def store(self, rows: Any) -> dict[str, np.ndarray]:
    films, place = self.films, np.asarray(rows)
    texts = {name: values[place] for name, values in films.texts.items()}
    found = {"image": films.image, "label": films.label, "gaze": films.gaze, "box": films.box}
    return {name: values[place] for name, values in found.items()} | texts | {"index": place}

  def start(self, reader: Reader, key: Key) -> Params:
    first = jax.tree.map(lambda x: x[0], self.store([0]))
    own = rng.stream(key, "parameters")
    init = self._inits.setdefault(reader, jax.jit(self.network(reader).init))
    return init(own, *self.inputs(reader, first))["params"]

  def read(self, reader: Reader, params: Params, example: PyTree) -> nets.ImageTextOutput:
    found: Any = self.network(reader).apply({"params": params}, *self.inputs(reader, example))
    return found

  def step(self, reader: Reader) -> Step:
    def told(params: Params, example: PyTree, key: Key) -> Array:
      del key
      return losses.cross_entropy(self.read(reader, params, example).logits, example["label"])

    def drawn(params: Params, example: PyTree, key: Key) -> Array:
      del key
      heat = self.read(reader, params, example).heat.ravel()
      return -(example["gaze"].ravel() * jax.nn.log_softmax(heat)).sum()

    if not reader.draws:
      return methods.supervised(told, self.tx)
    return methods.multitask(
      {"class": told, "gaze": drawn}, self.tx, shared=lambda path: path.startswith("encoder")
    )

  def looked(self, reader: Reader, params: Params, example: PyTree) -> tuple[Array, Array]:
    """Logits, and the map in grey levels: what it draws, or else GradCAM for pneumonia."""
    found, inputs = self.read(reader, params, example), self.inputs(reader, example)
    values = jax.nn.softmax(found.heat.ravel()).reshape(found.heat.shape)
    if not reader.draws:
      network, layer = self.network(reader), f"encoder{max(len(self.config.widths) - 2, 0)}"
      rest = nets.from_features(network, layer)
      values = explain.gradcam(
        lambda seen: rest(params, seen, *inputs).logits[radiographs.PNEUMONIA],
        nets.features(network, layer)(params, *inputs),
      )
    return found.logits, explain.picture(values, inputs[0].shape[:2])

  def program(self, reader: Reader) -> Any:
    """`looked` of many films at once, compiled: (params, store) -> (logits, maps)."""
    looked = lambda params, example: self.looked(reader, params, example)  # noqa: E731
    return jax.jit(jax.vmap(looked, (None, 0)))
