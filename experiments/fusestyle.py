"""FuseStyle: does the least similar partner make better style mixing than a random one?

Khamankar et al., "Histopathological Image Analysis with Style-Augmented Feature Domain Mixing for
Improved Generalization" (2023): MixStyle whose partner is the example with the smallest product of
features. Claims: far above plain training on an unseen scanner; above a random partner.

  python -m experiments.fusestyle demo          simulated tissue under three scanners, each left out
                                                in turn; about 3 minutes
  python -m experiments.fusestyle evidence      the same with 5 seeds and 1,000 updates; 20 minutes
  python -m experiments.fusestyle folders --data SITE1 --data SITE2 --data SITE3
                                                your pictures, CLASS/*.png below each site; a minute
                                                a training of 1,000 updates at 64 x 64 pixels
  python -m experiments.fusestyle paper --data XR --data S360 --data CS
                                                patches of 64 x 64 round figures of MIDOG'21 by
                                                scanner; wants an accelerator

Times are for 2 CPU cores. Published, out of domain on XR, S360, CS of MIDOG'21: random partner .764
.716 .724, FuseStyle .776 .752 .741; on Camelyon17 plain training .703, FuseStyle .905. The arm
"fusestyle" normalises features before it compares them, as the released code does; "fusestyle-raw"
compares them as the text has it, which makes one picture nearly everybody's partner.

DEVIATIONS: each example draws whether it is mixed, not each batch; the partner of the first mixed
layer serves both; a small network from scratch with one GroupNorm group (a norm of single channels
would take the style away before it is mixed) stands for a pre-trained ResNet50. V-REx, GroupDRO and
Fish are not among the arms, and there is no detector.

results.json: the common schema of `study.results`; partners.<arm>: different partners in a batch as
a share of its pictures, mean over the trainings (a random cycle has 1).
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax

from medjax import cli, data, losses, methods, nets, rng, study
from medjax.methods import fusestyle, mixing
from medjax.train import Report
from medjax.types import Batch, Key, Params, Source, Step

_LAYERS = ("GroupNorm_0", "GroupNorm_1")
_SCANNERS = {  # gain and offset of red, green and blue, and gamma
  "XR": ((1.1, 0.8, 1.0), (0.0, 0.0, 0.0), 1.0),
  "S360": ((0.8, 0.9, 0.7), (0.1, 0.0, 0.2), 0.7),
  "CS": ((0.7, 1.0, 1.2), (0.2, 0.1, -0.1), 1.6),
}

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Classifiers of tissue that meet a scanner they have never seen."""

  num_pictures: int = 600  # simulated pictures a scanner
  size: int = 32  # side of a picture in pixels
  arms: tuple[str, ...] = ("erm", "mixstyle", "fusestyle", "fusestyle-raw")  # what is compared
  widths: tuple[int, ...] = (8, 16, 16)  # channels of the network's convolutions
  num_steps: int = 400  # updates
  batch_size: int = 32  # pictures an update
  learning_rate: float = 3e-3  # Adam's, constant, the same for every arm
  alpha: float = 0.3  # of the Beta distribution that says how much of one's own style stays
  mix_fraction: float = 0.5  # of the pictures whose style is mixed at all
  eval_every: int = 100  # updates between two evaluations on validation pictures of the sources
  known: str = ""  # what is known of these data, a sentence shown beside the scores

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)


# --- data: each scanner is left out in turn


def tissue(num: int, size: int, seed: int, scanner: str) -> Source:
  """Pictures of twelve small nuclei (class 0) or three large ones (class 1), of one total area.

  The scanner changes colours alone, so a network that looks at shapes knows every scanner.
  """
  gain, offset, gamma = (np.array(x, np.float32) for x in _SCANNERS[scanner])
  y, x = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")

  def draw(random: np.random.Generator) -> tuple[np.ndarray, bool]:
    is_large = bool(random.random() < 0.5)
    count, radius = (3, 0.16) if is_large else (12, 0.08)
    stain = np.zeros((size, size))
    for cy, cx in random.uniform(0, size, (count, 2)):
      distance = np.hypot(y - cy, x - cx) / (radius * size * random.uniform(0.85, 1.15))
      stain = np.maximum(stain, random.uniform(0.5, 1.0) / (1 + np.exp(8 * (distance - 1))))
    pink = np.array([0.9, 0.7, 0.85]) - stain[..., None] * np.array([0.5, 0.5, 0.3])
    seen = np.clip(pink + random.normal(0, 0.06, pink.shape), 0, 1)
    return (gain * seen**gamma + offset).astype(np.float32), is_large

  return data.Simulated(
    "simulated tissue",
    num,
    seed,
    draw,
    class_names=("small nuclei", "large nuclei"),
    channel_names=("red", "green", "blue"),
    domain=scanner,
    options={"size": size, "scanner": scanner},
  )


