"""CellFiNet: does attention over tiles beat their mean, and do its reasons name the right features?

Gu et al., "Cellular Features Based Interpretable Network for Classifying Cell-Of-Origin from Whole
Slide Images for Diffuse Large B-Cell Lymphoma Patients" (2023): features of nuclei by tile,
attention over the tiles of a slide, Shapley values of the slide's features. Claims: attention above
a forest over tiles; the reasons name the features that matter.

  python -m experiments.cellfinet demo       planted slides, 5 seeds; 1 minute
  python -m experiments.cellfinet evidence   the same with more slides, 20 seeds; 19 minutes
  python -m experiments.cellfinet masses     slides put together from real breast masses; 1 minute
  python -m experiments.cellfinet nuclei --data FOLDER --data WEIGHTS
                                             nuclei measured from masks (nnU-Net and instancesTr),
                                             and what EfficientNet-Lite0 makes of tiles; 4 minutes
  python -m experiments.cellfinet slides --data FOLDER --data WEIGHTS
                                             real slides of mitotic figures by it; 2 minutes
  python -m experiments.cellfinet tiles --data FILE.npz
                                             features of your own tiles; about 1 minute

Times are for 2 CPU cores; extras
`classical` and, for nuclei, `nuclei`. What FILE.npz holds stands in experiments/bags.py. Published
AUC, validation and test: forest .675 .715, attention over deep embeddings .686 .737, CellFiNet .706
.751, with .06 between folds and 54 test slides.

Reasons are told for the slide's features z, the attention taken as it is: exactly for "linear",
whose head is linear, and by expected gradients over the training slides elsewhere. "shuffled" is
the trained network with its weights in a random order: what its reasons find, any reasons would.

In "nuclei" the label is drawn and put into the red light of half of the nuclei of some tiles of
real tissue; "deep" looks at an image network's embeddings of the same tiles. Of a linear head the
part of a tile is told nucleus by nucleus, exactly: a map finer than tiles.

DEVIATIONS: the paper's segmenter and its 210 features are internal, so features are planted, come
from a file, or are 15 of masks that are given; no batch normalisation.

results.json: the common schema of `study.results`; metrics "focus", share of the attention on tiles
that show the label, and "recovered", share of the planted features among as many that the reasons
put first, where these are known. gap.<arm>: largest distance of a slide's parts from f - E f.
sanity.<arm>: rank correlation of reasons before and after the weights are shuffled.
reasons.<arm>: mean size of the part of each feature. cells.<arm>: how well parts of nuclei tell
those in which the label shows, by the mean area under the ROC curve.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax

from experiments import bags, tile_networks, tissue_bags
from medjax import cli, data, explain, methods, rng, study
from medjax.train import Report

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Slides judged by their tiles."""

  arms: tuple[str, ...] = (
    "tile-forest", "mean-forest", "mean", "attention", "linear", "shuffled"
  )  # fmt: skip  # what is compared
  num_seeds: int = 5  # seeds, each with its own weights and batches
  num_bags: int = 500  # simulated slides
  width: int = 16  # channels of the attention's layers and of the head
  num_steps: int = 300  # updates
  batch_size: int = 32  # slides an update
  learning_rate: float = 3e-3  # AdamW's
  decay: float = 0.1  # AdamW's, of the weights
  eval_every: int = 50  # updates between two evaluations on validation slides
  known: str = ""  # what is known of these data, a sentence shown beside the scores

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)


# --- data


def load(config: Config, options: cli.RunOptions) -> tuple[str, bags.Bags]:
  if options.preset == "tiles":
    (path,) = study.paths_of(options.data, 1)
    return "your slides", bags.from_file(path, seed=options.seed)
  if options.preset in ("nuclei", "slides"):
    path, weights = study.paths_of(options.data, 2)
    if options.preset == "slides":
      return "slides of mitotic figures", tissue_bags.of_mitoses(path, weights, seed=options.seed)
    held = tissue_bags.of_nuclei(path, weights, config.num_bags, seed=options.seed)
    return "slides of measured nuclei", held
  study.paths_of(options.data, 0)
  if options.preset == "masses":
    return "slides of real masses", bags.of_masses(config.num_bags, seed=options.seed)
  return "planted slides", bags.planted(config.num_bags, seed=options.seed)


# --- arms


