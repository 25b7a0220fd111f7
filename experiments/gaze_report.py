"""Gaze and report: does text help to read radiographs, and does gaze draw better maps than GradCAM?

Ketabi et al., "Multimodal Learning for Improving Performance and Explainability of Chest X-Ray
Classification" (2023): words that came with a film stand beside its code in a classifier; a second
network also draws where a reader looked. Claims: the indication helps and the full report helps
most; the drawn maps lie in the boxes of pneumonia more than those of GradCAM, and profit from text.

  python -m experiments.gaze_report demo        simulated films and reports; about 2 minutes
  python -m experiments.gaze_report evidence    all arms, 4 seeds; about 8 minutes
  python -m experiments.gaze_report shapes --data chest_shapes
                                                the same on lungs of 911 real people

Times are for 2 CPU cores, that of `evidence` by the speed of its first trainings. Films, texts and
gaze are simulated in every preset (`radiographs`); real ones ask for credentials. The folder of
`shapes` holds labels/*.png (1 right lung, 2 left lung).

Published, AUROC: film .856, with the indication .913, with the report .966; share of attention in
the boxes by gaze and by GradCAM: .101 .083, .112 .083, .113 .082.

The full report names the diagnosis, which is the label. So other arms say what its gain is worth:
"findings", by mean words, by an LSTM and with the gaze, read the report without the sentence of the
diagnosis; "findings-alone" and "report-alone" read a text without the film; "prior" reads neither:
class frequencies, and the mean gaze of the training films. GradCAM
is of the classifiers, at their last layer but one, for pneumonia. "in_box" is the paper's measure,
which grows with the box; "by_area" holds the mean in the box against that outside (.5: knows
nothing of the box).

DEVIATIONS: a small network from scratch stands for EfficientNet-b0; word vectors from counts stand
for Word2Vec; the cross-entropy of maps is that of distributions over places; both losses weigh
alike; one split of people and several seeds stand for five folds; Adam at a constant rate.

results.json: the common schema of `study.results`, roles "test" (all classes) and "pneumonia".
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import film_readers, radiographs
from experiments.film_readers import Reader
from medjax import cli, data, explain, study
from medjax.train import Report

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Networks that read a film, with or without its text and the reader's gaze."""

  arms: tuple[str, ...] = ("image", "report", "report-alone", "image-gaze", "prior")  # compared
  num_films: int = 400  # simulated films, each of a person of their own
  train_fraction: float = 0.6  # of the people; all others are tested
  size: int = 32  # side of a film in pixels
  widths: tuple[int, ...] = (8, 16, 32)  # channels of each level
  num_states: int = 16  # of the LSTM
  num_seeds: int = 1
  num_steps: int = 200  # updates
  batch_size: int = 16  # films an update
  learning_rate: float = 3e-3  # Adam's, constant, the same for every arm
  num_shown: int = 3  # films of pneumonia on the page
  known: str = ""  # what is known of these data, a sentence shown beside the scores

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)


def load(config: Config, options: cli.RunOptions) -> radiographs.Films:
  if options.preset == "shapes":
    (path,) = study.paths_of(options.data, 1)
    return radiographs.on_shapes(path, config.size, options.seed)
  study.paths_of(options.data, 0)
  return radiographs.drawn(config.num_films, config.size, options.seed)


# --- arms

