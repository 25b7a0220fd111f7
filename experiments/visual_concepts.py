"""Visual concept filtering: is a concept bottleneck better where its phrases can be seen?

Kim et al., "Concept Bottleneck with Visual Concept Filtering for Explainable Medical Image
Classification" (2023). Phrases written by a language model describe each class; LaBo keeps those
that tell classes apart and cover the rest. The paper adds how much a phrase's score varies over
unlabelled images, V. Claims: better than LaBo at every number of labelled images, most at one of
each class, whatever the unlabelled images are.

  python -m experiments.visual_concepts demo       planted embeddings, 1, 4 and all images of a
                                                   class, 10 seeds; 1 minute
  python -m experiments.visual_concepts evidence   1, 2, 4, 8, 16 and all, 20 seeds; 2 minutes
  python -m experiments.visual_concepts embeddings --data FILE.npz
                                                   your images and phrases, embedded by one model
                                                   (CLIP, for example); about 3 minutes

Times are for 2 CPU cores; extra `classical`. What FILE.npz holds stands in
experiments/concept_sets.py. Published accuracy on HAM10000 at 1, 2, 4, 8, 16 and all images: linear
probe 44.4 58.5 44.9 49.0 61.5 82.5; LaBo 36.5 44.9 44.5 43.0 58.5 80.8; with V 53.2 45.4 47.4 46.1
61.4 81.0; from one split, and below what naming the commonest class scores at few images.

The arm "lengths" is the guard: V of vectors as the text encoder leaves them. "noise" measures V on
images without content, "random" keeps phrases at random. The softmax runs over the concepts, as in
LaBo's code and the paper's text; "over-classes" has it as the paper's formula prints it.

DEVIATIONS: the weights of the three terms are not given in the paper; each term is divided by its
greatest value in the list of its class, and the weights are settings. D stands with a constant that
changes no choice. The last weights are kept; nothing is chosen on validation images.

results.json: the common schema of `study.results`; a role a number of images, "1 shot" to "full".
metric "seen": share of the kept phrases that are visual, where that is known.
influence.<arm>.<role>: share of the logit of the right class that comes from the others.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from experiments import classical, concept_bottleneck, concept_sets
from medjax import check, cli, explain, study
from medjax.train import Report

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Classes by phrases that were chosen with and without a look at images."""

  arms: tuple[str, ...] = ()  # what is compared, () for all that the data allow
  shots: tuple[int, ...] = (1, 4, 0)  # labelled images of each class, 0 for all of them
  num_seeds: int = 10  # draws of the labelled images
  num_images: int = 200  # planted images a class, 3 in 10 of them for testing
  num_kept: int = 10  # phrases kept for each class
  alpha: float = 1.0  # weight of what tells classes apart, D
  beta: float = 1.0  # weight of covering the other phrases
  gamma: float = 1.0  # weight of how visual a phrase is, V
  shift: float = 0.0  # added to all cosines before D makes shares of them, which have no sign
  num_steps: int = 500  # of Adam on the weights of concepts, all labelled images at once
  learning_rate: float = 0.05  # Adam's
  known: str = ""  # what is known of these data, a sentence shown beside the scores

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms or tuple(ARMS), ARMS)
    study.chosen("shots", [role_of(n) for n in self.shots], {role_of(n): n for n in range(10**4)})
    for name in ("alpha", "beta", "gamma"):
      check.non_negative(name, getattr(self, name))


def role_of(shots: int) -> str:
  return {0: "full", 1: "1 shot"}.get(shots, f"{shots} shots")


# --- arms

_by = concept_bottleneck.by_images
ARMS = study.arms(
  study.Arm("linear", "linear probe of the images' embedding, no concepts", lambda: None),
  study.Arm("random", "phrases at random: the control", concept_bottleneck.at_random),
  study.Arm("labo", "phrases that tell classes apart and cover", lambda: _by("")),
  study.Arm("visual", "and vary over the training images: the paper's", lambda: _by("own")),
  study.Arm("visual-other", "and vary over images of another kind", lambda: _by("other")),
  study.Arm("visual-noise", "and vary over images without content", lambda: _by("noise")),
  study.Arm("lengths", "V of vectors that keep their length: guard", lambda: _by("lengths")),
  study.Arm("over-classes", "the paper's, softmax over classes", lambda: _by("own", axis=0)),
)

# --- questions, written down before the run

