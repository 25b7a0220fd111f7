"""Federated unlearning: which ways to forget a hospital are as good as training without it?

Fraboni et al., "Validation of Federated Unlearning on Collaborative Prostate Segmentation" (2023):
one of four hospitals, unlike the others, leaves. Claims: fine-tuning, FedAccum and gradient ascent
(PGA) do not forget it, subtraction (UKD) ruins the network, and only retraining that is helped by
the history (FedEraser, IFU) equals training from scratch, in half of its rounds.

  python -m experiments.unlearning demo          simulated features of four hospitals, 3 seeds, 60
                                                 rounds; 3 minutes beside other work
  python -m experiments.unlearning evidence      10 seeds, 200 rounds, four times as many people;
                                                 3 minutes beside other work

Times are for 2 CPU cores. Published Dice on the others' test people
and on the training people who left: scratch .847 .622, fine-tuning .850 .845, FedAccum .849 .844,
FedEraser .846 .605, UKD .345 .240, PGA .851 .835, IFU .846 .583.

Beyond the paper: a membership test. Low accuracy on who left does not prove them forgotten, so each
of them is held against networks of the other seeds that saw them and that did not; "member" is the
share that looks seen. "influence" is one Newton step by Hessian-vector products, which the paper
names and leaves out. "full" forgets nothing and is the control.

DEVIATIONS: a perceptron on vectors stands for a U-Net; PGA takes a fixed number of steps. IFU
restarts within the training in two ways: "ifu" covers a fixed share of the drift with little noise,
and its exact epsilon is in the thousands; "ifu-private" covers what its noise can at epsilon 10.

results.json: the common schema of `study.results`; roles "remaining" (test people of the others)
and "forgotten" (training people who left). rounds.<arm>: further rounds of federation, by seed;
restart: round, epsilon and noise of both ways of IFU, by seed.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from experiments import forgetting
from medjax import check, cli, data, federated, study
from medjax.federated import restart
from medjax.train import Report

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """A federation forgets one of its hospitals."""

  arms: tuple[str, ...] = (
    "full", "scratch", "fine-tune", "fedaccum", "federaser", "ukd", "pga", "ifu",
    "ifu-private", "influence",
  )  # fmt: skip
  num_people: int = 120  # of each hospital, a third of them for testing
  margin: float = 0.05  # in accuracy
  num_rounds: int = 60  # of the training that is to be forgotten in part
  num_further: int = 30  # rounds of fine-tuning, also after PGA
  local_steps: int = 5  # updates of a client in a round
  batch_size: int = 16
  learning_rate: float = 0.1  # of the clients' gradient descent
  every: int = 2  # FedEraser's rounds of the training for one of its own
  kept_fraction: float = 0.35  # of the leaving hospital's drift that IFU's restart may hold
  sigma: float = 0.05  # IFU's noise on each parameter
  private_sigma: float = 0.5  # noise on each parameter of "ifu-private"
  private_epsilon: float = 10.0  # that it costs; both say how much drift the restart may hold
  delta: float = 0.025  # of both epsilons
  damping: float = 0.5  # of the Newton step
  log_every: int = 10  # rounds between two log rows

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)
    check.require(
      {"full", "scratch"} <= set(self.arms) and self.num_seeds >= 3,
      "the arms full and scratch, and 3 seeds or more",
      f"{self.arms}, {self.num_seeds} seeds",
      "networks of the other seeds are the references of the membership test",
    )


# --- arms

_NOISE = {"ifu": forgetting.usual_noise, "ifu-private": forgetting.private_noise}
_INFORMED = {
  name: functools.partial(forgetting.informed, noise=noise, name=name)
  for name, noise in _NOISE.items()
}
ARMS = study.arms(
  study.Arm("full", "nothing is forgotten: the control", lambda t, o: (o.full.params, 0)),
  study.Arm("scratch", "trained without it", lambda t, o: (o.scratch.params, t.config.num_rounds)),
  study.Arm("fine-tune", "further rounds without it", forgetting.fine_tuned),
  study.Arm("fedaccum", "its updates left out of the sum", lambda t, o: (o.past.replayed, 0)),
  study.Arm("federaser", "new directions, old lengths", forgetting.eraser),
  study.Arm("ukd", "its updates subtracted, then distilled", forgetting.subtracted),
  study.Arm("pga", "up its loss in a ball, further rounds", forgetting.ascended),
  study.Arm("ifu", "from a round before, with little noise", _INFORMED["ifu"]),
  study.Arm("ifu-private", "from a round before, with enough noise", _INFORMED["ifu-private"]),
  study.Arm("influence", "one Newton step on the others' loss", forgetting.influence),
)

# --- questions, written down before the run

_SPREAD = (("subject", 0.3), ("seed", 0.03))
_SAID = {  # arm -> what the paper says of the others' accuracy, and of who left, against scratch
  "fine-tune": ("equivalent", "better"),
  "fedaccum": ("equivalent", "better"),
  "federaser": ("equivalent", "equivalent"),
  "ukd": ("worse", "worse"),
  "pga": ("equivalent", "better"),
  "ifu": ("equivalent", "equivalent"),
  "ifu-private": ("equivalent", "equivalent"),
  "influence": ("open", "open"),
}


def _questions() -> list[study.Question]:
  found = []
  for arm, (others, left) in _SAID.items():
    for text, metric, role, expects in (
      (f"Is {arm} as useful to the others as scratch?", "accuracy", "remaining", others),
      (f"Does {arm} know who left better than scratch?", "accuracy", "forgotten", left),
      (f"Does {arm} look as if it had seen who left?", "member", "membership", "open"),
    ):
      kind: Any = expects
      found.append(study.Question(text, "scratch", (arm,), metric, role, kind, _SPREAD))
  return found


QUESTIONS = tuple(_questions())
PRESETS = {
  "demo": Config(),
  "evidence": Config(num_people=480, num_seeds=10, num_rounds=200, num_further=100),
}

# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  study.paths_of(options.data, 0)
  whole = data.concat(
    {n: forgetting.hospital(n, config.num_people, options.seed) for n in forgetting.HOSPITALS}
  )
  parts = study.parted(whole.subjects, {"train": 2 / 3, "test": 1 / 3}, options.seed)
  people = study.people_by_part(whole.subjects, parts)
  train, test = (data.stack(whole, parts[part]) for part in ("train", "test"))
  left = data.streams.take(train, np.flatnonzero(train.domain == forgetting.GONE))
  stay = data.streams.take(test, np.flatnonzero(test.domain != forgetting.GONE))
  roles = {"remaining": stay, "forgotten": left, "membership": left}
  tested = {role: len(cases.label) for role, cases in roles.items()}
  design = study.design(config, options.seed, QUESTIONS, config.arms, people, tested=tested)
  with options.directory(config, whole.manifest()) as directory:
    if directory.finished:
      return
    design.begin(directory)
    server = data.stack(forgetting.hospital(forgetting.HOSPITALS[0], 60, options.seed + 1))
    task = forgetting.Task(config, train, server, directory)
    each = [forgetting.leaving(task, seed) for seed in design.seeds]
    made = {arm: [ARMS[arm].make(task, own) for own in each] for arm in config.arms}
    odds = {
      arm: np.stack([federated.log_odds(task.predict(p, left.image), left.label) for p, _ in own])
      for arm, own in made.items()
    }
    rows: list[dict[str, Any]] = []
    for arm, own in made.items():
      for place, seed in enumerate(design.seeds):
        # The networks of the other seeds are the references.
        apart = np.arange(len(design.seeds)) != place
        ratio = federated.membership_ratio(
          odds[arm][place], odds["full"][apart], odds["scratch"][apart]
        )
        for role, cases in roles.items():
          names = [whole.subjects[i] for i in cases.index]
          about = {"arm": arm, "seed": seed, "role": role}
          logits = task.predict(own[place][0], cases.image)
          found = study.classes(
            logits, cases.label, about=about, subjects=names, wanted=("accuracy",)
          )
          seen = dict(zip(names, ratio > 0, strict=False)) if role == "membership" else {}
          rows += [{**row, "member/all": float(seen.get(row["case"], np.nan))} for row in found]
    found = design.results(
      [row for row in rows if row["role"] != "membership"],
      ("accuracy",),
      is_simulated=True,
      member={arm: float(np.mean(member_of(rows, arm))) for arm in config.arms},
      rounds={arm: [rounds for _, rounds in own] for arm, own in made.items()},
      restart=[restarts(task, own) for own in each],
    )
    every = [one for own in each for one in (own.full, own.scratch)]
    study.finish(directory, found, page(found, each), trained=every, rows=rows)


def restarts(task: forgetting.Task, own: forgetting.Leaving) -> dict[str, dict[str, float]]:
  """Where IFU goes back to with each noise, and the epsilon of that noise."""
  found = {}
  for arm, noise in _NOISE.items():
    limit, sigma = one = noise(task, own)
    epsilon = restart.epsilon_of(limit, sigma, task.config.delta)
    found[arm] = {"round": one.round_of(own), "epsilon": epsilon, "sigma": sigma}
  return found


def member_of(rows: list[dict[str, Any]], arm: str) -> list[float]:
  return [r["member/all"] for r in rows if (r["arm"], r["role"]) == (arm, "membership")]


def page(found: dict[str, Any], each: list[forgetting.Leaving]) -> Report:
  """Utility, forgetting, membership and rounds side by side, then verdicts and curves."""
  report = study.page.start("Forgetting one hospital of four", found)
  report.section("What each way keeps", "The nearer a row is to that of scratch, the better.")
  report.table(
    ["arm", "accuracy, others", "accuracy, who left", "look seen, share", "further rounds"],
    [
      [
        arm,
        own["remaining"]["accuracy"]["mean"],
        own["forgotten"]["accuracy"]["mean"],
        found["member"][arm],
        float(np.mean(found["rounds"][arm])),
      ]
      for arm, own in found["arms"].items()
    ],
    "Look seen: log-likelihood ratio above 0 against networks of the other seeds.",
  )
  report.table(
    ["seed", *(f"{arm}, {what}" for arm in _NOISE for what in ("restart after", "epsilon"))],
    [
      [own.seed, *(one[arm][what] for arm in _NOISE for what in ("round", "epsilon"))]
      for own, one in zip(each, found["restart"], strict=True)
    ],
    "IFU's restarts. Epsilon is exact for two networks as far apart as the drift that was covered;"
    " that training anew would have stayed so near is an assumption.",
  )
  study.page.scores(report, found, ARMS)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  first = {"full": each[0].full, "scratch": each[0].scratch}
  study.page.curves(report, first, {"loss": "mean loss of the clients"}, xlabel="round")
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