ARMS = study.arms(
  study.Arm("image", "the film: the reference; GradCAM", Reader),
  study.Arm(
    "indication", "and the indication, mean of words", lambda: Reader("indication", "mean")
  ),
  study.Arm("findings", "and the report without diagnosis", lambda: Reader("findings", "mean")),
  study.Arm("report", "and the full report", lambda: Reader("report", "mean")),
  study.Arm("indication-lstm", "indication by an LSTM", lambda: Reader("indication", "lstm")),
  study.Arm("findings-lstm", "no diagnosis, by an LSTM", lambda: Reader("findings", "lstm")),
  study.Arm("report-lstm", "full report by an LSTM", lambda: Reader("report", "lstm")),
  study.Arm("image-gaze", "the film; draws the gaze", lambda: Reader(draws=True)),
  study.Arm(
    "indication-gaze", "indication, LSTM; draws", lambda: Reader("indication", "lstm", draws=True)
  ),
  study.Arm(
    "findings-gaze", "no diagnosis, LSTM; draws", lambda: Reader("findings", "lstm", draws=True)
  ),
  study.Arm("report-gaze", "report, LSTM; draws", lambda: Reader("report", "lstm", draws=True)),
  study.Arm(
    "findings-alone", "those without the film", lambda: Reader("findings", "mean", sees=False)
  ),
  study.Arm(
    "report-alone", "the report without the film", lambda: Reader("report", "mean", sees=False)
  ),
  study.Arm("prior", "looks at nothing: class frequencies, mean gaze", lambda: None),
)

# --- questions, written down before the run


def _asked(
  text: str, reference: str, arms: tuple[str, ...], expects: Any, metric: str = "auroc"
) -> study.Question:
  role = "test" if metric == "auroc" else "pneumonia"
  spread = (("subject", 0.3), ("seed", 0.02)) if role == "test" else (("subject", 0.15),)
  return study.Question(text, reference, arms, metric, role, expects, spread)


_PAIRS = (
  ("image", "image"),
  ("indication", "indication-lstm"),
  ("findings", "findings-lstm"),
  ("report", "report-lstm"),
)
QUESTIONS = (
  _asked("Does the indication help?", "image", ("indication", "indication-lstm"), "better"),
  _asked("Does the full report help?", "image", ("report", "report-lstm"), "better"),
  _asked("Does it help without the diagnosis?", "image", ("findings", "findings-lstm"), "better"),
  _asked("Is the named diagnosis what helps most?", "findings", ("report",), "open"),
  _asked("Is the film needed beside the report?", "report", ("report-alone",), "open"),
  _asked("Is it needed without the diagnosis?", "findings", ("findings-alone",), "worse"),
  _asked("Does the second task cost accuracy?", "image", ("image-gaze",), "worse"),
  *(
    _asked(
      f"Do drawn maps beat GradCAM ({text}; {study.page.name_of(metric)})?", cam,
      (f"{text}-gaze",), "better", metric,
    )
    for metric in ("in_box", "by_area")
    for text, cam in _PAIRS
  ),
  _asked("Do drawn maps profit from text?", "image-gaze",
         ("indication-gaze", "findings-gaze", "report-gaze"), "better", "by_area"),
  _asked("Do maps of GradCAM profit from text?", "image",
         ("indication-lstm", "findings-lstm", "report-lstm"), "equivalent", "by_area"),
  _asked("Do maps beat the mean gaze?", "prior", ("image", "image-gaze"), "open", "by_area"),
)  # fmt: skip

_ALL: dict[str, Any] = {"arms": tuple(ARMS), "size": 24, "num_steps": 200, "train_fraction": 0.4}
PRESETS = {
  "demo": Config(),
  "evidence": Config(num_films=1000, num_seeds=4, **_ALL),
  "shapes": Config(num_seeds=3, **_ALL),
}

# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  films = load(config, options)
  shares = {"train": config.train_fraction, "test": 1 - config.train_fraction}
  parts = study.parted(films.subjects, shares, options.seed)
  people = study.people_by_part(films.subjects, parts)
  sick = np.flatnonzero(films.label[np.array(parts["test"])] == radiographs.PNEUMONIA)
  tested = {"test": len(people["test"]), "pneumonia": len(sick)}
  design = study.design(config, options.seed, QUESTIONS, config.arms, people, tested=tested)
  with options.directory(config, films.manifest) as directory:
    if directory.finished:
      return
    problem = film_readers.Problem(config, films)
    train, test = (problem.store(parts[part]) for part in ("train", "test"))
    design.begin(directory)
    readers = {arm: ARMS[arm].make() for arm in config.arms}
    steps = {arm: problem.step(reader) for arm, reader in readers.items() if reader}
    predict = {arm: problem.program(readers[arm]) for arm in steps}
    trained: dict[str, list[study.Trained]] = {arm: [] for arm in steps}
    rows: list[dict[str, Any]] = []
    shown: dict[str, np.ndarray] = {}
    names = [films.subjects[i] for i in parts["test"]]
    in_boxes = jax.jit(jax.vmap(explain.attention_in_box))
    frequencies = np.log(np.bincount(train["label"], minlength=3) + 1.0)
    flat = explain.picture(jnp.asarray(train["gaze"].mean(0)), train["gaze"].shape[1:])
    prior = np.tile(frequencies, (len(names), 1)), np.tile(flat, (len(names), 1, 1))

    def score(arm: str, seed: int, logits: np.ndarray, maps: np.ndarray) -> study.Scored:
      about = {"arm": arm, "seed": seed, "role": "test"}
      own = study.classes(logits, test["label"], about=about, subjects=names,
                          wanted=("auroc", "accuracy"))  # fmt: skip
      no_map = {"in_box/all": float("nan"), "by_area/all": float("nan")}
      own = [row | no_map for row in own]
      no_class = {"auroc/all": float("nan"), "accuracy/all": float("nan")}
      found = in_boxes(maps[sick], test["box"][sick])
      for place, published, by_area in zip(sick, *found, strict=True):
        who = {"case": names[place], "subject": names[place], "domain": ""}
        figures = {"in_box/all": float(published), "by_area/all": float(by_area)}
        own.append({**about, "role": "pneumonia", **who, **no_class, **figures})
      return study.Scored(own, more={"maps": maps[sick[: config.num_shown]]})

    for seed in design.seeds:
      key = jax.random.key(seed)
      stream = data.batches(train, config.batch_size, key)
      for arm, step in steps.items():
        name, start = f"{arm}-{seed}", problem.start(readers[arm], key)
        job = study.Job(name, step, stream, start, key, config.num_steps)
        one = study.train_job(job, directory, log_every=config.log_every)
        trained[arm].append(one)
        make = lambda arm=arm, seed=seed, one=one: score(  # noqa: E731
          arm, seed, *map(np.asarray, predict[arm](one.params, test))
        )
        scored = study.kept(directory, name, one.params, make)
        rows += scored.rows
        shown.setdefault(arm, scored.more["maps"])
      if "prior" in config.arms:
        scored = score("prior", seed, *prior)
        rows += scored.rows
        shown.setdefault("prior", scored.more["maps"])
    batch = data.batches(train, config.batch_size, 0)(0)
    flops = {arm: study.flops(step, trained[arm][0].params, batch) for arm, step in steps.items()}
    flops |= {arm: float("nan") for arm in config.arms if arm not in steps}
    found = design.results(
      rows,
      ("auroc", "accuracy", "in_box", "by_area"),
      costs=flops,
      flops=flops,
      is_simulated=True,
    )
    own = {"film": test["image"], "box": test["box"], "gaze": test["gaze"]}
    films_shown = {name: values[sick[: config.num_shown]] for name, values in own.items()}
    report = page(config, films.title, found, trained, {**films_shown, **shown})
    study.finish(directory, found, report, trained=trained, rows=rows)


def page(
  config: Config,
  title: str,
  found: dict[str, Any],
  trained: dict[str, list[study.Trained]],
  shown: dict[str, np.ndarray],
) -> Report:
  """Answers, scores, verdicts, maps of films with pneumonia, conflicts, curves and costs."""
  report = study.page.start(f"Gaze and report: {title}", found)
  study.page.scores(report, found, ARMS, text=config.known)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  report.section("Where they looked", "A line a test film with pneumonia; first seed.")
  panels = [np.squeeze(own[k]) for k in range(len(shown["box"])) for own in shown.values()]
  report.images(panels, [*shown] * len(shown["box"]), columns=len(shown))
  study.page.conflicts(report, trained)
  study.page.trainings(report, found, trained, {"loss": "loss"})
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