_FIRST, _LEAD = "1 shot", "1 shot less full"


def _ask(
  text: str, reference: str, arm: str, role: str, expects: Any = "better", metric: str = "balanced"
) -> study.Question:
  spread = (("subject", 0.35), ("seed", 0.04)) if metric != "seen" else (("seed", 0.1),)
  return study.Question(text, reference, (arm,), metric, role, expects, spread)


QUESTIONS = (
  _ask("Does filtering help at one image a class?", "labo", "visual", _FIRST),
  _ask("Does it at four?", "labo", "visual", "4 shots"),
  _ask("Does it with all images?", "labo", "visual", "full"),
  _ask("Most at one image?", "labo", "visual", _LEAD, metric="lead"),
  _ask("Does it by images of another kind?", "labo", "visual-other", _FIRST),
  _ask("Are these as good as one's own?", "visual", "visual-other", _FIRST, "equivalent"),
  _ask("Is it the content of the images?", "visual-noise", "visual", _FIRST),
  _ask("Are more phrases kept that can be seen?", "labo", "visual", _FIRST, metric="seen"),
  _ask("By images of another kind too?", "labo", "visual-other", _FIRST, metric="seen"),
  _ask("And by images without content?", "labo", "visual-noise", _FIRST, "open", "seen"),
  _ask("Does the length of a vector mislead V?", "visual", "lengths", _FIRST, "open", "seen"),
  _ask("Does the printed softmax do as well?", "visual", "over-classes", "full", "open"),
  _ask("Does LaBo's choice beat a random one?", "random", "labo", _FIRST, "open"),
  _ask("Do concepts beat a linear probe at one image?", "linear", "visual", _FIRST),
  _ask("Do concepts cost accuracy with all images?", "linear", "visual", "full", "open"),
)

PRESETS = {
  "demo": Config(),
  "evidence": Config(shots=(1, 2, 4, 8, 16, 0), num_seeds=20, num_images=100),
  "embeddings": Config(),
}

# --- the run and its page


_WANTED, _NOTHING = ("balanced", "accuracy"), float("nan")


def load(config: Config, options: cli.RunOptions) -> tuple[str, concept_sets.ConceptSet]:
  if options.preset == "embeddings":
    (path,) = study.paths_of(options.data, 1)
    return concept_sets.title_of(path), concept_sets.from_file(path)
  study.paths_of(options.data, 0)
  return "planted attributes", concept_sets.planted(config.num_images, seed=options.seed)


def build(config: Config, options: cli.RunOptions) -> None:
  title, held = load(config, options)
  parts = study.parted(held.subjects, {"train": 0.7, "test": 0.3}, options.seed)
  people = study.people_by_part(held.subjects, parts)
  known = {"", "own", "lengths", *held.unlabelled}
  needs = {arm: getattr(row.make(), "needs", "") for arm, row in ARMS.items()}
  arms = config.arms or tuple(arm for arm, images in needs.items() if images in known)
  for arm in arms:
    check.require(
      needs[arm] in known,
      f"unlabelled images for the arm {arm}",
      "none in the file",
      "add the array unlabelled",
    )
  roles = [role_of(n) for n in config.shots]
  roles += [_LEAD] if {_FIRST, "full"} <= set(roles) else []
  is_known = {"seen": held.is_visual is not None}
  asked = [question for question in QUESTIONS if is_known.get(question.metric, True)]
  design = study.design(config, options.seed, QUESTIONS, arms, people, tested=roles, asked=asked)
  with options.directory(config, held.manifest()) as directory:
    if directory.finished:
      return
    design.begin(directory)
    train = np.array(parts["train"])
    subjects = [held.subjects[i] for i in parts["test"]]
    scores, visual = concept_bottleneck.measured(held, train, config.shift)
    rows: list[dict[str, Any]] = []
    influence: dict[str, dict[str, float]] = {}
    new = np.array(parts["test"])
    for shots in config.shots:
      role = role_of(shots)
      for arm, logits, own in answers(
        config, held, scores, visual, parts, arms, shots, design.seeds
      ):
        for place, seed in enumerate(design.seeds):
          about = {"arm": arm, "seed": seed, "role": role}
          scored = study.classes(
            logits[place], held.label[new], about=about, subjects=subjects, wanted=_WANTED
          )
          seen = float(own.seen[place]) if own else _NOTHING
          rows += [{**row, "seen/all": seen, "lead/all": _NOTHING} for row in scored]
        if own:
          influence.setdefault(arm, {})[role] = own.influence
    rows += lead_of(rows) if _LEAD in roles else []
    found = design.results(
      [row for row in rows if row["role"] != _LEAD],
      (*_WANTED, "seen"),
      is_simulated=options.preset != "embeddings",
      influence=influence,
    )
    report = page(config, title, held, visual["own"], found)
    study.finish(directory, found, report, rows=rows)


