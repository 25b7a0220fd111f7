"""Prototypes of lesions: does a network that says "it looks like these" do as well as a plain one?

Santiago et al., "Global and Local Explanations for Skin Cancer Diagnosis Using Prototypes" (2023):
an image and its places are likened to learnt prototypes of each class, which are pulled to
centroids of mini-batch k-means; a second stage weighs prototypes and prunes. LOW (Santiago et al.
2021) weighs examples by the gradients of their logits. Claims: both branches about as good as the
plain network and far above ProtoPNet; LOW lifts balanced accuracy; pruning is nearly free; maps of
likeness point at the lesion.

  python -m experiments.prototypes demo      drawn lesions, one class 20 times rarer; 5 minutes
  python -m experiments.prototypes skin --data FOLDER --data WEIGHTS
                                             dermoscopy with masks and diagnosis.csv, and weights of
                                             EfficientNet-Lite0; 3 minutes
  python -m experiments.prototypes mitosis --data FOLDER --data WEIGHTS
                                             SCANNER/CLASS/*.png with patches.csv, 20 times rarer; 5
                                             minutes

Times are estimates for 2 CPU cores. Published balanced accuracy on ISIC 2019 (plain, ProtoPNet,
global, local, joint): VGG16 60.3 58.9 60.9 61.3 62.9; ResNet18 63.7 56.0 63.2 61.5 64.8; ResNet50
64.4 49.3 67.6 65.9 66.2; pruning costs .3 to 1.0 and removes a third.

"class-weights" is the control for LOW, "shuffled-map" (the map of likeness with the weights in a
random order) and "centre-map" (high in the middle of any picture) those for the maps. All maps
explain the joint network. The demo's lesions lie anywhere; real ones lie in the middle.

DEVIATIONS: in "skin" and "mitosis" the backbone stays as ImageNet left it, its eleventh block is
the map, and covered places are places of that map. A place that is most like a prototype of its
class stands for the picture in the k-means of places, which the paper leaves open. ProtoPNet's row
has its costs on the local branch alone, without its projection and its own second stage. The last
weights are kept.

results.json: the common schema of `study.results`. Role "maps": inside, hit and faithful, see
`prototype_maps.judged`. sanity.<map>: rank correlation of maps before and after the weights are
shuffled. kept: by seed, share of the prototypes that pruning leaves.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from experiments import lesion_sets, prototype_maps, prototype_trials
from experiments.prototype_trials import BOTH, GLOBAL, LOCAL
from medjax import check, cli, explain, rng, study
from medjax.train import Report

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(prototype_trials.Settings):
  """Plain networks and networks of prototypes."""

  num_seeds: int = 2  # seeds, each with its own rare examples and weights
  arms: tuple[str, ...] = ()  # what is compared, () for all
  num_pictures: int = 900  # drawn
  size: int = 32  # side of a picture in pixels
  imbalance: float = 20.0  # most frequent class over the rarest in training, 0 as it is
  num_mapped: int = 60  # test pictures whose maps are judged
  known: str = ""  # what is known of these data, a sentence shown beside the scores

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms or tuple(ARMS), ARMS)
    check.non_negative("imbalance", self.imbalance)


# --- data


def load(config: Config, options: cli.RunOptions) -> lesion_sets.LesionSet:
  read = {"skin": lesion_sets.skin, "mitosis": lesion_sets.mitosis}
  if options.preset in read:
    path, network = study.paths_of(options.data, 2)
    return read[options.preset](path, network, config.size)
  study.paths_of(options.data, 0)
  return lesion_sets.drawn(config.num_pictures, config.size, options.seed)


# --- arms: how each is trained, or the map that it makes of the joint network

_how = lambda **how: lambda: how  # noqa: E731
_maps = prototype_maps
ARMS = study.arms(
  study.Arm("plain", "a dense head", _how()),
  study.Arm("class-weights", "weighed by class: control", _how(by_class=True)),
  study.Arm("low", "weighed by gradients of logits: LOW", _how(weigh=True)),
  study.Arm("low-gradients", "LOW by gradients of all weights", _how(weigh=True, by="gradients")),
  study.Arm("global", "prototypes of images", _how(branches=GLOBAL)),
  study.Arm("local", "prototypes of places", _how(branches=LOCAL)),
  study.Arm("joint", "both: the paper's", _how(branches=BOTH)),
  study.Arm("joint-low", "both, with LOW", _how(branches=BOTH, weigh=True)),
  study.Arm("printed", "both, no temperature, no sigmoid", _how(branches=BOTH)),
  study.Arm(
    "protopnet",
    "places, with ProtoPNet's costs",
    _how(branches=LOCAL, has_centroids=False, strength=1.0),
  ),
  study.Arm("second", "joint, prototypes weighed", dict, "joint"),
  study.Arm("pruned", "joint, weighed and pruned", dict, "joint"),
  study.Arm("local-map", "likeness of the places", _maps.local_map, "joint"),
  study.Arm("gradcam-map", "GradCAM", _maps.gradcam_map, "joint"),
  study.Arm("integrated-map", "integrated gradients", _maps.integrated_map, "joint"),
  study.Arm("shuffled-map", "likeness, shuffled weights", _maps.local_map, "joint"),
  study.Arm("centre-map", "the middle of any picture", _maps.centre_map, "joint"),
)
_SECOND = ("second", "pruned")
_MAPS = tuple(arm for arm in ARMS if arm.endswith("-map"))

# --- questions, written down before the run


def _ask(text: str, reference: str, arm: str, expects: Any = "better") -> study.Question:
  spread = (("subject", 0.35), ("seed", 0.03))
  return study.Question(text, reference, (arm,), "balanced", "test", expects, spread)


def _map(text: str, reference: str, metric: str, expects: Any = "better") -> study.Question:
  spread = (("subject", 0.2), ("seed", 0.05))
  return study.Question(text, reference, ("local-map",), metric, "maps", expects, spread)


QUESTIONS = (
  _ask("Are prototypes as good as a plain network?", "plain", "joint", "equivalent"),
  _ask("Do they beat ProtoPNet's costs?", "protopnet", "joint"),
  _ask("Do both branches beat the global one?", "global", "joint"),
  _ask("Do they beat the local one?", "local", "joint"),
  _ask("Does LOW lift balanced accuracy?", "plain", "low"),
  _ask("Does it beat weights of classes?", "class-weights", "low", "open"),
  _ask("Does it need gradients of all weights?", "low", "low-gradients", "open"),
  _ask("Does it lift that of prototypes?", "joint", "joint-low"),
  _ask("Do temperature and sigmoid matter?", "printed", "joint", "open"),
  _ask("Does the second stage help?", "joint", "second", "open"),
  _ask("Is pruning nearly free?", "second", "pruned", "equivalent"),
  _map("Do local maps point at the lesion?", "shuffled-map", "inside"),
  _map("More than the middle of the picture?", "centre-map", "inside", "open"),
  _map("More than GradCAM?", "gradcam-map", "inside", "open"),
  _map("Do they name what the score needs?", "shuffled-map", "faithful"),
  _map("Better than GradCAM?", "gradcam-map", "faithful", "open"),
  _map("Better than integrated gradients?", "integrated-map", "faithful", "open"),
)

PRESETS = {
  "demo": Config(),
  "skin": Config(size=160, widths=(), imbalance=0.0, code=64, num_steps=300),
  "mitosis": Config(size=96, widths=(), code=64),
}

# --- the run and its page

_FIGURES = ("balanced", "auroc", "inside", "hit", "faithful")


def build(config: Config, options: cli.RunOptions) -> None:
  held = load(config, options)
  arms = config.arms or tuple(ARMS)
  for arm in arms:
    start = ARMS[arm].starts_from
    check.require(not start or start in arms, f"the arm {start} with {arm}", "none", "add it")
  parts = study.parted(held.subjects, {"train": 0.6, "test": 0.4}, options.seed)
  people = study.people_by_part(held.subjects, parts)
  whole, test = (np.array(parts[part]) for part in ("train", "test"))
  shown = test[: config.num_mapped]
  asked = [q for q in QUESTIONS if held.mask is not None or q.metric not in ("inside", "hit")]
  tested = {"test": len(people["test"]), "maps": len({held.subjects[i] for i in shown})}
  design = study.design(config, options.seed, QUESTIONS, arms, people, tested=tested, asked=asked)
  with options.directory(config, held.manifest) as directory:
    if directory.finished:
      return
    design.begin(directory)
    image = lesion_sets.standardised(held.image, whole)
    trains = {
      seed: lesion_sets.thinned(held.label, whole, config.imbalance, seed) for seed in design.seeds
    }
    trials = prototype_trials.Trials(
      config, image, held.label, len(held.class_names), len(trains[options.seed])
    )
    trained: dict[str, list[study.Trained]] = {a: [] for a in arms if a not in _MAPS}
    rows: list[dict[str, Any]] = []
    kept: list[float] = []
    sanity: dict[str, list[float]] = {}
    for seed, train in trains.items():
      subjects = [held.subjects[i] for i in test]
      for arm in trained:
        if arm in _SECOND:
          joint = trained["joint"][-1]
          logits, one, share = trials.second(arm, joint, train, test, seed, directory)
          kept += [share] if arm == "pruned" else []
        else:
          how = ARMS[arm].make()
          one = trials.train(arm, how, train, seed, directory)
          logits = trials.logits(arm, how, one.params, test)
        trained[arm].append(one)
        about = {"arm": arm, "seed": seed, "role": "test"}
        rows += [
          {**row, **{f"{name}/all": float("nan") for name in _FIGURES[2:]}}
          for row in study.classes(
            logits, held.label[test], about=about, subjects=subjects, wanted=_FIGURES[:2]
          )
        ]
      for arm in (arm for arm in arms if arm in _MAPS):
        found, change = mapped(trials, held, shown, trained["joint"][-1], arm, seed)
        sanity.setdefault(arm, []).append(change)
        rows += map_rows(found, [held.subjects[i] for i in shown], arm, seed)
    results = design.results(
      rows,
      _FIGURES,
      is_simulated=options.preset == "demo",
      kept=kept,
      sanity={arm: float(np.mean(own)) for arm, own in sanity.items()},
    )
    report = page(config, held, results, trained)
    study.finish(directory, results, report, trained=trained, rows=rows)


def mapped(
  trials: prototype_trials.Trials,
  held: lesion_sets.LesionSet,
  shown: np.ndarray,
  joint: study.Trained,
  arm: str,
  seed: int,
) -> tuple[dict[str, np.ndarray], float]:
  """Figures of a map of the joint network, and how alike it is after its weights are shuffled."""
  key = jax.random.key(seed)
  map_fn = ARMS[arm].make(trials.net)
  keys = jax.random.split(rng.stream(key, "ties"), len(shown))
  shuffled = explain.shuffled_weights(joint.params, rng.stream(key, "shuffled"), lambda name: True)
  masks = None if held.mask is None else held.mask[shown]
  found = prototype_maps.judged(
    trials.net, joint.params, map_fn, trials.image[shown], masks, keys,
    map_params=shuffled if arm == "shuffled-map" else None,
  )  # fmt: skip
  return found, prototype_maps.sanity_of(map_fn, joint.params, trials.image[shown], key)


def map_rows(
  found: dict[str, np.ndarray], subjects: list[str], arm: str, seed: int
) -> list[dict[str, Any]]:
  """A row a person: the mean over their pictures."""
  people, owner = np.unique(np.array(subjects), return_inverse=True)
  means = {name: np.bincount(owner, own) / np.bincount(owner) for name, own in found.items()}
  empty = {f"{name}/all": float("nan") for name in _FIGURES}
  about = {"arm": arm, "seed": seed, "role": "maps"}
  return [
    {**about, "case": str(person), "subject": str(person), "domain": "", **empty,
     **{f"{name}/all": float(own[i]) for name, own in means.items()}}
    for i, person in enumerate(people)
  ]  # fmt: skip


def page(
  config: Config,
  held: lesion_sets.LesionSet,
  found: dict[str, Any],
  trained: dict[str, list[study.Trained]],
) -> Report:
  """The answers, scores, verdicts, what the maps are worth, curves and costs."""
  report = study.page.start(f"Prototypes of {held.title}", found)
  counts = np.bincount(held.label, minlength=len(held.class_names))
  text = ", ".join(f"{n:,} {name}" for n, name in zip(counts, held.class_names, strict=True))
  study.page.scores(report, found, ARMS, text=f"{text}. {config.known}".strip())
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  if found["sanity"]:
    report.table(
      ["map", "correlation after shuffling"],
      [list(own) for own in found["sanity"].items()],
      "Near 1: a map that does not depend on what the network has learnt.",
    )
  if found["kept"]:
    report.section("Pruning", f"Keeps {np.mean(found['kept']):.0%} of the prototypes.")
  study.page.trainings(report, found, trained, {"loss": "loss"})
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
