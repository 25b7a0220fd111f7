"""CEmb-SAM: does a segmenter that is told the group of a picture beat one that is not?

Shin, Kim & Baek, "CEmb-SAM: Segment Anything Model with Condition Embedding for Joint Learning from
Heterogeneous Datasets" (2023): the image encoder and the prompt encoder stay frozen; the mask
decoder learns, behind a block whose instance norm is scaled and shifted by the group. Claims, Dice
over the decoder's training alone (MedSAM): +3.4 on breast ultrasound, +6.2 and +4.2 on nerves.

  python -m experiments.cemb_sam demo          simulated speckle in three groups; about 4 minutes
  python -m experiments.cemb_sam evidence      more seeds and pictures
  python -m experiments.cemb_sam lite --data FOLDER --weights lite_medsam.safetensors
                                               your pictures on LiteMedSAM, the group a column of
                                               class.csv or, of several folders, the folder; the
                                               encoder takes some seconds a picture, once

Times are estimated from short runs on 2 CPU cores; no preset has been recorded.
Published, BUSI: U-Net .649, SAM .614, MedSAM .860, CEmb-SAM .894.

The paper's group of a breast picture is its diagnosis: whoever knows it need not be told by a
network. So controls decide what the gain is. "block" has the block with one group for all (the same
network and cost without the condition); "shuffled" learns and is tested with groups dealt out at
random; "predicted" is the network of "told-skip" tested with the group that the nearest mean of
embeddings gives. Pictures without an object have no box and no Dice; they are left out.

The box is around the true mask, each side moved at random by up to 4 % of the picture, in training
and in the test, as in the paper; it tells where the object ends, and so part of what the group
tells.

DEVIATIONS: gamma starts at 1; "told" is the block as printed, which has no skip and must learn the
embedding anew, "told-skip" adds one. In `demo` and `evidence` a small segmenter, trained here on
simulated shapes without groups, stands for SAM. Adam for a fixed number of updates, no stopping.

results.json: the common schema of `study.results`, a domain a group; condition_accuracy: how often
"predicted" is told the true group; tuned: numbers that train in each arm; kept_share: operations of
an update of "decoder" on kept embeddings, over those of one that runs the encoder. timing.json:
seconds of encoder and decoder a picture.
"""

import dataclasses
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import prompted_sets
from medjax import adapt, check, cli, data, methods, nets, rng, study, tree
from medjax.inference.prompted import Prompted
from medjax.nets.condition import ConditionBlock
from medjax.train import Report
from medjax.types import Array, Key, Params, PyTree, Step

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Decoders of a frozen promptable segmenter that learn several groups of pictures."""

  arms: tuple[str, ...] = (
    "frozen",
    "decoder",
    "block",
    "told",
    "told-skip",
    "shuffled",
    "predicted",
  )
  num_pictures: int = 180  # simulated pictures
  train_fraction: float = 0.5  # of the people; all others are tested
  num_pretraining: int = 300  # updates of the small segmenter before the study
  num_steps: int = 120  # updates of a decoder
  batch_size: int = 8  # pictures an update
  learning_rate: float = 3e-4  # Adam's, as in the paper
  weights: str = ""  # file of LiteMedSAM; "": the small segmenter
  condition: str = "class"  # column of class.csv with the group; "": the folder
  person: str = ""  # column of class.csv with the person; "": each picture is one
  max_pictures: int = 24  # real pictures a group
  near_duplicates: float = (
    -1.0
  )  # similarity of two people's scans that is refused; 0: not looked at
  known: str = ""  # what is known of these data, a sentence shown beside the scores

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)


# --- the frozen segmenter


def mask_loss(logits: Array, mask: Array) -> Array:
  """Dice loss and cross-entropy, unweighted, of logits [h, w] brought to the mask's grid."""
  large = jax.image.resize(logits, mask.shape, "linear")
  share, mask = jax.nn.sigmoid(large), mask.astype(jnp.float32)
  overlap = (2 * (share * mask).sum() + 1) / (share.sum() + mask.sum() + 1)
  return 1 - overlap + optax.sigmoid_binary_cross_entropy(large, mask).mean()


def jittered(box: Array, key: Key, side: int) -> Array:
  """A box with each side moved by up to 4 % of the picture, inside of it."""
  moved = box + jax.random.uniform(key, (4,), minval=-0.04, maxval=0.04) * side
  return jnp.clip(moved, 0.0, side - 1.0)


