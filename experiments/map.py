"""MAP: do episodes over made-up appearances teach shapes, and is a meta-gradient needed?

Hu et al., "Domain Generalization via Meta-Learning on Anatomy-Consistent Pseudo-Modalities" (2023):
a picture is shown in other ways that keep its vessels; a network learns from one of them and is
held to mixtures of the others, with features that are alike within a picture and apart between
pictures. Claims: plain training < decorrelation < episodes and decorrelation < all three terms, and
far sites gain most.

  python -m experiments.map demo       simulated trees, three appearances unseen, 2 seeds; about 5
                                       minutes
  python -m experiments.map evidence   all arms, 5 seeds; about 25 minutes
  python -m experiments.map folders --data SITE1 --data SITE2 --train_on SITE1
                                       your nnU-Net folders of PNG files, background and vessel
  python -m experiments.map retina --data retina --data retina_drive --data OCTA500 --data STARE
                                       eye grounds train, angiographies and others are unseen; about
                                       15 minutes

Times are estimates for 2 CPU cores. Published mean Dice: none .630, decorrelation .660, episodes
.652, with similarity .668, with decorrelation .681, both .694. The paper speaks of meta-learning;
its released code makes an epoch of plain updates and then one on the mixtures, on the same weights
("map"). The arms "map-first" and "map-exact" look ahead and go back, without and with the second
derivative.

Compute: the alternation makes one gradient an update, of one view and of mixtures in turn, the look
ahead both and more. "map-long" is the alternation with as many updates as cost what "map-exact"
costs; operations are counted by the compiler, those of an alternation as the mean over its phases.
"mixed" is the control: mixtures without episodes. The learning rate is halved `halvings` times, as
in the paper, in every arm: an alternation at a constant rate ends with what its last phase taught
and has forgotten the other (here .88 before and .13 after ten updates).

Appearances are analytic maps (`vessel_sets.views`). "mixed-nets" and "map-nets" take those of three
networks trained on vessels alone (`vessel_looks`), as the paper does; the networks are trained once
for each set of sites, on the people that train, and are not counted as compute.

DEVIATIONS: cross-entropy and soft Dice (the released Dice is of argmax and has no
gradient); terms are means, not sums, so that sizes do not matter; pictures that are told apart are
four of a group; a small U-Net on small pictures.

results.json: the common schema of `study.results` in the roles of `left_out_sites`; by_site.<arm>;
updates.<arm>.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import left_out, left_out_sites, vessel_looks, vessel_sets
from medjax import check, cli, data, losses, methods, nets, rng, study
from medjax.methods import episodic
from medjax.train import RunDirectory
from medjax.types import Array, Key, Params, PyTree, Source, Step, TrainState

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(left_out_sites.Settings):
  """Networks that outline vessels in appearances they have never seen."""

  num_seeds: int = 2
  num_pictures: int = 40  # simulated pictures a site
  size: int = 48  # side of a picture in pixels
  arms: tuple[str, ...] = ("erm", "mixed", "decorrelated", "episodes", "map", "map-first")
  widths: tuple[int, ...] = (8, 16)  # channels of the U-Net's levels
  num_steps: int = 200  # updates
  halvings: int = 5  # of the learning rate over a training
  look_steps: int = 200  # updates of each network that makes up an appearance
  batch_size: int = 4  # pictures an update, a multiple of `group`
  group: int = 4  # pictures that are told apart
  num_mixtures: int = 2  # of each picture in an update
  alpha: float = 1.0  # of the Dirichlet distribution of mixtures
  learning_rate: float = 3e-3  # Adam's
  rate: float = 0.05  # of the look ahead
  period: int = 10  # updates of a phase of the alternation
  similarity: float = 1.0  # weight of the distance to the anchor
  decorrelation: float = 1.0  # weight of the cosines
  eval_every: int = 100
  train_on: tuple[str, ...] = ("known",)  # sites that train; () leaves each out in turn
  choose: Literal["best", "last"] = "last"  # weights: best on validation people of sources, or last
  resample: bool = False  # sites come equally often

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)
    check.require(
      self.group > 1 and self.batch_size % self.group == 0,
      "a batch of whole groups of two pictures or more",
      f"batch_size={self.batch_size}, group={self.group}",
      "pass for example --batch_size 8 --group 4",
    )


# --- model and arms


class Task:
  """The network, its views of a group of pictures, and the three terms."""

  def __init__(self, config: Config, whole: Source | None):
    del whole
    self.config = config
    self.module = nets.UNet(2, config.widths, num_convs=1)
    self.num_steps = {arm: config.num_steps for arm in ARMS}
    if "map-long" in config.arms:
      ratio = self.flops("map-exact") / self.flops("map")
      self.num_steps["map-long"] = round(config.num_steps * ratio)

  def tx(self, num_steps: int) -> optax.GradientTransformation:
    """Adam, whose rate is halved `halvings` times in so many updates of its own."""
    every = max(num_steps // (self.config.halvings + 1), 1)
    rate = optax.exponential_decay(self.config.learning_rate, every, 0.5, staircase=True)
    return optax.adam(rate, eps_root=1e-12)

  def flops(self, arm: str) -> float:
    """Operations of an update; of an alternation the mean over its two phases."""
    terms = _TERMS.get(arm)
    if terms is not None:
      found = [study.flops(step, *self.shapes) for step in (self.first(), self.mixed(*terms))]
      return float(np.mean(found))
    return study.flops(ARMS[arm].make(self), *self.shapes)

  @functools.cached_property
  def shapes(self) -> tuple[PyTree, PyTree]:
    """Shapes of the parameters and of a batch."""
    size, number = self.config.size, self.config.batch_size
    image = jax.ShapeDtypeStruct((size, size, 1), jnp.float32)
    params = jax.eval_shape(self.module.init, jax.random.key(0), image)["params"]
    views = jax.ShapeDtypeStruct((number, vessel_looks.NUM_LOOKS, *image.shape), jnp.float32)
    batch = {
      "image": jax.ShapeDtypeStruct((number, *image.shape), jnp.float32),
      "views": views,
      "looks": views,
      "label": jax.ShapeDtypeStruct((number, size, size), jnp.int32),
      "index": jax.ShapeDtypeStruct((number,), jnp.int32),
      "draw": jax.ShapeDtypeStruct((number,), jnp.int32),
    }
    return params, batch

  def start(self, arm: str, key: Key, image: Array) -> Params:
    del arm  # all start from the same weights
    return jax.jit(self.module.init)(rng.stream(key, "parameters"), image)["params"]

  def logits(self, params: Params, image: Array) -> Array:
    return self.seen(params, image)[0]

  def seen(self, params: Params, image: Array) -> tuple[Array, Array]:
    """Logits, and features before the last layer."""
    found: Any = self.module.apply(
      {"params": params},
      image,
      capture_intermediates=lambda own, method: own.name == "decoder0" and method == "__call__",
    )
    return found[0], found[1]["intermediates"]["decoder0"]["__call__"][0][0]

  def segment(self, logits: Array, label: Array) -> Array:
    """Mean over pictures [..., height, width, class] of cross-entropy and soft Dice."""
    logits = logits.reshape(-1, *logits.shape[-3:])
    label = label.reshape(-1, *label.shape[-2:])
    each = jax.vmap(lambda x, y: losses.cross_entropy(x, y) + losses.soft_dice(x, y))
    return each(logits, label).mean()

  def mixtures(self, example: PyTree, key: Key) -> Array:
    """[picture, mixture, height, width, 1] of the picture itself and all views but the first."""
    bases = jnp.concatenate([example["image"][:, None], example["views"][:, 1:]], 1)
    pictures, number = bases.shape[:2]
    alpha = jnp.full(number, self.config.alpha)
    shares = jax.random.dirichlet(key, alpha, (pictures, self.config.num_mixtures))
    return jnp.einsum("pmk,pkhwc->pmhwc", shares, bases)

  def on_first_view(self, params: Params, example: PyTree, key: Key) -> Array:
    del key
    logits = jax.vmap(self.logits, (None, 0))(params, example["views"][:, 0])
    return self.segment(logits, example["label"])

  def on_mixtures(
    self, params: Params, anchor: Params, example: PyTree, key: Key, *, terms: Sequence[str]
  ) -> Array:
    shown = self.mixtures(example, key)
    run = jax.vmap(jax.vmap(self.seen, (None, 0)), (None, 0))
    logits, z = run(params, shown)
    label = jnp.broadcast_to(example["label"][:, None], logits.shape[:-1])
    total = self.segment(logits, label)
    if "similarity" in terms:
      held = jax.vmap(self.seen, (None, 0))(anchor, example["views"][:, 0])[1]
      total = total + self.config.similarity * losses.view_similarity(z, held)
    if "decorrelation" in terms:
      total = total + self.config.decorrelation * losses.decorrelation(z)
    return total

  def plain(self) -> Step:
    def loss_fn(params: Params, example: PyTree, key: Key) -> Array:
      del key
      logits = jax.vmap(self.logits, (None, 0))(params, example["image"])
      return self.segment(logits, example["label"])

    return self.grouped(methods.supervised(loss_fn, self.tx(self.config.num_steps)))

  def first(self) -> Step:
    """One view alone: the first phase of an alternation, whose operations are counted."""
    return self.grouped(methods.supervised(self.on_first_view, self.tx(self.config.num_steps)))

  def mixed(self, *terms: str, views: str = "views") -> Step:
    def loss_fn(params: Params, example: PyTree, key: Key) -> Array:
      return self.on_mixtures(params, params, example, key, terms=terms)

    return self.grouped(methods.supervised(loss_fn, self.tx(self.config.num_steps)), views)

  def episodes(
    self, mode: episodic.EpisodeMode, *terms: str, views: str = "views", arm: str = "map"
  ) -> Step:
    test = functools.partial(self.on_mixtures, terms=terms)
    # Each phase of an alternation has an optimiser of its own, which makes half of the updates.
    own = self.num_steps[arm] // 2 if mode == "alternate" else self.num_steps[arm]
    step = episodic.episodic(
      self.on_first_view, test, self.tx(own), mode=mode, rate=self.config.rate,
      period=self.config.period,
    )  # fmt: skip
    return self.grouped(step, views)

  def grouped(self, step: Step, views: str = "views") -> Step:
    """The Step on groups of pictures, each group one example."""
    size = self.config.group

    def update(state: TrainState, batch: PyTree, key: Key) -> Any:
      groups = {
        name: batch[key].reshape(-1, size, *batch[key].shape[1:])
        for name, key in (("image", "image"), ("views", views), ("label", "label"))
      }
      # A group takes the key of its first picture, whose draw no other group has.
      first = {name: batch[name][::size] for name in ("index", "draw")}
      return step.update(state, {**groups, **first}, key)

    return dataclasses.replace(step, update=update)


_ALL = ("similarity", "decorrelation")
_TERMS: dict[str, tuple[str, ...]] = {
  "episodes": (), "episodes-dec": ("decorrelation",), "map": _ALL, "map-long": _ALL,
  "map-nets": _ALL,
}  # fmt: skip
"""The arms that alternate, and the terms of their second phase."""
ARMS = study.arms(
  study.Arm("erm", "the pictures as they are", Task.plain),
  study.Arm("mixed", "mixtures of views, no episodes", Task.mixed),
  study.Arm("decorrelated", "mixtures, cosines apart", lambda t: t.mixed("decorrelation")),
  study.Arm("episodes", "one view, then mixtures, in turn", lambda t: t.episodes("alternate")),
  study.Arm("episodes-dec", "the same, cosines apart",
            lambda t: t.episodes("alternate", "decorrelation")),
  study.Arm("map", "the same, features near the anchor", lambda t: t.episodes("alternate", *_ALL)),
  study.Arm("map-first", "look ahead, first order", lambda t: t.episodes("first_order", *_ALL)),
  study.Arm("map-exact", "look ahead, exact", lambda t: t.episodes("exact", *_ALL)),
  study.Arm("map-long", "the alternation for what the exact one costs",
            lambda t: t.episodes("alternate", *_ALL, arm="map-long")),
  study.Arm("mixed-nets", "mixtures of what networks make up", lambda t: t.mixed(views="looks")),
  study.Arm("map-nets", "all terms on what networks make up",
            lambda t: t.episodes("alternate", *_ALL, views="looks")),
)  # fmt: skip

# --- questions, written down before the run

_SPREAD = (("subject", 0.1), ("seed", 0.03))


def _ask(text: str, reference: str, arms: tuple[str, ...], expects: Any) -> study.Question:
  return study.Question(text, reference, arms, "dice", "unseen", expects, _SPREAD)


QUESTIONS = (
  _ask("Do mixtures of views help on appearances unseen?", "erm", ("mixed",), "better"),
  _ask("Does decorrelation help?", "mixed", ("decorrelated",), "better"),
  _ask("Do episodes help by themselves?", "mixed", ("episodes",), "better"),
  _ask("Do episodes add to decorrelation?", "decorrelated", ("episodes-dec",), "better"),
  _ask("Does similarity add to both?", "episodes-dec", ("map",), "better"),
  _ask("Is MAP above mixtures alone?", "mixed", ("map",), "better"),
  _ask("Is a meta-gradient better than the alternation?", "map", ("map-first", "map-exact"),
       "open"),
  _ask("Does the second derivative matter?", "map-first", ("map-exact",), "open"),
  _ask("Is the exact meta-gradient better than the alternation at equal compute?", "map-long",
       ("map-exact",), "open"),
  _ask("Are appearances by networks better than analytic ones?", "mixed", ("mixed-nets",), "open"),
  _ask("The same under all terms?", "map", ("map-nets",), "open"),
)  # fmt: skip
PRESETS = {
  "demo": Config(),
  "evidence": Config(arms=tuple(ARMS), num_seeds=5, num_steps=400),
  "folders": Config(size=96, num_steps=1000, batch_size=8, widths=(8, 16, 32), train_on=()),
  "retina": Config(
    size=96, num_seeds=2, arms=("erm", "mixed", "decorrelated", "map"),
    train_on=("retina", "retina_drive"),
    known="Published Dice on angiographies: none .73, all terms .79; other sites in other sizes.",
  ),
}  # fmt: skip

# --- data and the run


def load(config: Config, options: cli.RunOptions) -> dict[str, Source]:
  """The sites by name."""
  if options.preset in ("demo", "evidence"):
    study.paths_of(options.data, 0)
    number, size, seed = config.num_pictures, config.size, options.seed
    return {a: vessel_sets.tree(number, size, seed, a) for a in vessel_sets.APPEARANCES}
  paths = tuple(path.resolve() for path in study.paths_of(options.data, None))
  return vessel_sets.folders(paths, config.size)


def held(whole: Source, rows: Sequence[int]) -> dict[str, np.ndarray]:
  """Pictures, their views and vessels."""
  cases = data.stack(whole, rows)
  return {
    "image": cases.image,
    "views": np.stack([vessel_sets.views(image) for image in cases.image]),
    "label": cases.label,
    "domain": cases.domain,
    "index": cases.index,
  }


def prepared(
  config: Config, seed: int, task: Task, turn: study.Turn, directory: RunDirectory
) -> study.Turn:
  """The turn with what networks make up, where an arm wants it."""
  del task
  if not {"mixed-nets", "map-nets"} & set(config.arms):
    return turn
  key = rng.stream(jax.random.key(seed), "looks")
  return vessel_looks.prepared(
    config.widths, config.learning_rate, config.look_steps, config.batch_size, key, turn, directory
  )


def build(config: Config, options: cli.RunOptions) -> None:
  frame = left_out.LeftOutFrame(
    "Vessels in unseen appearances",
    ARMS,
    QUESTIONS,
    metrics=("dice",),
    labels={"loss": "loss", "alignment": "cosine of the gradients of both views"},
    prepare=functools.partial(prepared, config, options.seed),
    updates=lambda task, arm: task.num_steps[arm],
    flops=lambda task, arm: task.flops(arm),
    more=lambda trained: {"updates": {arm: own[0].num_updates for arm, own in trained.items()}},
  )
  sites, task = load(config, options), functools.partial(Task, config)
  left_out.run(frame, config, options, sites, task, config.arms, held=held)


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
