"""AViT: what must train when a transformer meets a few pictures, and what does privacy cost?

Du, Bayasi, Hamarneh & Garbi, "AViT: Adapting Vision Transformers for Small Skin Lesion Segmentation
Datasets" (2023): adapters in a frozen transformer, and a small convolutional prompt network beside
it. Claims: frozen < prompt alone < adapters alone < both, and both are at least as good as training
everything, with 15 % of the numbers.

  python -m experiments.avit demo              simulated lesions under hairs; about 6 minutes
  python -m experiments.avit evidence          the same, 5 seeds
  python -m experiments.avit lesions --data PH2 --weights efficientnet_lite0.safetensors
                                               your nnU-Net folder of colour pictures with one
                                               class, five folds of people, as in the paper
  python -m experiments.avit private --data PH2
                                               the same folder, one split, with the private arms

Times are estimated from short runs on 2 CPU cores. Published, means of four sets, Dice: everything
.925, adapters and prompt .932, adapters .923, from scratch (MedFormer) .917; Jaccard: frozen .793,
prompt .843, adapters .860.

Why it matters beyond the paper: a private update holds a gradient for each example, and clips and
noises every number that trains. "private-both" and "private-all" train under the same guarantee
(DPPlan at epsilon 8, a picture protected), the one the small part, the other everything.

The transformer is first trained to rebuild hidden patches of simulated lesions, in every preset:
weights that had seen the training pictures would void the statement of the private arms.

DEVIATIONS: a small transformer stands for ViT-B of ImageNet-21k; for a stage of ResNet-34 stand the
first blocks of EfficientNet-Lite0 with the weights of ImageNet (`--weights`), or strided
convolutions that are drawn; GroupNorm for BatchNorm; one split of people but in `lesions`; "all"
has no adapters and no prompt network, as the paper's BASE. The private arms have the learning rate
of the others; nothing is chosen by their scores.

results.json: the common schema of `study.results`; tuned: numbers that train; gradient_bytes: of
one example; statement and not_covered: of the private arms.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax

from experiments import prompt_free, prompted_sets
from experiments.adapted_lesions import Kind, Task, hairy, turns_of
from medjax import adapt, cli, data, methods, privacy, rng, study, tree
from medjax.train import Report
from medjax.types import Key, Params, Step

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Segmenters of lesions of which some part trains."""

  arms: tuple[str, ...] = (
    "frozen", "prompt", "adapters", "both", "all", "scratch", "private-both", "private-all",
  )  # fmt: skip
  num_unlabelled: int = 400  # simulated pictures for the transformer
  num_pictures: int = 160  # simulated labelled pictures
  train_fraction: float = 0.25  # of the people where there is one fold; all others are tested
  num_folds: int = 1  # of people, each tested once; 1: one split
  weights: str = ""  # EfficientNet-Lite0's file, for the prompt network; "": drawn convolutions
  size: int = 32  # side of a picture in pixels
  patch_size: int = 4  # side of a patch
  width: int = 48  # channels of the transformer
  num_layers: int = 3  # its blocks
  num_pretraining: int = 300  # updates on hidden patches
  num_steps: int = 150  # updates on labelled pictures
  batch_size: int = 8  # pictures an update
  learning_rate: float = 1e-3  # Adam's, the same for every arm
  hidden_fraction: float = 0.6  # of the patches
  target_epsilon: float = 8.0  # of the private arms
  delta: float = 1e-3
  max_norm: float = 1.0  # of a picture's gradient in the private arms
  # similarity of two people's scans that is refused; 0: not looked at
  near_duplicates: float = -1.0
  known: str = ""  # what is known of these data, a sentence shown beside the scores

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)


# --- data


def load(config: Config, options: cli.RunOptions) -> tuple[prompted_sets.Pictures, np.ndarray]:
  """Labelled pictures, and simulated ones for the transformer."""
  side, seed = config.size, options.seed
  more = prompted_sets.drawn(config.num_unlabelled, side, seed + 1, has_groups=False)
  hidden = hairy(more.image, seed + 1)
  if options.preset in _REAL:
    (path,) = study.paths_of(options.data, 1)
    own = prompted_sets.lesions(path, side)
    return own, np.repeat(hidden, own.image.shape[-1], axis=-1)
  study.paths_of(options.data, 0)
  sets = prompted_sets.drawn(config.num_pictures, side, seed, has_groups=False)
  own = sets._replace(image=hairy(sets.image, seed), title="simulated lesions under hairs")
  return own, hidden


# --- arms: what trains