def pretrained(config: Config, directory: Any, seed: int) -> tuple[nets.Promptable, Params]:
  """The small segmenter, trained with boxes on shapes that have no groups."""
  net = nets.promptable(nets.mini_promptable(num_masks=1))
  own = prompted_sets.drawn(1024, 64, seed + 1000, has_groups=False)
  store = {"image": own.image, "mask": own.mask, "box": prompted_sets.boxes(own.mask)}

  def loss(params: Params, example: PyTree, key: Key) -> Array:
    asked = nets.box_prompt(jittered(example["box"], key, 64))
    return mask_loss(net.apply(params, example["image"], asked).logits[..., 0], example["mask"])

  key = jax.random.key(seed)
  start = net.init(rng.stream(key, "parameters"), jnp.asarray(own.image[0]))
  step = methods.supervised(
    loss, optax.adam(optax.cosine_decay_schedule(1e-3, config.num_pretraining))
  )
  stream = data.batches(store, 8, key, name="pretraining")
  job = study.Job("pretraining", step, stream, start, key, config.num_pretraining)
  return net, study.train_job(job, directory, log_every=config.log_every).params


def lite(config: Config) -> tuple[nets.Promptable, Params]:
  module = nets.lite_medsam()
  check.existing_file(config.weights, "pass --weights with the file of LiteMedSAM")
  return nets.promptable(module), nets.import_torch(config.weights, module)[0]


# --- arms: which block, and which group it is told


@dataclasses.dataclass(frozen=True)
class Kind:
  """A way to train: what stands before the decoder, and what it is told."""

  has_block: bool = False
  has_skip: bool = True
  told: str = "one"  # "group", "shuffled", or "one" for all


ARMS = study.arms(
  study.Arm("frozen", "no training here: the segmenter as it comes", lambda: None),
  study.Arm("decoder", "the decoder learns: the paper's MedSAM", Kind),
  study.Arm("block", "and a block that is told nothing", lambda: Kind(True)),
  study.Arm("told", "the block as printed, told the group", lambda: Kind(True, False, "group")),
  study.Arm("told-skip", "the same with a skip", lambda: Kind(True, True, "group")),
  study.Arm("shuffled", "told a random group: the control", lambda: Kind(True, True, "shuffled")),
  study.Arm("predicted", "told-skip, tested with a predicted group", lambda: None),
)


class Problem:
  """The frozen segmenter, the block and the decoder behind it."""

  def __init__(self, config: Config, net: nets.Promptable, params: Params, sets: Any):
    self.config, self.net, self.frozen = config, net, params
    self.side, self.num_groups = sets.image.shape[1], len(sets.groups)

  def start(self, kind: Kind, key: Key, embedding: Array) -> tuple[adapt.SmallPart, PyTree]:
    """What trains - the decoder and the block - and the frozen prompt encoder."""
    params = {name: self.frozen[name] for name in ("prompts", "decoder")}
    if kind.has_block:
      init = jax.jit(self._block(kind).init)
      params["block"] = init(rng.stream(key, "block"), embedding, jnp.int32(0))["params"]
    return adapt.take(params, trains=adapt.under("decoder/*", "block/*"))

  def logits(self, kind: Kind, params: Params, example: PyTree, key: Key) -> Array:
    seen = example["embedding"]
    if kind.has_block:
      found: Any = self._block(kind).apply({"params": params["block"]}, seen, example["group"])
      seen = found
    asked = nets.box_prompt(jittered(example["box"], key, self.side))
    return self.net.decode(params, seen, asked).logits[..., 0]

  def step(self, kind: Kind, frozen: PyTree) -> Step:
    def loss(params: Params, example: PyTree, key: Key) -> Array:
      return mask_loss(self.logits(kind, params, example, key), example["mask"])

    return methods.supervised(
      adapt.adapted_loss(loss, frozen), optax.adam(self.config.learning_rate)
    )

  def program(self, kind: Kind) -> Any:
    """(params, store) -> Dice of each picture; its box is moved by a key of its own."""

    def dice(params: Params, example: PyTree) -> Array:
      key = rng.stream(jax.random.fold_in(jax.random.key(0), example["index"]), "test box")
      logits = self.logits(kind, params, example, key)
      inside = jax.image.resize(logits, example["mask"].shape, "linear") > 0
      both = (inside & example["mask"]).sum()
      return 2 * both / jnp.maximum(inside.sum() + example["mask"].sum(), 1)

    one = jax.jit(dice)
    # A picture at a time: the decoder of LiteMedSAM holds 100 MB for each.
    return lambda params, store: np.array(
      [one(params, {k: v[i] for k, v in store.items()}) for i in range(len(store["box"]))]
    )

  def _block(self, kind: Kind) -> ConditionBlock:
    return ConditionBlock(self.num_groups, has_skip=kind.has_skip)


