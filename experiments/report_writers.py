"""Networks that write a report of a film, and a pair of encoders that match films and reports.

Not a study: the networks and the losses of `report_generation`.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.reported_films import ReportedFilms
from medjax import data, inference, losses, methods, nets, rng, study
from medjax.data.seeds import generator
from medjax.types import IGNORE, Array, Key, Params, PyTree, Step

_DRAWN = 15  # reports of others that a film is to be told from


class Writer(NamedTuple):
  """Which parts of the method an arm has.

  Attributes:
    has_memory: whether a memory drives the norms of the decoder.
    prompt: "" for none, "random" or "learnt": the encoder whose vector stands beside the patches.
    is_told: whether a second head learns which findings the report names.
    is_shuffled: whether training reports come with their sentences in any order.
    is_rewritten: whether they come written anew from their graphs.
  """

  has_memory: bool = True
  prompt: str = ""
  is_told: bool = False
  is_shuffled: bool = False
  is_rewritten: bool = False


def moved(image: Array, key: Key) -> Array:
  """A film moved around by a sixteenth of its side at most: the paper's random crop of 7/8."""
  most = len(image) // 16
  return jnp.roll(image, jax.random.randint(key, (2,), -most, most + 1), (0, 1))


class Problem:
  """Networks and Steps of all arms: two programs, one with a memory and one without.

  What else tells arms apart is data: a prompt of zeros says nothing, and a head whose findings are
  all unknown learns nothing. So those arms have the same parameters and cost the same.
  """

  def __init__(self, config: Any, films: ReportedFilms, rows: Sequence[int]):
    """Makes the networks of `config` for films of which `rows` train."""
    self.config, self.films, self.code = config, films, config.widths[-1]
    known = [own[i] for own in films.texts.values() for i in rows]
    self.words = data.Vocabulary(films.wording or known)
    self.length = films.max_words + 1
    self.encoder = nets.SmallCNN(films.states.shape[1], config.widths)
    self.matched = nets.SmallCNN(self.code, config.widths)
    shape = films.image.shape[1:]
    self.patches = nets.features(self.encoder, f"GroupNorm_{len(config.widths) - 1}")
    params = jax.eval_shape(self.encoder.init, jax.random.key(0), jnp.zeros(shape))["params"]
    seen = jax.eval_shape(self.patches, params, jnp.zeros(shape)).shape
    self.num_prefix = int(np.prod(seen[:-1])) + 1
    self.steps = {own: methods.supervised(self._loss(own), self._adam()) for own in (False, True)}

  def _adam(self) -> optax.GradientTransformation:
    return optax.adam(self.config.learning_rate)

  def numbers(self, text: str) -> np.ndarray:
    return self.words.numbers(text, self.length)

  # --- the network that writes

  def decoder(self, has_memory: bool) -> nets.WordDecoder:
    return nets.WordDecoder(
      len(self.words),
      self.length,
      self.config.decoder_width,
      self.config.num_layers,
      num_prefix=self.num_prefix,
      num_slots=self.config.num_slots if has_memory else 0,
    )

  def start(self, has_memory: bool, key: Key) -> Params:
    own, image = rng.stream(key, "parameters"), jnp.asarray(self.films.image[0])
    vectors = jnp.zeros((self.num_prefix, self.code))
    words = jnp.zeros(self.length, jnp.int32)
    decoder = jax.jit(self.decoder(has_memory).init)
    return {
      "encoder": jax.jit(self.encoder.init)(own, image)["params"],
      "decoder": decoder(rng.stream(own, "decoder"), vectors, words),
    }

  def _vectors(self, params: Params, example: PyTree) -> Array:
    """Patches of the film and the prompt, [num_prefix, code]."""
    patches = self.patches(params["encoder"], example["image"]).reshape(-1, self.code)
    return jnp.concatenate([patches, example["prompt"][None]])

  def _loss(self, has_memory: bool) -> Any:
    decoder = self.decoder(has_memory)

    def loss(params: Params, example: PyTree, key: Key) -> Array:
      which, where = rng.streams(key, "text", "film")
      text = example["texts"][jax.random.randint(which, (), 0, self.config.num_variants)]
      example = {**example, "image": moved(example["image"], where)}
      logits: Any = decoder.apply(params["decoder"], self._vectors(params, example), text)
      # The first end is a word to be learnt; those behind it only fill up.
      is_over = jnp.cumsum(text == data.Vocabulary.END) > 1
      named: Any = self.encoder.apply({"params": params["encoder"]}, example["image"])
      second = losses.binary_cross_entropy(named, example["named"])
      return losses.cross_entropy(logits, jnp.where(is_over, IGNORE, text)) + second

    return loss

  def answers(self, has_memory: bool) -> Any:
    """(params, store of films) -> numbers of the words [n, word], compiled."""
    decoder = self.decoder(has_memory)

    def answer(params: Params, example: PyTree) -> Array:
      run = functools.partial(decoder.apply, params["decoder"])
      first: Any = run(self._vectors(params, example), method="start")
      advance: Any = functools.partial(run, method="advance")
      how: Any = {"num_words": self.length, "end": data.Vocabulary.END}
      return inference.beam_search(advance, *first, num_beams=self.config.num_beams, **how).words[0]

    return jax.jit(jax.vmap(answer, (None, 0)))

  def inputs(self, writer: Writer, rows: Any, prompts: np.ndarray) -> dict[str, np.ndarray]:
    """What a network is given of films `rows`; `prompts` [n, code] are of all films."""
    prompt = prompts[np.asarray(rows)] * bool(writer.prompt)
    return {"image": self.films.image[np.asarray(rows)], "prompt": prompt.astype(np.float32)}

  def store(
    self, writer: Writer, language: str, rows: Any, prompts: np.ndarray, seed: int
  ) -> dict[str, np.ndarray]:
    """And what it learns of them: the findings that a report names, and texts."""
    told = np.where(writer.is_told, self.films.states[np.asarray(rows)] > 0, IGNORE)
    texts = np.stack([self._variants(writer, language, i, seed) for i in rows])
    own = {"named": told.astype(np.int32), "texts": texts}
    return self.inputs(writer, rows, prompts) | own

  def _variants(self, writer: Writer, language: str, index: int, seed: int) -> np.ndarray:
    text, reading = self.films.texts[language][index], self.films.readings[language]
    found = []
    for number in range(self.config.num_variants):
      random, own = generator(seed, f"variant {number} {language}", int(index)), text
      if writer.is_rewritten and reading.rewritten is not None:
        own = reading.rewritten(own, random)
      if writer.is_shuffled:
        own = reading.shuffled(own, random)
      found.append(self.numbers(own if number else text))
    return np.stack(found)

  # --- the prompt: encoders that match films and reports

  def matcher_start(self, key: Key) -> Params:
    film, *own = rng.streams(rng.stream(key, "matcher"), "film", "word", "before")
    table = (len(self.words), self.code)
    word, before = (jax.random.normal(one, table) for one in own)
    start = jax.jit(self.matched.init)(film, jnp.asarray(self.films.image[0]))["params"]
    return {"film": start, "word": word, "before": before}

  def matcher(self, language: str, rows: Any) -> tuple[Step, dict[str, np.ndarray]]:
    """A Step that tells the report of a film from those of others, and what it is trained on.

      -log softmax(cos(f, t_own) / T, cos(f, t_1) / T, ...)_own,   T = 0.1,

    over reports of others that are drawn. One with the same graph is left out: it is right, too.
    """
    place = np.asarray(rows)
    texts = np.stack([self.numbers(self.films.texts[language][i]) for i in place])
    graphs = np.unique(self.films.states[place], axis=0, return_inverse=True)[1].reshape(-1)
    others, names = jnp.asarray(texts), jnp.asarray(graphs)

    def loss(params: Params, example: PyTree, key: Key) -> Array:
      which, where = rng.streams(key, "others", "film")
      drawn = jax.random.randint(which, (_DRAWN,), 0, len(others))
      beside = jnp.concatenate([example["text"][None], others[drawn]])
      found = jax.vmap(functools.partial(self._text_vector, params))(beside)
      alike = found @ self.film_vector(params, moved(example["image"], where)) / 0.1
      is_right = jnp.append(False, names[drawn] == example["graph"])
      return -jax.nn.log_softmax(jnp.where(is_right, -jnp.inf, alike))[0]

    held = {"image": self.films.image[place], "text": texts, "graph": graphs.astype(np.int32)}
    return methods.supervised(loss, self._adam()), held

  def match_jobs(
    self, rows: Sequence[int], cells: Sequence[tuple[int, str]]
  ) -> dict[tuple[int, str], study.Job]:
    """Trainings of the prompts' encoders, one a seed and language."""
    made, found = {language: self.matcher(language, rows) for _, language in cells}, {}
    for seed, language in cells:
      key, (step, held) = jax.random.key(seed), made[language]
      stream = data.batches(held, self.config.batch_size, key, name="matches")
      name, start = f"matcher-{language}-{seed}", self.matcher_start(key)
      found[seed, language] = study.Job(name, step, stream, start, key, self.config.num_matches)
    return found

  def film_vector(self, params: Params, image: Array) -> Array:
    found: Any = self.matched.apply({"params": params["film"]}, image)
    return found / jnp.maximum(jnp.linalg.norm(found), 1e-6)

  def _text_vector(self, params: Params, text: Array) -> Array:
    """Each word together with the one before it, so that "no effusion" is no "effusion"."""
    is_word = text != data.Vocabulary.END
    before = jnp.concatenate([jnp.zeros(1, text.dtype), text[:-1]])
    pairs = jnp.tanh(params["word"][text] + params["before"][before])
    total = jnp.where(is_word[:, None], pairs, 0.0).sum(0)
    return total / jnp.maximum(jnp.linalg.norm(total), 1e-6)

  def prompts(self, params: Params) -> np.ndarray:
    """[n, code] of all films, entries of about 1, by an encoder that is not trained further."""
    found = jax.jit(jax.vmap(self.film_vector, (None, 0)))(params, self.films.image)
    return np.asarray(found) * np.float32(np.sqrt(self.code))