_HEAD, _PROMPT, _ADAPTERS = ("head/*",), ("prompt/*",), ("encoder/*adapter*", "encoder/*norm*")
_ALL = ("head/*", "encoder/patches/*", "encoder/positions", "encoder/*attention*", "encoder/*mlp*",
        "encoder/*norm*")  # fmt: skip
_BOTH = _HEAD + _PROMPT + _ADAPTERS
ARMS = study.arms(
  study.Arm("frozen", "the head alone", lambda: Kind(_HEAD)),
  study.Arm("prompt", "head and prompt network", lambda: Kind(_HEAD + _PROMPT, True)),
  study.Arm("adapters", "head, adapters and norms", lambda: Kind(_HEAD + _ADAPTERS)),
  study.Arm("both", "the paper's AViT", lambda: Kind(_BOTH, True)),
  study.Arm("all", "head and the whole transformer: its BASE", lambda: Kind(_ALL)),
  study.Arm("scratch", "the same, never pretrained", lambda: Kind(_ALL, is_pretrained=False)),
  study.Arm("private-both", "as both, private", lambda: Kind(_BOTH, True, is_private=True)),
  study.Arm("private-all", "as all, private", lambda: Kind(_ALL, is_private=True)),
)


# --- questions, written down before the run

_SPREAD = (("subject", 0.08), ("seed", 0.02))


def _asked(text: str, reference: str, arms: tuple[str, ...], expects: Any) -> study.Question:
  return study.Question(text, reference, arms, "dice", expects=expects, spread=_SPREAD)


QUESTIONS = (
  _asked("Does a frozen transformer profit from prompts, or from adapters?", "frozen",
         ("prompt", "adapters", "both"), "better"),
  _asked("Do adapters give more than prompts?", "prompt", ("adapters",), "better"),
  _asked("Do prompts add to adapters?", "adapters", ("both",), "better"),
  _asked("Is the small part at least as good as everything?", "all", ("both",), "better"),
  _asked("Was the first training worth it?", "scratch", ("all", "both"), "better"),
  _asked("Under privacy, is the small part better than everything?", "private-all",
         ("private-both",), "open"),
  _asked("What does privacy cost?", "both", ("private-both",), "open"),
)  # fmt: skip

PRESETS = {
  "demo": Config(num_seeds=1),
  "evidence": Config(num_seeds=5),
  "lesions": Config(
    num_seeds=1, size=64, patch_size=8, num_folds=5,
    weights="efficientnet_lite0.safetensors",
    arms=("frozen", "prompt", "adapters", "both", "all", "scratch"),
  ),
  "private": Config(
    num_seeds=1, size=64, patch_size=8, train_fraction=0.5,
    arms=("both", "all", "private-both", "private-all"),
  ),
}  # fmt: skip
_REAL = ("lesions", "private")

# --- the run and its page

_PLANNED = "Stated before the training, which then made all the samples that are planned here."
_NOT_COVERED = (
  "The statement is on the weights of one private arm and the pictures that it was trained on. It"
  " does not cover the test pictures, whose scores are shown, nor anybody in the other arms; a run"
  " as a whole is not private."
)


