"""GDD-FL: can a few distilled pictures, sent once, take the place of rounds of federated training?

Tian et al., "Communication-Efficient Federated Skin Lesion Classification with Generalizable
Dataset Distillation" (2023): clients learn pictures whose features match those of their own under
random networks, also under shifted statistics (GDD), and a server trains on them. Claims: GDD above
distribution matching (DM) above gradient matching and random pictures at equal bytes; as good with
uneven clients as with even ones; FedAvg wins with even clients and GDD with uneven ones, at a
fraction of the bytes.

  python -m experiments.gdd_fl demo              simulated tissue of 4 clients, one picture a class,
                                                 2 seeds; about 5 minutes
  python -m experiments.gdd_fl evidence          ten pictures a class, the arms that the claims are
                                                 about, 3 seeds; about 25 minutes (an estimate)
  python -m experiments.gdd_fl one               one picture a class, all arms, 4 seeds
  python -m experiments.gdd_fl folder --data pneumoniamnist.npz --size 28
                                                 your pictures: CLASS/*.png, a table or a MedMNIST
                                                 file

Times are for 2 CPU cores; `demo` alone has been run whole. Published area under the curve on ISIC
2020, one picture a class, 2.88 MB: even clients DC .667, DSA .644, DM .688, GDD .718; uneven DC
.652, DSA .688, DM .684, GDD .719; FedAvg, 12,640 MB, even .753, uneven .660; 10 random pictures a
class .569.

An arm is a method on uneven clients; "-even" is the same on even ones. Controls that the paper
lacks: "mean" sends the mean picture of each class, for which no network is needed; "once" averages
the clients' networks a single time. The network norms each picture, so that "gdd", which shifts
pixels as Algorithm 1 has it, reaches it by the colours alone; "gdd-features" shifts feature maps of
the first block, as the text has it; "gdd-printed" has the printed roles of mean and deviation.

"dm-private" releases statistics once under differential privacy. Its statement, of one client, is
on that release and on the pictures that are made of it: not on the split, nor on the other arms.
Every person was among the candidates by a fair coin, so that the pictures of every arm are audited:
guesses who was there, by distance to what was published, give a bound on the leak.

DEVIATIONS: simulated tissue of two classes; a rate of .03 times the pictures of a class, with
momentum .5, since at 1 the pixels leave their range (see `methods.condensation.condensed`); a small
network, the same at clients and server; the server trains with Siamese augmentation and Adam.

results.json: the common schema of `study.results`; megabytes.<arm>: sent by all clients and back,
means over seeds; audit.<arm>: means over seeds of right guesses and mu; statement.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from experiments import distilled_clients, distilled_sets
from experiments.distilled_clients import AVERAGE, Way
from medjax import check, cli, study
from medjax.methods import condensation
from medjax.train import Report

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(distilled_clients.Settings):
  """Clients that send pictures, or networks."""

  arms: tuple[str, ...] = ("random", "mean", "dm", "gdd", "gdd-even", "fedavg", "fedavg-even")
  alpha: float = 0.5  # of the Dirichlet law of uneven clients
  num_pictures: int = 400  # simulated pictures of each of three scanners, a third for testing
  size: int = 16  # side of a picture in pixels
  label: str = ""  # column of a table with the name of the class
  subject: str = ""  # column of a table with the person

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)


_PIXELS, _FEATURES = condensation.Uncertain(), condensation.Uncertain("features")
_PRINTED = condensation.Uncertain(roles="printed")


def _arm(name: str, text: str, kind: str, **options: Any) -> study.Arm:
  return study.Arm(name, text, functools.partial(Way, kind, **options))


ARMS = study.arms(
  _arm("random", "random pictures of the client's", "random"),
  _arm("mean", "the mean picture of each class: a control", "mean"),
  _arm("dc", "gradient matching", "dc"),
  _arm("dsa", "gradient matching, Siamese augmentation", "dsa"),
  _arm("dm", "distribution matching", "dm"),
  _arm("dm-even", "the same, even clients", "dm", is_even=True),
  _arm("dm-private", "distribution matching to noised statistics", "private"),
  _arm("gdd", "with uncertain statistics of pixels", "gdd", shift=_PIXELS),
  _arm("gdd-even", "the same, even clients", "gdd", shift=_PIXELS, is_even=True),
  _arm("gdd-features", "with uncertain statistics of features", "gdd", shift=_FEATURES),
  _arm("gdd-printed", "gdd with the printed formula", "gdd", shift=_PRINTED),
  _arm("fedavg", "federated averaging of networks", AVERAGE),
  _arm("fedavg-even", "the same, even clients", AVERAGE, is_even=True),
  _arm("once", "networks averaged once: a control", AVERAGE, num_rounds=1),
)

# --- questions, written down before the run

_SPREAD = (("subject", 0.35), ("seed", 0.04))


def _asked(text: str, reference: str, arm: str, expects: Any) -> study.Question:
  return study.Question(text, reference, (arm,), "auroc", "all", expects, _SPREAD)


QUESTIONS = (
  _asked("Is GDD better than DM?", "dm", "gdd", "better"),
  _asked("Is DM better than as many real pictures?", "random", "dm", "better"),
  _asked("Is GDD?", "random", "gdd", "better"),
  _asked("Is a network needed, or do mean pictures do?", "mean", "dm", "better"),
  _asked("Does gradient matching fall behind GDD?", "gdd", "dc", "worse"),
  _asked("With augmentation, too?", "gdd", "dsa", "worse"),
  _asked("Is GDD as good with uneven clients?", "gdd-even", "gdd", "equivalent"),
  _asked("Does FedAvg win with even clients?", "gdd-even", "fedavg-even", "better"),
  _asked("Does GDD win with uneven ones?", "fedavg", "gdd", "better"),
  _asked("Does averaging once do as well?", "gdd", "once", "open"),
  _asked("Is it better to shift features?", "gdd", "gdd-features", "open"),
  _asked("Does the printed formula matter?", "gdd", "gdd-printed", "open"),
  _asked("What does privacy cost?", "dm", "dm-private", "open"),
)
_CLAIMED = (
  "random", "mean", "dc", "dsa", "dm", "dm-private", "gdd", "gdd-even",
  "fedavg", "fedavg-even", "once",
)  # fmt: skip
PRESETS = {
  "demo": Config(),
  "evidence": Config(per_class=10, arms=_CLAIMED, num_seeds=3, num_updates=150, num_rounds=15),
  "one": Config(arms=tuple(ARMS), num_seeds=4),
  "folder": Config(size=28),
}

# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  pictures = distilled_sets.load(config, options)
  check.require(
    pictures.pool.label.ndim == 1, "pictures of one class each", "findings", "pass --label"
  )
  tested = {"all": len(set(pictures.names))}
  design = study.design(
    config, options.seed, QUESTIONS, config.arms, pictures.people, tested=tested
  )
  with options.directory(config, pictures.manifest) as directory:
    if directory.finished:
      return
    design.begin(directory)
    task = distilled_clients.Task(config, pictures.pool.image.shape[1:], pictures.num_classes)
    predict = study.ChunkedPredictor(task.logits, chunk=64)
    trained: dict[str, list[study.Trained]] = {}
    rows: list[dict[str, Any]] = []
    sizes: dict[str, list[float]] = {}
    guesses: dict[str, list[dict[str, float]]] = {}
    statement = ""
    for seed in design.seeds:
      run = distilled_clients.Run(task, pictures, directory, seed, config.alpha, trained)
      for arm in config.arms:
        way: Way = ARMS[arm].make()
        if way.kind == AVERAGE:
          params, megabytes = run.averaged(arm, way)
        else:
          params, megabytes, scores = run.pictures_of(arm, way)
          claim = (config.target_epsilon, config.delta)
          is_in = run.sets(way).is_in
          own = distilled_sets.audited(scores, is_in, claim, 0.95)
          guesses.setdefault(arm, []).append(own)
        sizes.setdefault(arm, []).append(megabytes)
        rows += study.classes(
          predict(params, pictures.test.image),
          pictures.test.label,
          about={"arm": arm, "seed": seed, "role": "all"},
          subjects=pictures.names,
          wanted=("auroc", "balanced"),
        )
      statement = statement or run.statement
    audit = {
      arm: {name: float(np.mean([one[name] for one in own])) for name in own[0]}
      for arm, own in guesses.items()
    }
    found = design.results(
      rows,
      ("auroc", "balanced"),
      is_simulated=options.preset != "folder",
      megabytes={arm: float(np.mean(own)) for arm, own in sizes.items()},
      audit=audit,
      statement=statement,
    )
    study.finish(directory, found, page(pictures, found, trained), trained=trained, rows=rows)


def page(
  pictures: distilled_sets.Pictures, found: dict[str, Any], trained: dict[str, list[study.Trained]]
) -> Report:
  """Answers, scores, bytes, the audit and the course of the trainings."""
  report = study.page.start(f"Distilled pictures of {pictures.title}", found)
  study.page.scores(report, found, ARMS)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  report.section("What was sent", "By all clients, and to them, in the whole training.").table(
    ["arm", "megabytes"], [[arm, size] for arm, size in found["megabytes"].items()]
  )
  report.section(
    "What pictures betray",
    "Who was there was decided by coins, and is guessed for a fifth of the candidates from what"
    " their client published. mu is a lower bound at 95 % for each seed, their mean; with all"
    " guesses right it could have been no more than the last column. A low figure is no proof.",
  ).table(
    ["arm", "guesses", "right", "mu at least", "mu at most to be shown"],
    [
      [arm, own["guesses"], own["right"], own["mu"], own["most"]]
      for arm, own in found["audit"].items()
    ],
  )
  if found["statement"]:
    report.section("What is private", f"Of the release of one client:\n\n{found['statement']}")
  labels = {"loss": "loss", "grad_norm": "length of the gradient", "largest": "largest pixel"}
  study.page.trainings(report, found, trained, labels)
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
