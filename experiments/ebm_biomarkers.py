"""Imaging biomarkers for an explainable machine: do networks of regions beat volumes of regions?

Kang et al., "An Interpretable Machine Learning Model with Deep Learning-Based Imaging Biomarkers
for Diagnosis of Alzheimer's Disease" (2023). A network of the whole map of grey matter is asked, by
covering places, which regions it needs; a network for each of these gives a probability; an
explainable boosting machine adds up one curve a probability. Claims: above the machine on volumes
of regions, in AUC above the network; it names the regions of the disease.

  python -m experiments.ebm_biomarkers demo      drawn brains, 2 seeds; about 4 minutes
  python -m experiments.ebm_biomarkers regional  losses fill regions of the atlas; about 4 minutes
  python -m experiments.ebm_biomarkers brain --data FOLDER
                                                 losses drawn on the anatomies of a folder of label
                                                 maps with FreeSurfer's values; about 6 minutes

Times are estimates for 2 CPU cores; extras `classical` and `boosted`. Published on ADNI: accuracy
.883, AUC .970 beside .880 and .944 of the network; on the external set .778 and .887 beside .789
and .872.

What is drawn stands in experiments/atrophy.py; "regional" is the control for the volumes, which
miss what is smaller than a region of their atlas. Biomarkers of training people come from networks
of the folds that they are not in; "in-fold" takes those that have seen them. "random" has regions
of nobody's choice. "shuffled" ranks regions by the network with its weights in a random order.

DEVIATIONS: dense networks for regions; biomarkers of test people are means over the folds'
networks, which the paper leaves open, as it does what covers a place (the mean training person
here) and how far apart candidates are (half a side; chosen ones do not meet). As in the paper all
training people choose the regions, so that biomarkers out of fold have seen their own person's part
in that choice; test people have no part in anything.

results.json: the common schema of `study.results`; metric "found", share of the planted places in a
chosen region. importance.<arm>: mean size of the machine's terms, by seed. stability: by seed, for
each planted place the share of bootstrap draws of people in which it is found, and for each chosen
region that in which it is chosen again, and whether it holds a planted place.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
import optax

from experiments import atrophy, biomarkers, region_ranking
from medjax import check, cli, data, explain, rng, study
from medjax.train import Report, RunDirectory
from medjax.types import Params

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """A machine of curves over what networks of regions say."""

  arms: tuple[str, ...] = (
    "volumes", "global", "average", "biomarkers", "logistic", "random", "in-fold", "shuffled"
  )  # fmt: skip  # what is compared
  num_seeds: int = 2  # seeds, each with its own folds and weights
  num_people: int = 600  # of them, half are patients
  size: int = 24  # side of a map in voxels
  is_focal: bool = True  # whether losses are balls; else they fill regions of the atlas
  num_planted: int = 3  # places of the disease
  num_folds: int = 4  # of the training people
  num_regions: int = 6  # that are chosen
  region_size: int = 6  # side of a region in voxels
  window_size: int = 4  # side of what is covered, in voxels
  num_mapped: int = 60  # people a fold whose maps rank the regions
  widths: tuple[int, ...] = (8, 16)  # channels of the network of the whole map
  width: int = 16  # hidden units of the network of a region
  num_steps: int = 150  # updates
  batch_size: int = 32  # people an update
  learning_rate: float = 1e-3  # AdamW's
  decay: float = 0.1  # AdamW's, of the weights
  num_bags: int = 8  # of the boosting machine
  num_pairs: int = 2  # of features in it
  known: str = ""  # what is known of these data, a sentence shown beside the scores

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)
    check.require(self.num_folds >= 2, "num_folds >= 2", f"{self.num_folds}", "the paper has 5")


# --- data


def load(config: Config, options: cli.RunOptions) -> atrophy.Brains:
  known: dict[str, Any] = {"is_focal": config.is_focal, "num_planted": config.num_planted}
  if options.preset == "brain":
    (path,) = study.paths_of(options.data, 1)
    return atrophy.of_label_maps(path, config.num_people, config.size, options.seed, **known)
  study.paths_of(options.data, 0)
  return atrophy.drawn(config.num_people, config.size, options.seed, **known)


# --- arms: what is looked at, and what judges it

ARMS = study.arms(
  study.Arm("volumes", "the machine on volumes of regions", lambda: ("volumes", "machine")),
  study.Arm("global", "the network of the whole map", lambda: ("global", "mean")),
  study.Arm("average", "mean of all networks", lambda: ("chosen", "mean")),
  study.Arm("biomarkers", "the machine on networks: the paper's", lambda: ("chosen", "machine")),
  study.Arm("logistic", "a linear model on networks", lambda: ("chosen", "logistic")),
  study.Arm("random", "the paper's, regions at random: control", lambda: ("random", "machine")),
  study.Arm("in-fold", "the paper's, by networks that know", lambda: ("in-fold", "machine")),
  study.Arm("shuffled", "regions by shuffled weights: control", lambda: ("shuffled", "mean")),
)

# --- questions, written down before the run


def _ask(
  text: str, reference: str, arm: str, metric: str = "auroc", expects: Any = "better"
) -> study.Question:
  spread = (("seed", 0.2),) if metric == "found" else (("subject", 0.3), ("seed", 0.02))
  return study.Question(text, reference, (arm,), metric, "test", expects, spread)


QUESTIONS = (
  _ask("Do networks beat volumes?", "volumes", "biomarkers"),
  _ask("Do they in accuracy?", "volumes", "biomarkers", "accuracy"),
  _ask("Does the machine beat the network of the whole map?", "global", "biomarkers"),
  _ask("Does it beat the mean of the networks?", "average", "biomarkers", expects="open"),
  _ask("Is a linear model as good?", "biomarkers", "logistic", expects="open"),
  _ask("Is it the choice of the regions?", "random", "biomarkers"),
  _ask("Must biomarkers be out of fold?", "in-fold", "biomarkers", expects="open"),
  _ask("Are the regions of the disease found?", "shuffled", "biomarkers", "found"),
)

PRESETS = {
  "demo": Config(),
  "regional": Config(is_focal=False),
  "brain": Config(num_people=400),
}

# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  brains = load(config, options)
  parts = study.parted(brains.subjects, {"train": 0.7, "test": 0.3}, options.seed)
  people = study.people_by_part(brains.subjects, parts)
  train, test = (np.array(parts[part]) for part in ("train", "test"))
  design = study.design(config, options.seed, QUESTIONS, config.arms, people)
  with options.directory(config, brains.manifest) as directory:
    if directory.finished:
      return
    design.begin(directory)
    networks = biomarkers.Networks(
      biomarkers.standardised(brains.image, train),
      brains.label,
      optax.adamw(config.learning_rate, weight_decay=config.decay),
      widths=config.widths,
      width=config.width,
      window=config.window_size,
      batch_size=config.batch_size,
      num_steps=config.num_steps,
    )
    trained: dict[str, list[study.Trained]] = {"whole map": [], "regions": []}
    rows: list[dict[str, Any]] = []
    importance: dict[str, list[dict[str, float]]] = {}
    stability: list[dict[str, Any]] = []
    for seed in design.seeds:
      seen = features_of(config, brains, networks, directory, train, seed, trained, stability)
      for arm in config.arms:
        sort, judge = ARMS[arm].make()
        own = seen[sort]
        logits, terms = biomarkers.judged(
          own, brains.label, train, test, seed,
          judge=judge, num_pairs=config.num_pairs, num_bags=config.num_bags,
        )  # fmt: skip
        if terms:
          importance.setdefault(arm, []).append(terms)
        about = {"arm": arm, "seed": seed, "role": "test"}
        subjects = [brains.subjects[i] for i in test]
        rows += [
          {**row, "found/all": own.found}
          for row in study.classes(logits, brains.label[test], about=about, subjects=subjects)
        ]
    found = design.results(
      rows,
      ("auroc", "accuracy", "found"),
      is_simulated=True,
      importance=importance,
      stability=stability,
    )
    report = page(config, brains, found, trained)
    study.finish(directory, found, report, trained=trained, rows=rows)


def features_of(
  config: Config,
  brains: atrophy.Brains,
  networks: biomarkers.Networks,
  directory: RunDirectory,
  train: np.ndarray,
  seed: int,
  trained: dict[str, list[study.Trained]],
  stability: list[dict[str, Any]],
) -> dict[str, biomarkers.Seen]:
  """Trains the networks of a seed; what each sort of arm judges everybody by."""
  key, grid = jax.random.key(seed), region_ranking.grid_of(config.size, config.region_size)
  subjects = np.array(brains.subjects)
  drawn = data.folds(subjects[train].tolist(), config.num_folds, seed=seed)
  fold = np.full(len(subjects), -1)
  for k, one in enumerate(drawn):
    fold[train[np.isin(subjects[train], one.parts["validation"])]] = k

  def said(name: str, image: np.ndarray) -> tuple[np.ndarray, list[Params]]:
    """[fold, person, feature] probabilities, and the weights, of the networks of all folds."""
    jobs = [
      networks.job(f"{name}-{seed}-{k}", image, train[fold[train] != k], rng.stream(key, f"{k}"))
      for k in range(config.num_folds)
    ]
    own = study.train_jobs(jobs, directory, log_every=config.log_every)
    trained["whole map" if name == "global" else "regions"].extend(own)
    weights = [one.params for one in own]
    return np.stack([networks.probabilities(params, image) for params in weights]), weights

  whole, weights = said("global", networks.image)
  # Maps are of people whom the network has not seen.
  held = [train[fold[train] == k][: config.num_mapped] for k in range(config.num_folds)]
  shuffled = [
    explain.shuffled_weights(params, rng.stream(key, f"shuffled {k}"), lambda name: True)
    for k, params in enumerate(weights)
  ]
  sums, other_sums = (
    np.concatenate([grid.sums(networks.maps(p, rows)) for p, rows in zip(nets, held, strict=True)])
    for nets in (weights, shuffled)
  )
  chosen, by_shuffled = (
    region_ranking.ranked(grid, own.sum(0), config.num_regions) for own in (sums, other_sums)
  )
  by_chance = region_ranking.at_random(grid, config.num_regions, seed)
  shares = {
    name: float(region_ranking.found(grid, own, brains.planted).mean())
    for name, own in (("chosen", chosen), ("shuffled", by_shuffled), ("random", by_chance))
  }
  planted, again = region_ranking.how_often(grid, sums, config.num_regions, brains.planted, seed)
  is_planted = np.array([grid.holds(chosen, place) for place in brains.planted]).any(0)
  stability.append(
    {"seed": seed, "planted": planted, "chosen": again, "holds_planted": is_planted.tolist()}
  )
  names = ("whole map", *(f"region {k + 1}" for k in range(len(chosen))))
  both = np.concatenate([whole, said("regions", grid.cut(networks.image, chosen))[0]], -1)
  random = np.concatenate([whole, said("random", grid.cut(networks.image, by_chance))[0]], -1)
  lost = np.mean([networks.probabilities(p, networks.image) for p in shuffled], 0)
  most = biomarkers.most_different(brains.volume[train], brains.label[train], len(names))
  out, seen = biomarkers.out_of_fold, biomarkers.Seen
  return {
    "volumes": seen(brains.volume[:, most], tuple(brains.regions[k] for k in most)),
    "global": seen(out(whole, fold), names[:1]),
    "chosen": seen(out(both, fold), names, shares["chosen"]),
    "random": seen(out(random, fold), names, shares["random"]),
    "in-fold": seen(biomarkers.in_fold(both, fold), names, shares["chosen"]),
    "shuffled": seen(lost, names[:1], shares["shuffled"]),
  }


def page(
  config: Config,
  brains: atrophy.Brains,
  found: dict[str, Any],
  trained: dict[str, list[study.Trained]],
) -> Report:
  """The answers, scores, verdicts, the regions with their stability, terms, curves and costs."""
  report = study.page.start(f"Biomarkers of {brains.title}", found)
  study.page.scores(report, found, ARMS, text=config.known)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  report.table(
    ["seed", "planted places, found in", "chosen regions, again in", "holds a planted place"],
    [
      [
        own["seed"],
        *(", ".join(f"{share:.2f}" for share in own[name]) for name in ("planted", "chosen")),
        ", ".join("yes" if has else "no" for has in own["holds_planted"]),
      ]
      for own in found["stability"]
    ],
    "Shares of bootstrap draws of the people whose maps rank the regions.",
  )
  for arm, terms in found["importance"].items():
    report.table(
      ["term", "mean size in log-odds"],
      sorted(([name, size] for name, size in terms[0].items()), key=lambda row: -row[1]),
      f"What the machine of {arm} adds up, first seed.",
    )
  caption = "First fold and seed."
  study.page.trainings(report, found, trained, {"loss": "loss"}, caption=caption)
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