def build(config: Config, options: cli.RunOptions) -> None:
  sets, unlabelled = load(config, options)
  turns = turns_of(config, sets, options.seed)
  design = study.design(config, options.seed, QUESTIONS, config.arms, turns)
  if config.weights:
    prompt_free.imagenet_weights(config.weights)
  if options.preset in _REAL:
    picture = study.pair_picture(options.workdir)
    sides = {turn.name: turn.people["test"] for turn in turns} if turns[1:] else turns[0].people
    prompted_sets.check_alike(sets, sides, config.near_duplicates, picture)
  with options.directory(config, sets.manifest) as directory:
    if directory.finished:
      return
    design.begin(directory)
    task = Task(config, sets.image.shape[-1])
    program_of = functools.cache(task.program)  # compiled once for all seeds
    trained: dict[str, list[study.Trained]] = {arm: [] for arm in config.arms}
    rows: list[dict[str, Any]] = []
    tuned: dict[str, int] = {}
    flops: dict[str, float] = {}
    statement = ""

    def score(arm: str, seed: int, turn: study.Turn, params: Params, kind: Kind) -> study.Scored:
      test: Any = turn.test["test"]
      found = program_of(kind)(params, test)
      about = {"arm": arm, "seed": seed, "turn": turn.name, "role": "test"}
      names = [(i, sets.subjects[i]) for i in test["row"]]
      return study.Scored([
        {**about, "case": f"{name} {i}", "subject": name, "domain": "", "dice/lesion": float(x)}
        for (i, name), x in zip(names, found, strict=True)
      ])  # fmt: skip

    for seed in design.seeds:
      key = jax.random.key(seed)
      fresh = task.start(key)
      begun = first_training(config, task, fresh, {"image": unlabelled}, key, directory, seed)
      for arm in config.arms:
        kind: Kind = ARMS[arm].make()
        params = {**fresh, "encoder": begun} if kind.is_pretrained else fresh
        small, frozen = adapt.take(params, trains=adapt.under(*kind.trains))
        loss = adapt.adapted_loss(task.loss(kind), frozen)
        tuned[arm] = tree.size(small)
        plain = methods.supervised(loss, optax.adam(config.learning_rate))
        for turn in turns:
          step: Step = plain
          stream: Any = data.batches(turn.train, config.batch_size, key)
          flops[arm] = flops.get(arm) or study.flops(plain, small, stream(0))
          if kind.is_private:
            plan = plan_of(config, turn.train, seed)
            statement = plan.statement()
            step = methods.private(loss, optax.adam(config.learning_rate), plan)
            stream = plan.stream(turn.train, chunk=config.batch_size)
          name = "-".join(part for part in (arm, turn.name, str(seed)) if part)
          job = study.Job(name, step, stream, small, key, config.num_steps, inherited=begun)
          one = study.train_job(job, directory, log_every=config.log_every)
          trained[arm].append(one)
          weights = adapt.whole(one.params, frozen)
          make = functools.partial(score, arm, seed, turn, weights, kind)
          rows += study.kept(directory, name, one.params, make).rows
    found = design.results(
      rows, ("dice",), costs=flops, flops=flops, is_simulated=options.preset not in _REAL,
      tuned=tuned, gradient_bytes={arm: 4 * count for arm, count in tuned.items()},
      statement=statement, not_covered=_NOT_COVERED if statement else "",
    )  # fmt: skip
    report = page(config, sets.title, found, trained)
    study.finish(directory, found, report, trained=trained, rows=rows)


def first_training(
  config: Config, task: Task, fresh: Params, pictures: Any, key: Key, directory: Any, seed: int
) -> Params:
  """The transformer after it has learnt to rebuild hidden patches; adapters stay the identity."""
  numbers = config.patch_size**2 * task.shape[-1]
  pixels = 0.02 * jax.random.normal(rng.stream(key, "pixels"), (config.width, numbers))
  is_adapter = adapt.under("encoder/*adapter*")
  params = {"encoder": fresh["encoder"], "pixels": pixels}
  small, frozen = adapt.take(params, trains=lambda name: not is_adapter(name))
  step = methods.supervised(adapt.adapted_loss(task.rebuilt, frozen), optax.adam(1e-3))
  stream = data.batches(pictures, 2 * config.batch_size, key, name="hidden")
  job = study.Job(f"hidden-{seed}", step, stream, small, key, config.num_pretraining)
  one = study.train_job(job, directory, log_every=config.log_every)
  return adapt.whole(one.params, frozen)["encoder"]


def plan_of(config: Config, store: dict[str, np.ndarray], seed: int) -> privacy.DPPlan:
  """A picture is protected; keys come from the seed, so that runs can be repeated."""
  return privacy.DPPlan(
    num_examples=len(store["image"]), expected_batch_size=config.batch_size,
    num_steps=config.num_steps, delta=config.delta, max_norm=config.max_norm, unit="example",
    target_epsilon=config.target_epsilon, vault=privacy.Vault.from_seed(seed),
  )  # fmt: skip


def page(
  config: Config, title: str, found: dict[str, Any], trained: dict[str, list[study.Trained]]
) -> Report:
  """Answers, scores, verdicts, what trains, the statement, curves and costs."""
  report = study.page.start(f"What must train: {title}", found)
  study.page.scores(report, found, ARMS, text=config.known)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  lines = [[arm, n, found["gradient_bytes"][arm] / 1000] for arm, n in found["tuned"].items()]
  report.section("What trains").table(
    ["arm", "numbers that train", "kB of gradient an example"], lines,
    "A private update holds a gradient of this size for every example of a chunk, and clips it.",
  )  # fmt: skip
  if found["statement"]:
    report.section(
      "Privacy of the private arms", f"{_PLANNED}\n\n{found['statement']}\n\n{_NOT_COVERED}"
    )
  first = {arm: own[0] for arm, own in trained.items() if not arm.startswith("private")}
  study.page.curves(report, first, {"loss": "loss"}, caption="First fold and seed.")
  flops = {arm: own["flops_an_update"] for arm, own in found["arms"].items()}
  study.page.costs(report, trained, flops)
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
