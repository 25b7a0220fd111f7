"""Continual-GEN: one network for domain after domain, when nobody says which a picture is of.

Bayasi et al., "Continual-GEN: Continual Group Ensembling for Domain-agnostic Skin Lesion
Classification" (2023): every new domain gets a subnetwork of its own units, which later ones
cannot change; an ensemble of distances to the kept statistics of the domains says whether a set is
new, and which subnetwork a picture is for. Claims: joint training > Continual-GEN > subnetworks
whose domain is told > LwF > EWC > plain sequential training; more groupings are better.

  python -m experiments.continual_gen demo      written digits in five domains, 2 seeds; about 4
                                                minutes
  python -m experiments.continual_gen evidence  all arms, 5 seeds; about 12 minutes

Times are estimates for 2 CPU cores; digits come with scikit-learn. Domains: as they are, inverted,
turned by 90 degrees, pixels in another order, and as they are with noise; the last is the first
once more. Published balanced accuracy of skin lesions: joint .881, Continual-GEN .811 with five
subnetworks, PackNet .756, CP&S .764, LwF .521, EWC .463, sequential .424; one or two groupings
.753.

"gen" and "gen-one" are told nothing. "packnet" and "given" are told the domain of every picture at
the test and that each set is new: with the same subnetworks, what "given" is above "gen" is what
routing costs. The paper has its own method above those that are told, which routing alone cannot
do.

DEVIATIONS: the paper prints a distance whose large values mean likeness; here a small one does, as
its test does. A set is new where the mean distance of its pictures is above `novelty` times that of
the domain's own, for every domain; it counts as domain of the nearest otherwise, and nothing is
trained. First-order Taylor scores stand for "culpability", which the paper does not define.

results.json: the common schema of `study.results`; role "after all" is every domain after the last;
transfer.<arm>: acc, bwt and forgetting of `metrics.transfer_summary`; routing.<arm>: share of the
pictures whose subnetwork is that of their domain; subnetworks.<arm>: mean number.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import classical, domain_courses
from experiments.domain_courses import DOMAINS, Course, Way, shown
from medjax import check, cli, data, metrics, study
from medjax.train import Report

_SAME = {"noisy": "plain"}  # a subnetwork of either is right for both

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """A perceptron that meets five domains of written digits, one after the other."""

  num_seeds: int = 2
  arms: tuple[str, ...] = ("joint", "sequential", "ewc", "lwf", "given", "gen")  # what is compared
  widths: tuple[int, ...] = (256, 128)  # hidden units
  share_fraction: float = 0.2  # of the units of a layer that a domain keeps
  num_steps: int = 400  # updates a domain
  batch_size: int = 32
  learning_rate: float = 1e-3  # Adam's
  ewc_strength: float = 100.0  # of the penalty
  lwf_strength: float = 1.0  # of the distance to the old logits
  groupings: tuple[int, ...] = (1, 3, 5, 7, 10)  # clusters of each, beside that by class
  novelty: float = 1.3  # times a domain's own distance from which a set is new

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)
    check.require(
      self.share_fraction * len(DOMAINS) <= 1,
      f"share_fraction of 1 / {len(DOMAINS)} or less",
      f"{self.share_fraction}",
      "the units of all domains must fit into the network",
    )


_UNITS = domain_courses.units
ARMS = study.arms(
  study.Arm("joint", "all domains at once", lambda: Way(domain_courses.joint)),
  study.Arm("sequential", "one after the other, all weights",
            lambda: Way(domain_courses.sequential)),
  study.Arm("ewc", "the same, held where earlier domains were sensitive",
            lambda: Way(domain_courses.anchored)),
  study.Arm("lwf", "the same, held to the old network's logits",
            lambda: Way(domain_courses.without_forgetting)),
  study.Arm("packnet", "subnetworks by magnitude, domains told",
            lambda: Way(_UNITS, score="magnitude")),
  study.Arm("given", "subnetworks by Taylor scores, domains told", lambda: Way(_UNITS)),
  study.Arm("gen", "the same, nothing told", lambda: Way(_UNITS, is_told=False)),
  study.Arm("gen-one", "the same, grouped by class alone",
            lambda: Way(_UNITS, is_told=False, has_groups=False)),
)  # fmt: skip

# --- questions, written down before the run

_SPREAD = (("subject", 0.3), ("seed", 0.03))


def _ask(text: str, reference: str, arms: tuple[str, ...], expects: Any) -> study.Question:
  return study.Question(text, reference, arms, "accuracy", "after all", expects, _SPREAD)


QUESTIONS = (
  _ask("Do subnetworks forget less, told nothing?", "lwf", ("gen",), "better"),
  _ask("Is LwF above EWC and sequential training?", "lwf", ("ewc", "sequential"), "worse"),
  _ask("Is joint training the bound?", "gen", ("joint",), "better"),
  _ask("What does it cost that nobody tells the domain?", "given", ("gen",), "better"),
  _ask("Are Taylor scores better than magnitudes?", "packnet", ("given",), "open"),
  _ask("Are several groupings better than one?", "gen-one", ("gen",), "better"),
)
PRESETS = {"demo": Config(), "evidence": Config(arms=tuple(ARMS), num_seeds=5)}

# --- the run and its page


def parts_of(digits: Any, seed: int) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
  """Stores of every domain, of the same people in each part, and who stands where."""
  rows = study.parted(digits.subjects, {"train": 0.6, "test": 0.4}, seed)
  found: dict[str, Any] = {}
  for part, own in rows.items():
    cases = data.stack(digits, own)
    found[part] = [
      {"image": shown(cases.image, domain, seed), "label": cases.label, "weight": cases.weight}
      for domain in DOMAINS
    ]
  return found, rows


def build(config: Config, options: cli.RunOptions) -> None:
  study.paths_of(options.data, 0)
  digits: Any = classical.Digits()
  parts, rows_of = parts_of(digits, options.seed)
  seeds = range(options.seed, options.seed + config.num_seeds)
  people = [digits.subjects[i] for i in rows_of["test"]]
  members = {"after all": {"seed": len(seeds), "subject": len(people)}}
  planned = study.planned(QUESTIONS, members, config.arms, margin=config.margin)
  with options.directory(config, digits.manifest()) as directory:
    if directory.finished:
      return
    named = {part: study.people_of(digits.subjects, own) for part, own in rows_of.items()}
    directory.write_json("splits", study.splits_of([study.Turn("", None, (), {}, named)],
                                                   options.seed))  # fmt: skip
    study.announce(planned)
    rows, matrices, routed, numbers, trained = [], {}, {}, {}, {}
    for arm in config.arms:
      for seed in seeds:
        course = Course(config, arm, ARMS[arm].make(), seed, parts, directory)
        matrices.setdefault(arm, []).append(walked(course, parts["test"]))
        rows += tested(course, arm, seed, parts["test"], people)
        if course.subnetworks:
          numbers.setdefault(arm, []).append(len(course.subnetworks))
          routed.setdefault(arm, []).append(routing(course, parts["test"]))
        trained.setdefault(arm, []).extend(course.trained)
    found = study.answered(
      rows, ("accuracy",), QUESTIONS, margin=config.margin, planned=planned,
       is_simulated=False,
      transfer={arm: summary(own) for arm, own in matrices.items()},
      routing={arm: float(np.mean(own)) for arm, own in routed.items()},
      subnetworks={arm: float(np.mean(own)) for arm, own in numbers.items()},
    )  # fmt: skip
    report = page(found)
    study.page.costs(report, trained)
    study.finish(directory, found, report, trained=trained, rows=rows)


def walked(course: Course, tests: Sequence[Any]) -> np.ndarray:
  """[trained through, tested on] accuracy, domain after domain."""
  table = np.zeros((len(DOMAINS), len(DOMAINS)))
  for k in range(len(DOMAINS)):
    course.way.learn(course, k)
    for j, test in enumerate(tests):
      table[k, j] = (course.predict(test["image"], j)[0].argmax(1) == test["label"]).mean()
  return table


def tested(
  course: Course, arm: str, seed: int, tests: Sequence[Any], people: Sequence[str]
) -> list[dict[str, Any]]:
  """Rows of people, each in every domain, after the last one."""
  rows = []
  for j, test in enumerate(tests):
    about = {"arm": arm, "seed": seed, "role": "after all"}
    logits = course.predict(test["image"], j)[0]
    rows += study.classes(logits, test["label"], about=about, subjects=people, site=DOMAINS[j],
                          wanted=("accuracy",))  # fmt: skip
  return rows


def routing(course: Course, tests: Sequence[Any]) -> float:
  """Share of pictures that went to a subnetwork of their domain, or of the same one."""
  right = []
  for j, test in enumerate(tests):
    chosen = course.predict(test["image"], j)[1]
    same = [DOMAINS.index(_SAME.get(DOMAINS[j], DOMAINS[j])), j]
    same += [DOMAINS.index(d) for d, other in _SAME.items() if other == DOMAINS[j]]
    right.append(np.isin(chosen, [course.of_domain[i] for i in same]).mean())
  return float(np.mean(right))


def summary(tables: Sequence[np.ndarray]) -> dict[str, float]:
  found = metrics.transfer_summary(np.stack(tables))
  return {name: float(np.mean(getattr(found, name))) for name in ("acc", "bwt", "forgetting")}


def page(found: dict[str, Any]) -> Report:
  """Answers, scores, what was forgotten, where pictures went, and verdicts."""
  report = study.page.start("Continual learning of written digits in five domains", found)
  study.page.scores(report, found, ARMS)
  report.table(
    ["arm", "accuracy", "backward transfer", "forgetting", "subnetworks", "routed rightly"],
    [[arm, own["acc"], own["bwt"], own["forgetting"], found["subnetworks"].get(arm, np.nan),
      found["routing"].get(arm, np.nan)] for arm, own in found["transfer"].items()],
    "Accuracy over all domains after the last. Backward transfer below 0: earlier domains were"
    " forgotten. A subnetwork cannot forget; what is lost there is lost by routing.",
  )  # fmt: skip
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