def load(config: Config, options: cli.RunOptions) -> tuple[str, Source, list[study.Turn]]:
  """Title, all sites as one source, and a turn for each site that is left out."""
  if options.preset in ("folders", "paper"):
    paths, shape = study.paths_of(options.data, None), (config.size, config.size)
    sites: dict[str, Source] = {
      path.resolve().name: data.ClassFolders(path, size=shape, colour=True) for path in paths
    }
    title = " and ".join(sites)
  else:
    study.paths_of(options.data, 0)
    sites = {s: tissue(config.num_pictures, config.size, options.seed, s) for s in _SCANNERS}
    title = "simulated tissue under three scanners"
  whole = data.concat(sites)
  turns = study.turns_of(
    whole,
    [(site,) for site in sites],
    lambda rows: data.stack(whole, rows),
    fractions={"train": 0.6, "validation": 0.1, "test": 0.3},
    seed=options.seed,
  )
  return title, whole, turns


# --- model and arms


class Task:
  """The network and its losses."""

  def __init__(self, config: Config, num_classes: int):
    self.config = config
    self.module = nets.SmallCNN(num_classes, config.widths, num_groups=1)
    self.model = nets.from_linen(self.module)
    self.tx = optax.adam(config.learning_rate)

  def logits(self, params: Params, image: jax.Array) -> jax.Array:
    return self.model.apply(params, image)[0]

  def plain(self) -> Step:
    def loss_fn(params: Params, example: Batch, key: Key) -> jax.Array:
      del key
      return losses.cross_entropy(self.logits(params, example.image), example.label)

    return methods.supervised(loss_fn, self.tx)

  def mixed(self, choose: mixing.Choice | None = None) -> Step:
    predict = nets.mixstyle(
      self.module,
      layers=_LAYERS,
      alpha=self.config.alpha,
      probability=self.config.mix_fraction,
    )
    step = methods.supervised(mixing.mixstyle(predict, losses.cross_entropy), self.tx)
    return mixing.paired(step, choose=choose)

  def fused(self, similarity: fusestyle.Similarity) -> Step:
    features = nets.features(self.module, _LAYERS[0])
    return self.mixed(fusestyle.least_similar(features, similarity=similarity))


ARMS = study.arms(
  study.Arm("erm", "nothing is mixed", Task.plain),
  study.Arm("mixstyle", "style of a random partner: the control", Task.mixed),
  study.Arm(
    "fusestyle", "style of the least similar, channels normalised", lambda t: t.fused("instance")
  ),
  study.Arm("fusestyle-raw", "the same as the text has it", lambda t: t.fused("raw")),
)

# --- questions, written down before the run

_SPREAD = (("subject", 0.2), ("seed", 0.02))  # one picture in 25 judged differently; seeds
QUESTIONS = (
  study.Question(
    "Does FuseStyle help on an unseen scanner?", "erm", ("fusestyle",), "accuracy", "unseen",
    spread=_SPREAD,
  ),
  study.Question(
    "Does the choice of the partner matter?", "mixstyle", ("fusestyle",), "accuracy", "unseen",
    spread=_SPREAD,
  ),
  study.Question(
    "Is the printed similarity as good?", "fusestyle", ("fusestyle-raw",), "accuracy", "unseen",
    expects="equivalent", spread=_SPREAD,
  ),
  study.Question(
    "Does mixing cost accuracy at home?", "erm", ("mixstyle", "fusestyle"), "accuracy", "in-domain",
    expects="open",
  ),
)  # fmt: skip

