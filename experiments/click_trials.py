"""Networks that answer clicks: their loss on simulated clicks, and sessions of clicks and answers.

Not a study: what `experiments.click_sam` trains and tests.
"""

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import click_sets, painted_prompts, prompt_mosaics
from experiments.click_sets import Targets
from experiments.grouped_prompts import mask_loss
from medjax import data, losses, methods, nets, rng, study
from medjax.ops import NO_CLICK, Click, next_click, random_click
from medjax.types import Array, Key, Params, PyTree

Choose = Callable[[Array, Array, Array], Click]
"""`choose(number of the click, answer so far, pixels clicked already)`, masks [row, column]."""
Cost = Callable[[Array, Array], Array]
"""`cost(logits, truth)`, both [row, column]."""


def normalised_focal(logits: Array, truth: Array) -> Array:
  both = jnp.stack([jnp.zeros_like(logits), logits], -1)
  return losses.normalised_focal(both, truth.astype(jnp.int32))


COSTS: dict[str, Cost] = {"overlap": mask_loss, "focal": normalised_focal}  # of a setting's names


class Asked:
  """A promptable segmenter that is asked by clicks, each with the last answer as a prompt, too.

  Args:
    module: of one mask or more; mask 0 answers.
    side: of the pictures.
    num_clicks: of a test.
    num_corrections: most clicks of a training after the first.
  """

  def __init__(
    self, module: nets.PromptableSegmenter, side: int, num_clicks: int, num_corrections: int
  ):
    self.net, self.side = nets.promptable(module), side
    self.decode = painted_prompts.refined(self.net, side)
    self.num_clicks, self.num_corrections = num_clicks, num_corrections

  def answer(self, params: Params, embedding: Array, clicks: Click, mask: Array | None) -> Array:
    """Logits on the decoder's grid, [h, w, 1]; `mask` those of the answer before."""
    # SAM puts a token of no point behind clicks that come without a box.
    places = jnp.concatenate([clicks.place, jnp.zeros((1, 2))])
    labels = jnp.append(clicks.label, nets.NOT_A_POINT)
    return self.decode(params, embedding, nets.Prompts(places, labels, mask)).logits[..., :1]

  def large(self, logits: Array) -> Array:
    """[side, side] logits on the picture's grid."""
    return jax.image.resize(logits[..., 0], (self.side, self.side), "linear")

  # --- training

  def loss(self, params: Params, example: PyTree, key: Key, *, cost: Cost = mask_loss) -> Array:
    """Of the answers to a first random click, and to the last of 1 to `num_corrections` more.

    The clicks between are answered by the weights of the moment and pass no gradient on. An
    example holds an "embedding", or without it an "image" whose embedding is trained, too.
    """
    truth, most = example["mask"], self.num_corrections
    key_first, key_count, key_clicks = jax.random.split(key, 3)
    if "embedding" in example:
      embedding = example["embedding"]
    else:
      embedding = self.net.embed(params, example["image"])
    clicks = _placed(_none(most + 1), 0, random_click(truth, key_first))
    first = self.answer(params, embedding, clicks, None)
    held, seen = jax.lax.stop_gradient((params, embedding))
    between = jax.random.randint(key_count, (), 0, most)

    def turn(carry: Any, at: Any) -> Any:
      clicks, logits = carry
      number, key = at
      is_made = number <= between
      found = self.large(logits) > 0
      click = next_click(found, truth, key=key)
      click = click._replace(label=jnp.where(is_made, click.label, NO_CLICK))
      clicks = _placed(clicks, number, click)
      answered = self.answer(held, seen, clicks, logits)
      return (clicks, jnp.where(is_made, answered, logits)), None

    keys = jax.random.split(key_clicks, most)
    start = (clicks, jax.lax.stop_gradient(first))
    numbers = jnp.arange(1, most)
    (clicks, logits), _ = jax.lax.scan(turn, start, (numbers, keys[:-1]))
    click = next_click(self.large(logits) > 0, truth, key=keys[-1])
    last = self.answer(params, embedding, _placed(clicks, most, click), logits)
    return (cost(self.large(first), truth) + cost(self.large(last), truth)) / 2

  # --- tests

  def session(self, params: Params, embedding: Array, truth: Array, choose: Choose) -> Array:
    """[num_clicks] intersection over union after each click; where none was made, as before."""

    def overlap(logits: Array) -> Array:
      found = self.large(logits) > 0
      return (found & truth).sum() / (found | truth).sum()

    def mark(clicked: Array, click: Click) -> Array:
      x, y = jnp.round(click.place).astype(jnp.int32)
      return clicked.at[y, x].max(click.label != NO_CLICK)

    empty = jnp.zeros(truth.shape, bool)
    click = choose(jnp.int32(0), empty, empty)
    clicks = _placed(_none(self.num_clicks), 0, click)
    logits = self.answer(params, embedding, clicks, None)

    def turn(carry: Any, number: Array) -> Any:
      clicks, clicked, logits = carry
      click = choose(number, self.large(logits) > 0, clicked)
      clicks = _placed(clicks, number, click)
      answered = self.answer(params, embedding, clicks, logits)
      logits = jnp.where(click.label != NO_CLICK, answered, logits)
      return (clicks, mark(clicked, click), logits), overlap(logits)

    start = (clicks, mark(empty, click), logits)
    _, later = jax.lax.scan(turn, start, jnp.arange(1, self.num_clicks))
    return jnp.concatenate([overlap(logits)[None], later])

  def sessions(self) -> dict[str, Callable[..., np.ndarray]]:
    """Compiled sessions of many pictures, [picture, click], by who clicks.

    "simulated": the middle of the largest error. "random": anywhere, told rightly whether on the
    object, after a first click on it. "people": given places and labels. Each is called with
    (params, embeddings, masks, places, labels), of which the last two only "people" looks at.
    """

    def simulated(truth: Array, *given: Any) -> Choose:
      return lambda number, found, clicked: next_click(found, truth, clicked=clicked)

    def anywhere(truth: Array, key: Key, *given: Any) -> Choose:
      def choose(number: Array, found: Array, clicked: Array) -> Click:
        own = jax.random.fold_in(key, number)
        wanted = jnp.where(number == 0, truth, ~clicked)
        click = random_click(wanted, own)
        x, y = click.place.astype(jnp.int32)
        return click._replace(label=truth[y, x].astype(jnp.int32))

      return choose

    def people(truth: Array, key: Key, places: Array, labels: Array) -> Choose:
      far = len(labels) - 1
      return lambda number, found, clicked: Click(
        places[jnp.minimum(number, far)],
        jnp.where(number > far, NO_CLICK, labels[jnp.minimum(number, far)]),
      )

    def program(policy: Callable[..., Choose]) -> Callable[..., np.ndarray]:
      one = jax.jit(
        lambda params, embedding, truth, key, *given: self.session(
          params, embedding, truth, policy(truth, key, *given)
        )
      )

      def run(params: Params, embeddings: Any, masks: Any, places: Any, labels: Any) -> np.ndarray:
        keys = jax.random.split(jax.random.key(0), len(masks))
        given = zip(embeddings, masks, keys, places, labels, strict=True)
        return np.stack([np.asarray(one(params, *own)) for own in given])

      return run

    kinds = {"simulated": simulated, "random": anywhere, "people": people}
    return {name: program(policy) for name, policy in kinds.items()}