def nearest_group(train: Mapping[str, Any], test: Mapping[str, Any]) -> np.ndarray:
  """The group whose mean is nearest to each test picture, by standardised means of embeddings."""
  pooled = [np.asarray(part["embedding"]).mean((1, 2)) for part in (train, test)]
  centre, spread = pooled[0].mean(0), pooled[0].std(0) + 1e-6
  known, asked = ((values - centre) / spread for values in pooled)
  labels = np.asarray(train["group"])
  means = np.stack([known[labels == g].mean(0) for g in range(labels.max() + 1)])
  return np.square(asked[:, None] - means[None]).sum(-1).argmin(1).astype(np.int32)


# --- questions, written down before the run

_SPREAD = (("subject", 0.06), ("seed", 0.01))
QUESTIONS = (
  study.Question("Does the block, told the group, beat the decoder alone?", "decoder",
                 ("told", "told-skip"), "dice", spread=_SPREAD),
  study.Question("Is it the group, and not the block?", "block", ("told-skip",), "dice",
                 spread=_SPREAD),
  study.Question("Is a random group worse?", "told-skip", ("shuffled",), "dice", expects="worse",
                 spread=_SPREAD),
  study.Question("Is a predicted group worse than the true?", "told-skip", ("predicted",), "dice",
                 expects="open", spread=_SPREAD),
  study.Question("Does training of the decoder help at all?", "frozen", ("decoder",), "dice",
                 spread=_SPREAD),
)  # fmt: skip

PRESETS = {
  "demo": Config(num_seeds=2),
  "evidence": Config(num_pictures=480, num_seeds=5, num_steps=600, num_pretraining=1500),
  "lite": Config(weights="lite_medsam.safetensors", num_seeds=1, num_steps=60, batch_size=2),
}

# --- the run and its page


def load(config: Config, options: cli.RunOptions) -> prompted_sets.Pictures:
  if not config.weights:
    study.paths_of(options.data, 0)
    return prompted_sets.drawn(config.num_pictures, 64, options.seed)
  check.require(options.data, "a path or more after --data", "none", "see --help")
  paths = [pathlib.Path(path).resolve() for path in options.data]
  return prompted_sets.folders(
    paths, 256, condition=config.condition if len(paths) == 1 else "", person=config.person,
    most=config.max_pictures,
  )  # fmt: skip