def answers(
  config: Config,
  held: concept_sets.ConceptSet,
  scores: np.ndarray,
  visual: dict[str, np.ndarray],
  parts: dict[str, tuple[int, ...]],
  arms: Sequence[str],
  shots: int,
  seeds: range,
) -> Iterator[tuple[str, np.ndarray, concept_bottleneck.Kept | None]]:
  """For each arm its logits [seed, image, class], and how visual its phrases are where known."""
  train, new = (np.array(parts[part]) for part in ("train", "test"))
  num_classes = len(held.class_names)
  own = np.stack([
    concept_bottleneck.shown(held.label, train, shots, seed, held.class_names) for seed in seeds
  ])  # fmt: skip
  told = jax.jit(jax.vmap(lambda g, y: explain.discriminability(g, y, num_classes)))
  phrases = concept_bottleneck.Phrases(
    config.beta, np.asarray(told(scores[own] + config.shift, held.label[own])), visual, seeds
  )
  lists = concept_bottleneck.lists_of(held.owner, num_classes, config.num_kept)
  unit = held.text / np.linalg.norm(held.text, axis=1, keepdims=True)
  for arm in arms:
    way = ARMS[arm].make()
    if way is None:
      logits = [
        classical.logistic(held.image[i], held.label[i], held.image[new], num_classes, seed)
        for i, seed in zip(own, seeds, strict=True)
      ]
      yield arm, np.stack(logits), None
      continue
    worth = way.worth(phrases)
    weights = np.array([config.alpha, config.gamma, worth.coverage], np.float32)
    chosen = concept_bottleneck.choose(
      unit, lists, worth.told, worth.visual, weights, config.num_kept
    )
    found = concept_bottleneck.bottleneck(
      scores, held.label, own, new, np.asarray(chosen),
      rate=config.learning_rate, num_steps=config.num_steps, axis=way.axis,
    )  # fmt: skip
    kept = None
    if held.is_visual is not None:
      is_seen = held.is_visual[found.phrases]
      part = (found.influence * is_seen[:, None]).sum(-1) / found.influence.sum(-1)
      kept = concept_bottleneck.Kept(is_seen.mean(-1), float(1 - part.mean()))
    yield arm, found.logits, kept


def lead_of(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
  """Rows of what each person adds at one image of a class, less what they add with all images.

  The difference of two arms in it is the gain at one image less the gain with all, person by
  person, so that its interval is that of a paired difference of differences.
  """
  where = lambda row: (row["arm"], row["seed"], row["subject"])  # noqa: E731
  full = {where(row): row["balanced/all"] for row in rows if row["role"] == "full"}
  gone = {"balanced/all": _NOTHING, "accuracy/all": _NOTHING, "seen/all": _NOTHING}
  return [
    {**row, "role": _LEAD, **gone, "lead/all": row["balanced/all"] - full[where(row)]}
    for row in rows
    if row["role"] == _FIRST
  ]


def page(
  config: Config,
  title: str,
  held: concept_sets.ConceptSet,
  visual: np.ndarray,
  found: dict[str, Any],
) -> Report:
  """The answers, scores, verdicts, what was kept, and the phrases at both ends of V."""
  report = study.page.start(f"Concepts of {title}", found)
  study.page.scores(report, found, ARMS, text=config.known)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  if found["influence"]:
    roles = [role_of(n) for n in config.shots]
    report.table(
      ["arm", *roles],
      [[arm, *(own[role] for role in roles)] for arm, own in found["influence"].items()],
      "Share of the logit of the right class that comes from phrases that name nothing seen.",
    )
  order = np.argsort(-visual)
  report.table(
    ["phrase", "class", "V"],
    [
      [held.phrases[i], held.class_names[held.owner[i]], float(visual[i])]
      for i in (*order[:5], *order[-5:])
    ],
    "The five phrases whose scores vary most over the training images, and the five least.",
  )
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