def pretrained(config: Any, asked: Asked, directory: Any, seed: int) -> study.Trained:
  """The small segmenter, trained by clicks on regions and objects of which they choose one."""
  own = prompt_mosaics.by_clicks(1200, config.size, seed + 1000)
  key = jax.random.key(seed + 1000)
  first = asked.net.init(rng.stream(key, "parameters"), jnp.asarray(own["image"][0]))
  start = painted_prompts.local(first)
  rate = optax.cosine_decay_schedule(1e-3, config.num_pretraining)
  step = methods.supervised(asked.loss, optax.adam(rate))
  stream = data.batches(own, config.batch_size, key)
  job = study.Job(f"pretraining-{seed}", step, stream, start, key, config.num_pretraining)
  return study.train_job(job, directory, log_every=config.log_every)


def overlaps(
  answers: Any, embed: Any, targets: Targets, who: str, params: Params, *, by_people: bool
) -> np.ndarray:
  """[annotator or 1, picture, click] IoU.

  Args:
    answers: of `Asked.sessions`.
    embed: `embed(params, images)`.
    targets: pictures.
    who: clicks, a name of `answers`.
    params: of the network.
    by_people: the pictures are asked with as many clicks as each annotator made, and the IoU after
      the last of them is all that is given.
  """
  embeddings = np.asarray(embed({"encoder": params["encoder"]}, targets.image))
  count = len(targets.mask)
  run = functools.partial(answers[who], params, embeddings, targets.mask)
  if not by_people:
    return run(np.zeros(count), np.zeros(count))[None]
  assert targets.places is not None and targets.labels is not None
  found = [
    run(targets.places[:, a], targets.labels[:, a])
    for a in range(click_sets.ANNOTATORS if who == "people" else 1)
  ]
  every = np.stack(found * (click_sets.ANNOTATORS // len(found)))
  number = (targets.labels != NO_CLICK).sum(-1).T  # [annotator, picture]
  last = np.clip(number, 1, every.shape[-1]) - 1
  return np.take_along_axis(every, last[..., None], -1)


def seconds(asked: Asked, params: Params, own: Targets) -> dict[str, float]:
  """Of the encoder, once a picture, and of a click's answer; the best of five."""
  embed, answer = jax.jit(asked.net.embed), jax.jit(asked.answer)
  click = jax.tree.map(lambda x: x[None], next_click(np.zeros_like(own.mask[0]), own.mask[0]))
  embedding = embed(params, own.image[0])
  logits = answer(params, embedding, click, None)

  def best(run: Any) -> float:
    jax.block_until_ready(run())
    spans = []
    for _ in range(5):
      began = time.perf_counter()
      jax.block_until_ready(run())
      spans.append(time.perf_counter() - began)
    return min(spans)

  return {
    "encoder": best(lambda: embed(params, own.image[0])),
    "click": best(lambda: answer(params, embedding, click, logits)),
  }


def _none(count: int) -> Click:
  """Clicks that nobody sees."""
  return Click(jnp.zeros((count, 2)), jnp.full(count, NO_CLICK, jnp.int32))


def _placed(clicks: Click, number: Any, click: Click) -> Click:
  return Click(clicks.place.at[number].set(click.place), clicks.label.at[number].set(click.label))