def build(config: Config, options: cli.RunOptions) -> None:
  sets = load(config, options)
  shares = {"train": config.train_fraction, "test": 1 - config.train_fraction}
  parts = study.parted(sets.subjects, shares, options.seed)
  people = {part: study.people_of(sets.subjects, rows) for part, rows in parts.items()}
  seeds = range(options.seed, options.seed + config.num_seeds)
  members = {"test": {"seed": len(seeds), "subject": len(people["test"])}}
  planned = study.planned(QUESTIONS, members, config.arms, margin=config.margin)
  if config.weights:
    picture = study.pair_picture(options.workdir)
    prompted_sets.check_alike(sets, people, config.near_duplicates, picture)
  with options.directory(config, sets.manifest) as directory:
    if directory.finished:
      return
    net, frozen = lite(config) if config.weights else pretrained(config, directory, options.seed)
    prompted = Prompted(
      net.embed, net.decode, frozen, size=sets.image.shape[1], channels=sets.image.shape[-1],
      cache=directory.path / "embeddings" if config.weights else None,
    )  # fmt: skip
    embeddings = np.stack([np.asarray(prompted.embedded(image).embedding) for image in sets.image])
    problem = Problem(config, net, frozen, sets)
    shuffled = np.random.default_rng(options.seed).permutation(sets.group)
    every = {"embedding": embeddings, "mask": sets.mask, "box": prompted_sets.boxes(sets.mask),
             "group": sets.group, "shuffled": shuffled, "nothing": 0 * shuffled,
             "index": np.arange(len(sets.mask), dtype=np.int32)}  # fmt: skip
    train, test = ({k: v[np.array(parts[p])] for k, v in every.items()} for p in ("train", "test"))
    # One program for all: a block that is told nothing is told 0.
    said = {"group": "group", "shuffled": "shuffled", "one": "nothing"}
    turn = study.Turn("", train, (), {"test": test}, people)
    directory.write_json("splits", study.splits_of([turn], options.seed))
    study.announce(planned)
    names = [sets.subjects[i] for i in parts["test"]]
    guessed = nearest_group(train, test)

    def rows_of(arm: str, seed: int, dice: np.ndarray) -> list[dict[str, Any]]:
      return [
        {"arm": arm, "seed": seed, "role": "test", "case": str(own["index"]), "subject": name,
         "domain": sets.groups[own["group"]], "dice/object": float(value)}
        for name, own, value in zip(
          names, ({k: test[k][i] for k in ("index", "group")} for i in range(len(names))), dice,
          strict=True,
        )
      ]  # fmt: skip

    trained: dict[str, list[study.Trained]] = {}
    rows: list[dict[str, Any]] = []
    tuned: dict[str, int] = {"frozen": 0}
    flops = {arm: float("nan") for arm in config.arms}
    kinds: dict[str, Kind] = {arm: ARMS[arm].make() for arm in config.arms}
    for seed in seeds:
      key = jax.random.key(seed)
      for arm in config.arms:
        kind = kinds[arm]
        if arm == "frozen":
          dice = problem.program(Kind())(frozen, test)
          rows += rows_of(arm, seed, dice)
        if kind is None:
          continue
        told = said[kind.told]
        stream = data.batches({**train, "group": train[told]}, config.batch_size, key)
        small, rest = problem.start(kind, key, jnp.asarray(train["embedding"][0]))
        step = problem.step(kind, rest)
        tuned[arm] = tree.size(small)
        job = study.Job(f"{arm}-{seed}", step, stream, small, key, config.num_steps)
        one = study.train_job(job, directory, log_every=config.log_every)
        trained.setdefault(arm, []).append(one)
        params = adapt.whole(one.params, rest)
        program = problem.program(kind)
        asked = {arm: {**test, "group": test[told]}}
        if arm == "told-skip" and "predicted" in config.arms:
          asked["predicted"] = {**test, "group": guessed}
        for name, store in asked.items():
          make = lambda n=name, s=store, p=program, w=params, seed=seed: study.Scored(  # noqa: E731
            rows_of(n, seed, p(w, s))
          )
          rows += study.kept(directory, f"{name}-{seed}", one.params, make).rows
        flops[arm] = study.flops(step, one.params, stream(0))
    if "told-skip" in flops and "predicted" in flops:
      flops["predicted"] = flops["told-skip"]
    costs = {arm: value for arm, value in flops.items() if arm in {row["arm"] for row in rows}}
    questions = study.ask(QUESTIONS, rows, margin=config.margin, costs=costs)
    found = study.results(
      rows, ("dice",), questions=questions, planned=planned,
      not_asked=study.not_asked(QUESTIONS, questions), flops=costs,
      condition_accuracy=float((guessed == test["group"]).mean()), tuned=tuned,
      kept_share=kept_share(problem, sets, flops.get("decoder", float("nan"))),
      is_simulated=not config.weights,
    )  # fmt: skip
    report = page(config, sets, found, trained)
    times = {"seconds": seconds(problem, prompted, sets, test)}
    ran = [one for own in trained.values() for one in own]
    study.finish(directory, found, report, trained=ran, rows=rows, times=times)


def kept_share(problem: Problem, sets: Any, update: float) -> float:
  """Operations of an update on kept embeddings over those of one that runs the encoder too."""
  image = jax.ShapeDtypeStruct(sets.image.shape[1:], jnp.float32)
  encoder: Any = jax.jit(problem.net.embed).lower(problem.frozen, image).cost_analysis()
  return update / (update + problem.config.batch_size * encoder["flops"])


def seconds(problem: Problem, prompted: Prompted, sets: Any, test: Any) -> dict[str, float]:
  """Seconds of the encoder and of the decoder a picture, compiled."""
  embed, answer = jax.jit(problem.net.embed), jax.jit(problem.net.decode)
  image = jnp.asarray(prompted.fitted(sets.image[0])[0])
  asked = nets.box_prompt(jnp.asarray(test["box"][0]))
  given = (problem.frozen, jnp.asarray(test["embedding"][0]), asked)

  def took(run: Any) -> float:
    jax.block_until_ready(run())
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began

  return {
    "encoder": took(lambda: embed(problem.frozen, image)),
    "decoder": took(lambda: answer(*given)),
  }


def page(
  config: Config, sets: Any, found: dict[str, Any], trained: dict[str, list[study.Trained]]
) -> Report:
  """Answers, scores, verdicts, curves and costs."""
  report = study.page.start(f"Told the group: {sets.title}", found)
  study.page.scores(report, found, ARMS, text=config.known)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  report.note(
    f"The nearest mean of embeddings finds the group of {found['condition_accuracy']:.0%} of the"
    " test pictures."
  )
  study.page.curves(report, {arm: own[0] for arm, own in trained.items()}, {"loss": "loss"},
                    caption="First seed.")  # fmt: skip
  flops = {arm: own["flops_an_update"] for arm, own in found["arms"].items()}
  study.page.costs(report, trained, flops)
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