PRESETS = {
  "demo": Config(),
  "evidence": Config(num_seeds=5, num_steps=1000),
  "folders": Config(size=64, num_steps=1000, widths=(16, 32, 32)),
  "paper": Config(
    size=64,
    arms=("erm", "mixstyle", "fusestyle"),
    widths=(32, 64, 128),
    num_steps=5000,
    batch_size=256,
    learning_rate=1e-4,
    eval_every=500,
    known="Out of domain on XR, S360 and CS the paper has .764 .716 .724 with a random partner and"
    " .776 .752 .741 with the least similar.",
  ),
}

# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  title, whole, turns = load(config, options)
  seeds = range(options.seed, options.seed + config.num_seeds)
  people = sum(len(turn.people["unseen"]) for turn in turns)
  members = {"unseen": {"seed": len(seeds), "subject": people}}
  planned = study.planned(QUESTIONS, members, config.arms, margin=config.margin)
  with options.directory(config, whole.manifest()) as directory:
    if directory.finished:
      return
    directory.write_json("splits", study.splits_of(turns, options.seed, "sites left out in turn"))
    study.announce(planned)
    task = Task(config, len(whole.class_names))
    steps: dict[str, Step] = {arm: ARMS[arm].make(task) for arm in config.arms}
    predict = study.ChunkedPredictor(task.logits, chunk=64)
    trained: dict[str, list[study.Trained]] = {arm: [] for arm in config.arms}
    rows: list[dict[str, Any]] = []

    def score(one: study.Trained, arm: str, turn: study.Turn, seed: int) -> study.Scored:
      found = []
      for role, cases in turn.test.items():
        about = {"arm": arm, "seed": seed, "turn": turn.name, "role": role}
        subjects = [whole.subjects[i] for i in cases.index]
        logits = predict(one.params, cases.image)
        found += study.classes(logits, cases.label, about=about, subjects=subjects)
      return study.Scored(found)

    for turn in turns:
      for seed in seeds:
        key = jax.random.key(seed)  # one for all arms: the same first weights and batches
        params, _ = task.model.init(rng.stream(key, "parameters"), turn.train.image[0])
        stream = data.batches(turn.train, config.batch_size, key, name=turn.name)
        evaluators = {"validation": study.accuracy_of(predict, turn.validation)}
        for arm, step in steps.items():
          name = f"{arm}-{turn.name}-{seed}"
          job = study.Job(name, step, stream, params, key, config.num_steps, evaluators)
          one = study.train_job(
            job, directory, log_every=config.log_every, eval_every=config.eval_every
          )
          trained[arm].append(one)
          make = functools.partial(score, one, arm, turn, seed)
          rows += study.kept(directory, name, one.params, make).rows
    batch = data.batches(turns[0].train, config.batch_size, 0)(0)
    flops = {arm: study.flops(step, trained[arm][0].params, batch) for arm, step in steps.items()}
    questions = study.ask(QUESTIONS, rows, margin=config.margin, costs=flops)
    partners = {
      arm: study.mean_of_curves(own, "partners")
      for arm, own in trained.items()
      if own[0].curve("partners")[0]
    }
    found = study.results(
      rows,
      ("accuracy", "auroc"),
      questions=questions,
      planned=planned,
      not_asked=study.not_asked(QUESTIONS, questions),
      flops=flops,
      is_simulated=options.preset not in ("folders", "paper"),
      partners=partners,
    )
    report = page(config, title, found, trained)
    every = [one for own in trained.values() for one in own]
    study.finish(directory, found, report, trained=every, rows=rows)


def page(
  config: Config, title: str, found: dict[str, Any], trained: dict[str, list[study.Trained]]
) -> Report:
  """The answers, scores, verdicts, who was whose partner, curves and costs."""
  report = study.page.start(f"Style mixing on {title}", found)
  study.page.scores(report, found, ARMS, text=config.known)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  if found["partners"]:
    report.table(
      ["arm", "different partners, share of a batch", f"of {config.batch_size} pictures"],
      [[arm, share, share * config.batch_size] for arm, share in found["partners"].items()],
      "Products of features that are not negative are smallest with the darkest picture, whoever"
      " asks: it becomes nearly everybody's partner.",
    )
  first = {arm: own[0] for arm, own in trained.items()}
  labels = {"loss": "loss", "validation/accuracy": "accuracy on validation people of the sources"}
  study.page.curves(report, first, labels, caption="First turn and seed.")
  flops = {arm: own["flops_an_update"] for arm, own in found["arms"].items()}
  study.page.costs(report, trained, flops)
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