def _by_forest(by_tile: bool) -> Any:
  return functools.partial(tile_networks.forest, by_tile=by_tile)


def _by_network(is_linear: bool = False, is_uniform: bool = False) -> Any:
  return lambda c: tile_networks.Task(c.width, is_linear=is_linear, is_uniform=is_uniform)


ARMS = study.arms(
  study.Arm("tile-forest", "mean of a forest's scores of tiles", _by_forest(True)),
  study.Arm("mean-forest", "a forest on the mean tile", _by_forest(False)),
  study.Arm("mean", "the network on the mean tile: no attention", _by_network(is_uniform=True)),
  study.Arm("attention", "attention over tiles: the paper's", _by_network()),
  study.Arm("linear", "attention, a linear head: exact parts", _by_network(is_linear=True)),
  study.Arm("deep", "attention over an image network's embeddings", _by_network()),
  study.Arm("shuffled", "the paper's with shuffled weights: the control", _by_network()),
)
_FORESTS = ("tile-forest", "mean-forest")

# --- questions, written down before the run


def _ask(
  text: str, reference: str, arm: str, metric: str, expects: Any = "better"
) -> study.Question:
  spread = (("seed", 0.2),) if metric == "recovered" else (("subject", 0.3), ("seed", 0.03))
  return study.Question(text, reference, (arm,), metric, "test", expects, spread)


QUESTIONS = (
  _ask("Does attention beat a forest over tiles?", "tile-forest", "attention", "auroc"),
  _ask("Does it beat the mean tile?", "mean", "attention", "auroc"),
  _ask("Does it beat a forest on the mean tile?", "mean-forest", "attention", "auroc", "open"),
  _ask("Does a linear head do as well?", "attention", "linear", "auroc", "open"),
  _ask("Are measured features as good as embeddings?", "deep", "attention", "auroc", "open"),
  _ask("Does attention look at the tiles that matter?", "mean", "attention", "focus"),
  _ask("Do reasons name the planted features?", "shuffled", "attention", "recovered"),
  _ask("Do exact reasons of a linear head name more?", "attention", "linear", "recovered", "open"),
)

PRESETS = {
  "demo": Config(),
  "evidence": Config(num_bags=1500, num_seeds=20),
  "masses": Config(),
  "nuclei": Config(
    arms=("tile-forest", "mean-forest", "mean", "attention", "linear", "deep", "shuffled"),
    num_bags=400,
  ),
  "slides": Config(),
  "tiles": Config(),
}

# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  title, held = load(config, options)
  given = {"deep": held.standardised(held.embedding)} if "deep" in config.arms else {}
  feature = held.standardised()
  people = study.people_by_part(held.subjects, held.parts)
  is_known = {"focus": held.is_informative is not None, "recovered": bool(held.planted)}
  asked = [question for question in QUESTIONS if is_known.get(question.metric, True)]
  design = study.design(config, options.seed, QUESTIONS, config.arms, people, asked=asked)
  with options.directory(config, held.manifest()) as directory:
    if directory.finished:
      return
    design.begin(directory)
    stores_of = {arm: stored(held, given.get(arm, feature)) for arm in config.arms}
    tasks = {arm: ARMS[arm].make(config) for arm in config.arms if arm not in _FORESTS}
    tx = optax.adamw(config.learning_rate, weight_decay=config.decay)
    steps = {arm: methods.supervised(task.loss, tx) for arm, task in tasks.items()}
    trained: dict[str, list[study.Trained]] = {arm: [] for arm in tasks if arm != "shuffled"}
    # An embedding's entries have no names, so nothing is told of them.
    reasons = {arm: tile_networks.Reasons([], [], []) for arm in tasks if arm not in given}
    cells: list[float] = []
    rows: list[dict[str, Any]] = []
    for seed in design.seeds:
      key = jax.random.key(seed)
      for arm, stores in stores_of.items():
        about = {"arm": arm, "seed": seed, "role": "test"}
        if arm in _FORESTS:
          rows += judged(held, np.log(ARMS[arm].make(held, feature, seed) + 1e-6), about)
          continue
        task = tasks[arm]
        stream = data.batches(stores["train"], config.batch_size, key, name="slides")
        first = stores["train"]["feature"][0], stores["train"]["is_tile"][0]
        params = jax.jit(task.net.init)(rng.stream(key, "parameters"), *first)
        # The shuffled network is the trained one, so the same job, which is not trained twice.
        name = f"{'attention' if arm == 'shuffled' else arm}-{seed}"
        job = study.Job(
          name, steps[arm], stream, params, key, config.num_steps,
          {"validation": task.evaluator(stores["validation"])}, keep_best="validation/auroc",
        )  # fmt: skip
        periods = {"log_every": config.log_every, "eval_every": config.eval_every}
        one = study.train_job(job, directory, **periods)
        params = one.params
        if arm == "shuffled":
          params = explain.shuffled_weights(params, rng.stream(key, "shuffled"), lambda name: True)
        else:
          trained[arm].append(one)
        found = task.predict(params, stores["test"]["feature"], stores["test"]["is_tile"])
        recovered = None
        if arm in reasons:
          sizes = tile_networks.reasons_of(
            task, params, stores, found.bag, reasons[arm], rng.stream(key, "sanity")
          )
          most = {held.names[i] for i in np.argsort(-sizes)[: len(held.planted)]}
          recovered = len(most & set(held.planted)) / len(most) if most else None
        if arm == "linear" and held.cells is not None:
          cells.append(tile_networks.cells_found(task, params, held, feature))
        rows += judged(
          held, np.asarray(found.logits), about, np.asarray(found.attention), recovered
        )
    results = design.results(
      rows,
      ("auroc", "accuracy", "focus", "recovered"),
      is_simulated=options.preset in ("demo", "evidence", "nuclei"),
      cells={"linear": float(np.mean(cells))} if cells else {},
      gap={arm: max(own.gaps) for arm, own in reasons.items()},
      sanity={arm: float(np.mean(own.sanity)) for arm, own in reasons.items()},
      reasons={
        arm: dict(zip(held.names, np.mean(own.sizes, 0).tolist(), strict=True))
        for arm, own in reasons.items()
      },
    )
    report = page(config, title, results, trained)
    study.finish(directory, results, report, trained=trained, rows=rows)


def stored(held: bags.Bags, feature: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
  """Stores for `data.batches` by part."""
  return {
    part: {
      "feature": feature[list(rows)],
      "is_tile": held.is_tile[list(rows)],
      "label": held.label[list(rows)],
      "index": np.array(rows, np.int32),
    }
    for part, rows in held.parts.items()
  }


def judged(
  held: bags.Bags,
  logits: np.ndarray,
  about: dict[str, Any],
  attention: np.ndarray | None = None,
  recovered: float | None = None,
) -> list[dict[str, Any]]:
  """Rows of test persons; what an arm does not have, or nobody knows, is NaN."""
  new = list(held.parts["test"])
  subjects, nothing = [held.subjects[i] for i in new], float("nan")
  rows = study.classes(logits, held.label[new], about=about, subjects=subjects)
  focus = {}
  if attention is not None and held.is_informative is not None:
    shares = (attention * held.is_informative[new]).sum(1)
    focus = {name: shares[np.array(subjects) == name].mean() for name in set(subjects)}
  more = nothing if recovered is None else float(recovered)
  return [
    {**row, "focus/all": float(focus.get(row["subject"], nothing)), "recovered/all": more}
    for row in rows
  ]


def page(
  config: Config, title: str, found: dict[str, Any], trained: dict[str, list[study.Trained]]
) -> Report:
  """The answers, scores, verdicts, reasons and what they are worth, curves and costs."""
  report = study.page.start(f"Attention over {title}", found)
  study.page.scores(report, found, ARMS, text=config.known)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  if found["reasons"]:
    largest = lambda own: ", ".join(sorted(own, key=lambda name: -own[name])[:5])  # noqa: E731
    report.table(
      ["arm", "features with the largest parts", "gap", "correlation after shuffling"],
      [
        [arm, largest(own), found["gap"][arm], found["sanity"][arm]]
        for arm, own in found["reasons"].items()
      ],
      "Parts of a slide's log-odds sum to f - E f up to the gap. A correlation near 1 would mean"
      " that the reasons do not depend on what the network has learnt.",
    )
  for arm, area in found["cells"].items():
    report.section("Nucleus by nucleus", f"Parts of {arm} tell nuclei that show it: {area:.3f}.")
  study.page.trainings(report, found, trained, {"loss": "loss"})
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
