"""Networks that answer tasks of `word_sets`: by classes, by one class for all, or in words.

Not a study: what the arms of `gpc` train.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import word_sets
from medjax import data, inference, losses, nets, rng
from medjax.types import IGNORE, Array, Key, Params, PyTree


class Network(NamedTuple):
  """What an arm trains.

  Attributes:
    tasks: numbers of the tasks that it learns.
    start: `start(key, image) -> params`.
    loss: `loss(params, example, task) -> scalar` of one example.
    answer: `answer(params, image) -> numbers`, from which `read` makes the class.
    read: `read(answers [n, ...], task) -> [n]` class ids, -1 for what is no answer of the task.
  """

  tasks: tuple[int, ...]
  start: Callable[[Key, Array], Params]
  loss: Callable[[Params, PyTree, int], Array]
  answer: Callable[[Params, Array], Array]
  read: Callable[[np.ndarray, int], np.ndarray]


def _chooser(
  config: Any,
  num_outputs: int,
  tasks: tuple[int, ...],
  loss: Callable[[Array, PyTree, int], Array],
  read: Callable[[np.ndarray, int], np.ndarray],
) -> Network:
  """A network with `num_outputs` logits."""
  model = nets.from_linen(nets.SmallCNN(num_outputs, config.widths))
  return Network(
    tasks,
    lambda key, image: model.init(key, image)[0],
    lambda params, example, task: loss(model.apply(params, example["image"])[0], example, task),
    lambda params, image: model.apply(params, image)[0],
    read,
  )


def separate(config: Any, cases: word_sets.Cases) -> list[Network]:
  def loss(logits: Array, example: PyTree, task: int) -> Array:
    return losses.cross_entropy(logits, jnp.where(example["task"] == task, example["label"], 0))

  return [
    _chooser(config, len(own.texts), (number,), loss, lambda out, task: out.argmax(1))
    for number, own in enumerate(cases.tasks)
  ]


def heads(config: Any, cases: word_sets.Cases) -> list[Network]:
  ends = np.cumsum([0, *(len(task.texts) for task in cases.tasks)])
  slices = [slice(int(a), int(b)) for a, b in zip(ends[:-1], ends[1:], strict=True)]

  def loss(logits: Array, example: PyTree, task: int) -> Array:
    label = jnp.where(example["task"] == task, example["label"], 0)
    return losses.cross_entropy(logits[slices[task]], label)

  def read(out: np.ndarray, task: int) -> np.ndarray:
    return out[:, slices[task]].argmax(1)

  return [_chooser(config, int(ends[-1]), tuple(range(len(slices))), loss, read)]


def _class_of(texts: Sequence[str], task: word_sets.Task) -> np.ndarray:
  return np.array([task.texts.index(text) if text in task.texts else -1 for text in texts])


def one_head(config: Any, cases: word_sets.Cases) -> list[Network]:
  def read(out: np.ndarray, task: int) -> np.ndarray:
    return _class_of([cases.union[k] for k in out.argmax(1)], cases.tasks[task])

  def loss(logits: Array, example: PyTree, task: int) -> Array:
    return losses.cross_entropy(logits, example["union"])

  tasks = tuple(range(len(cases.tasks)))
  return [_chooser(config, len(cases.union), tasks, loss, read)]


def writer(config: Any, cases: word_sets.Cases) -> list[Network]:
  model = nets.from_linen(nets.SmallCNN(config.code, config.widths))
  decoder = nets.WordDecoder(len(cases.words), cases.length)

  def start(key: Key, image: Array) -> Params:
    words = jnp.zeros(cases.length, jnp.int32)
    own = rng.stream(key, "decoder")
    return {
      "encoder": model.init(key, image)[0],
      "decoder": decoder.init(own, jnp.zeros(config.code), words),
    }

  def loss(params: Params, example: PyTree, task: int) -> Array:
    code, text = model.apply(params["encoder"], example["image"])[0], example["text"]
    logits = decoder.apply(params["decoder"], code, text)
    assert isinstance(logits, jax.Array)
    # The first end is a word to be learnt; those behind it only fill up.
    is_over = jnp.cumsum(text == data.Vocabulary.END) > 1
    return losses.cross_entropy(logits, jnp.where(is_over, IGNORE, text))

  def answer(params: Params, image: Array) -> Array:
    run = functools.partial(decoder.apply, params["decoder"])
    first: Any = run(model.apply(params["encoder"], image)[0], method="start")
    advance: Any = functools.partial(run, method="advance")
    end, length = data.Vocabulary.END, cases.length
    return inference.beam_search(advance, *first, num_words=length, end=end).words[0]

  def read(out: np.ndarray, task: int) -> np.ndarray:
    return _class_of([cases.words.text(row) for row in out], cases.tasks[task])

  return [Network(tuple(range(len(cases.tasks))), start, loss, answer, read)]


def moved(image: Array, key: Key) -> Array:
  """A square picture mirrored, turned and moved around by an eighth of its side at most."""
  keys = jax.random.split(key, 4)
  for axis in (0, 1):
    image = jnp.where(jax.random.bernoulli(keys[axis]), jnp.flip(image, axis), image)
  image = jnp.where(jax.random.bernoulli(keys[2]), jnp.swapaxes(image, 0, 1), image)
  most = len(image) // 8
  return jnp.roll(image, jax.random.randint(keys[3], (2,), -most, most + 1), (0, 1))
