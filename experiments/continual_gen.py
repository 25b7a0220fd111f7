"""Continual-GEN: one network for domain after domain, when nobody says which a picture is of.

Bayasi et al., "Continual-GEN: Continual Group Ensembling for Domain-agnostic Skin Lesion
Classification" (2023): every new domain gets a subnetwork of its own units, which later ones
cannot change; an ensemble of distances to the kept statistics of the domains says whether a set is
new, and which subnetwork a picture is for. Claims: joint training > Continual-GEN > subnetworks
whose domain is told > LwF > EWC > plain sequential training; more groupings are better.

  python -m experiments.continual_gen demo      written digits in five domains, 2 seeds; about 4
                                                minutes
  python -m experiments.continual_gen evidence  all arms, 5 seeds; about 12 minutes
  python -m experiments.continual_gen scanners --data SITE1 --data SITE2 --weights LITE0
                                                mitotic figures, typical or atypical, scanner after
                                                scanner, parted by slide; about 10 minutes
  python -m experiments.continual_gen skin --data PH2 --data ARTEFACTS --weights LITE0
                                                skin lesions: clean, with real rulers, with bubbles,
                                                and mirrored; about 10 minutes

Times are estimates for 2 CPU cores; digits come with scikit-learn. LITE0 is a checkpoint of
EfficientNet-Lite0, whose frozen features the perceptron reads; `scanners` wants patches.csv beside
the sites, as `fusestyle` does, PH2 and ARTEFACTS are those of `test_time_selection`. Domains of
digits: as they are, inverted,
turned by 90 degrees, pixels in another order, and as they are with noise; the last is the first
once more. Published balanced accuracy of skin lesions: joint .881, Continual-GEN .811 with five
subnetworks, PackNet .756, CP&S .764, LwF .521, EWC .463, sequential .424; one or two groupings
.753.

"gen", "gen-means" and "gen-one" are told nothing. "cps" is told that each set is new and which
`num_together` test pictures are of one domain; it takes the subnetwork of the strongest response.
"packnet" and "given" are told that each set is new and the domain of every test picture: with the
same subnetworks, what "given" is above "gen" is what routing costs. The paper has its own method
above those that are told, which routing alone cannot do.

DEVIATIONS: the paper prints a distance whose large values mean likeness; here a small one does, as
its test does. A set is new where the mean distance of its pictures is above `novelty` times that of
the domain's own, for every domain; it counts as domain of the nearest otherwise, and nothing is
trained. First-order Taylor scores stand for "culpability", which the paper does not define, and for
the scores of CP&S. Clusters are those of the pictures that a domain was learnt from; a set that is
judged is not grouped itself, but its pictures' distances are averaged, as a single picture has no
groups.

results.json: the common schema of `study.results`; role "after all" is every domain after the last;
transfer.<arm>: acc, bwt and forgetting of `metrics.transfer_summary`; routing.<arm>: share of the
pictures whose subnetwork is that of their domain; subnetworks.<arm>: mean number.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import domain_courses, domain_sets
from experiments.domain_courses import Course, Way
from experiments.domain_sets import DomainSet
from medjax import check, cli, metrics, study
from medjax.train import Report

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """A perceptron that meets one domain after the other."""

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
  num_together: int = 20  # test pictures that "cps" knows to be of one domain
  weights: str = ""  # checkpoint of EfficientNet-Lite0, of real pictures
  features: str = ""  # folder where its features are kept; "" keeps none
  table: str = "patches.csv"  # CSV beside the scanners with the slide of each file

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)
    check.positive("num_together", self.num_together)


_UNITS = domain_courses.units


def _untold(**how: Any) -> Way:
  return Way(_UNITS, is_told=False, route=domain_courses.nearest, **how)


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
  study.Arm("cps", "the same, chosen by the response to several pictures",
            lambda: Way(_UNITS, route=domain_courses.strongest)),
  study.Arm("gen", "the same, nothing told", lambda: _untold()),
  study.Arm("gen-means", "the same, grouped by k-means", lambda: _untold(kind="means")),
  study.Arm("gen-one", "the same, grouped by class alone", lambda: _untold(has_groups=False)),
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
  _ask("Do mixtures group better than k-means?", "gen-means", ("gen",), "open"),
  _ask("Is the nearest domain better than the strongest response?", "cps", ("gen",), "better"),
)
_REAL = Config(arms=tuple(ARMS), num_seeds=5, num_steps=200)
PRESETS = {
  "demo": Config(),
  "evidence": Config(arms=tuple(ARMS), num_seeds=5),
  "scanners": _REAL,
  "skin": _REAL,
}

# --- the run and its page


def load(config: Config, options: cli.RunOptions) -> DomainSet:
  """The domains of a preset."""
  if options.preset in ("demo", "evidence"):
    study.paths_of(options.data, 0)
    return domain_sets.digits(options.seed)
  check.existing_file(config.weights, "pass --weights, a checkpoint of EfficientNet-Lite0")
  rest = config.weights, config.features, options.seed
  if options.preset == "skin":
    skin, artefacts = study.paths_of(options.data, 2)
    return domain_sets.lesions(skin, artefacts, *rest)
  paths = [path.resolve() for path in study.paths_of(options.data, None)]
  return domain_sets.scanners(paths, config.table, *rest)


def check_units(config: Config, names: Sequence[str]) -> None:
  """Refuses shares of units that cannot all be had.

  Raises:
    InputError: the units of so many domains do not fit into the network.
  """
  check.require(
    config.share_fraction * len(names) <= 1,
    f"share_fraction of 1 / {len(names)} or less",
    f"{config.share_fraction}",
    "the units of all domains must fit into the network",
  )


def build(config: Config, options: cli.RunOptions) -> None:
  domains = load(config, options)
  check_units(config, domains.names)
  named = {
    part: tuple(sorted({person for one in own for person in one}))
    for part, own in domains.people.items()
  }
  design = study.design(config, options.seed, QUESTIONS, config.arms, named, tested=["after all"])
  with options.directory(config, domains.manifest) as directory:
    if directory.finished:
      return
    design.begin(directory)
    rows, matrices, routed, numbers, trained = [], {}, {}, {}, {}
    for arm in config.arms:
      for seed in design.seeds:
        course = Course(config, arm, ARMS[arm].make(), seed, domains, directory)
        matrices.setdefault(arm, []).append(walked(course))
        rows += tested(course, arm, seed, domains)
        if course.subnetworks:
          numbers.setdefault(arm, []).append(len(course.subnetworks))
          routed.setdefault(arm, []).append(routing(course, domains.same))
        trained.setdefault(arm, []).extend(course.trained)
    found = design.results(
      rows, ("accuracy",), is_simulated=False,
      transfer={arm: summary(own) for arm, own in matrices.items()},
      routing={arm: float(np.mean(own)) for arm, own in routed.items()},
      subnetworks={arm: float(np.mean(own)) for arm, own in numbers.items()},
    )  # fmt: skip
    report = page(found, domains)
    study.page.costs(report, trained)
    study.finish(directory, found, report, trained=trained, rows=rows)


def walked(course: Course) -> np.ndarray:
  """[trained through, tested on] accuracy, domain after domain."""
  number = len(course.names)
  table = np.zeros((number, number))
  for k in range(number):
    course.way.learn(course, k)
    for j, test in enumerate(course.parts["test"]):
      table[k, j] = (course.predict(test["image"], j)[0].argmax(1) == test["label"]).mean()
  return table


def tested(course: Course, arm: str, seed: int, domains: DomainSet) -> list[dict[str, Any]]:
  """Rows of people, each in every domain, after the last one."""
  rows = []
  for j, test in enumerate(domains.parts["test"]):
    about = {"arm": arm, "seed": seed, "role": "after all"}
    logits = course.predict(test["image"], j)[0]
    rows += study.classes(logits, test["label"], about=about, site=domains.names[j],
                          subjects=domains.people["test"][j], wanted=("accuracy",))  # fmt: skip
  return rows


def routing(course: Course, same: Mapping[str, str]) -> float:
  """Share of pictures that went to a subnetwork of their domain, or of one that is the `same`."""
  right, origin = [], [same.get(name, name) for name in course.names]
  for j, test in enumerate(course.parts["test"]):
    chosen = course.predict(test["image"], j)[1]
    alike = [i for i, name in enumerate(origin) if name == origin[j]]
    right.append(np.isin(chosen, [course.of_domain[i] for i in alike]).mean())
  return float(np.mean(right))


def summary(tables: Sequence[np.ndarray]) -> dict[str, float]:
  found = metrics.transfer_summary(np.stack(tables))
  return {name: float(np.mean(getattr(found, name))) for name in ("acc", "bwt", "forgetting")}


def page(found: dict[str, Any], domains: DomainSet) -> Report:
  """Answers, scores, what was forgotten, where pictures went, and verdicts."""
  report = study.page.start(
    f"Continual learning of {domains.title}: {', '.join(domains.names)}", found
  )
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
