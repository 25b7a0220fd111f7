"""GPT4MIA: does a transformer that reads known samples beat nearest neighbours?

Zhang and Chen, "GPT4MIA: Utilizing Generative Pre-trained Transformer (GPT-3) as a Plug-and-Play
Transductive Model for Medical Image Analysis" (2023). A trained classifier gives class
probabilities; a language model is shown those of validation pictures with their labels, and says
for a test picture whether the classifier errs (use 1) or what its class is (use 2). Claims: above
nearest neighbours and inductive classifiers; selecting and ordering what is shown matters.

  python -m experiments.gpt4mia demo            written digits, 100 to train on; about 6 minutes
  python -m experiments.gpt4mia evidence        the same, 5 seeds, longer training; 25 minutes
  python -m experiments.gpt4mia folder --data pneumoniamnist.npz --size 28
                                                your pictures: CLASS/*.png, a table or a MedMNIST
                                                file; about 8 minutes

Times are for 2 CPU cores; extra `classical`. Published balanced accuracy of use 1 and 2: on
RetinaMNIST underbagged neighbours .551 and .392, GPT-3 .679 and .399; on FractureMNIST3D .564 and
.505, .603 and .525; without selection and order .360 and .454 in use 2.

DEVIATIONS: GPT-3 is retired. A small transformer trained on made-up problems (`nets.InContext`)
stands for it: what it knows is how to read known samples, not language. Numbers are given as
numbers, not as text. The paper's table 1 mixes test sets (its precision, recall and balanced
accuracy imply different shares of errors), so its figures are not aimed at. The paper compares its
choice with an unbalanced one; "random-balanced" keeps the balance and chooses at random.
A transformer has learnt from at most num_rows - 16 known samples; "all", and "folder" with many
known pictures, show it more than that.

results.json: the common schema of `study.results`; roles "errors" (use 1) and "classes" (use 2);
scales.<role>: of kernel attention, by seed, chosen on known samples; wrong: share of test pictures
that the classifier gets wrong, by seed.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import classical, classification
from medjax import check, cli, data, losses, methods, nets, rng, study
from medjax.data.simulated import context
from medjax.inference import transduction
from medjax.methods import in_context
from medjax.train import Report
from medjax.types import Array, Batch, Key, Params, Source, Step

_MOST = 10  # features and classes of a made-up problem, and so classes of a classifier

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """What is known of a classifier's outputs, read by attention, neighbours and transformers."""

  arms: tuple[str, ...] = ()  # what is compared, () for all
  size: int = 64  # side of your pictures in pixels
  num_train: int = 100  # digits that the classifier is trained on
  num_known: int = 200  # digits that are known samples
  widths: tuple[int, ...] = (16, 16)  # channels of the classifier's convolutions
  num_steps: int = 300  # updates of the classifier
  learning_rate: float = 3e-3  # Adam's, of classifier and transformers
  batch_size: int = 32  # pictures an update
  num_problems: int = 4096  # made-up problems that a transformer is trained on
  num_reads: int = 2000  # updates of a transformer, of 16 problems each
  num_rows: int = 96  # samples of a made-up problem
  read_width: int = 32  # channels of a transformer
  ratio: float = 0.25  # share of the known samples that is shown after selection
  known: str = ""  # what is known of these data, a sentence shown beside the scores

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms or tuple(ARMS), ARMS)
    check.in_interval("ratio", self.ratio, 0.01, 1.0)


# --- data


Parts = dict[str, tuple[int, ...]]


def load(config: Config, options: cli.RunOptions) -> tuple[str, Source, Parts]:
  """Title, pictures, and positions of "train", "known" and "test"; no person is in two parts."""
  if options.preset != "folder":
    study.paths_of(options.data, 0)
    digits = classical.Digits()
    rest = len(digits) - config.num_train - config.num_known
    check.require(
      rest > 0,
      f"num_train + num_known below {len(digits)}, the number of digits",
      f"{config.num_train} + {config.num_known}",
      "the digits that are left are the test set",
    )
    wanted = (config.num_train, config.num_known, rest)
    shares = {p: n / len(digits) for p, n in zip(("train", "known", "test"), wanted, strict=True)}
    return "written digits", digits, study.parted(digits.subjects, shares, options.seed)
  title, source, _ = classification.load(classification.Config(size=config.size), options)
  check.require(
    2 <= len(source.class_names) <= _MOST,
    f"2 to {_MOST} classes",
    f"{len(source.class_names)}",
    "join rare classes",
  )
  rows = classification.parts_of(source, options.seed)
  names = {"train": "train", "validation": "known", "test": "test"}
  return title, source, {names[part]: tuple(own) for part, own in rows.items()}


# --- what an arm is asked, and how it answers


class Question(NamedTuple):
  """New samples and what is known.

  Attributes:
    role: "errors" or "classes".
    known, labels: [n, feature] and [n] class ids.
    new: [m, feature].
    num_classes: of the labels.
    seed: of draws.
    readers: "sequence" and "set", trained.
    number: how many known samples are shown after selection.
    scale: of kernel attention, chosen on the known samples.
  """

  role: str
  known: np.ndarray
  labels: np.ndarray
  new: np.ndarray
  num_classes: int
  seed: int
  readers: dict[str, in_context.ContextReader]
  number: int
  scale: float

  def read(self, chosen: np.ndarray, reader: str, labels: np.ndarray | None = None) -> np.ndarray:
    """Logits of the new samples by a transformer that is shown the chosen ones in this order."""
    labels = self.labels if labels is None else labels
    moved = [_padded(context.standardised(x, self.known)) for x in (self.known[chosen], self.new)]
    return self.readers[reader](moved[0], labels[chosen], moved[1])[:, : self.num_classes]

  def representatives(self) -> np.ndarray:
    return transduction.representatives(self.known, self.labels, self.number)

  def at_random(self, *, balanced: bool) -> np.ndarray:
    """The same number of samples, drawn; balanced: as many of each class as the selection has."""
    random = np.random.default_rng(self.seed)
    if not balanced:
      return random.permutation(len(self.known))[: self.number]
    counts = np.bincount(self.labels[self.representatives()], minlength=self.num_classes)
    drawn = [
      random.permutation(np.flatnonzero(self.labels == k))[:count] for k, count in enumerate(counts)
    ]
    return random.permutation(np.concatenate(drawn))

  def classical(self, classify: classical.Classifier) -> np.ndarray:
    return classify(self.known, self.labels, self.new, self.num_classes, self.seed)


def _padded(x: np.ndarray) -> np.ndarray:
  return np.pad(x, [(0, 0), (0, _MOST - x.shape[1])]).astype(np.float32)


def _confidence(q: Question) -> np.ndarray:
  """The classifier alone: its own class, or an error where it is less sure than a bound.

  The bound is the one of the known samples that catches most errors less false alarms.
  """
  if q.role == "classes":
    return q.new
  sure, is_error = q.known.max(1), q.labels == 1
  bounds = np.unique(sure)
  gains = [(sure[is_error] <= b).mean() - (sure[~is_error] <= b).mean() for b in bounds]
  is_unsure = q.new.max(1) <= bounds[int(np.argmax(gains))]
  return np.eye(2)[is_unsure.astype(int)]


def _attention(q: Question) -> np.ndarray:
  keys, new = (transduction.unit(jnp.asarray(x, jnp.float32)) for x in (q.known, q.new))
  values = transduction.balanced_values(q.labels, q.num_classes)
  return np.asarray(transduction.kernel_attention(new, keys, values, q.scale))


def _shuffled(q: Question) -> np.ndarray:
  order = np.random.default_rng(q.seed).permutation(len(q.labels))
  return q.read(np.arange(len(q.known)), "set", q.labels[order])


ARMS = study.arms(
  study.Arm("network", "the classifier alone, errors by its confidence", _confidence),
  study.Arm("logistic", "logistic regression", lambda q: q.classical(classical.logistic)),
  study.Arm("svm", "support vectors", lambda q: q.classical(classical.support_vectors)),
  study.Arm("knn", "five nearest neighbours", lambda q: q.classical(classical.nearest)),
  study.Arm(
    "underbagging-knn",
    "the same over balanced draws",
    lambda q: q.classical(classical.underbagged_nearest),
  ),
  study.Arm("attention", "kernel attention, no training: Proposition 1", _attention),
  study.Arm(
    "selected",
    "transformer; representatives by class, the best last: the paper's",
    lambda q: q.read(q.representatives(), "sequence"),
  ),
  study.Arm(
    "reversed",
    "transformer; the same, the best first",
    lambda q: q.read(q.representatives()[::-1], "sequence"),
  ),
  study.Arm(
    "random-balanced",
    "transformer; as many of each class, at random: the control",
    lambda q: q.read(q.at_random(balanced=True), "sequence"),
  ),
  study.Arm(
    "random",
    "transformer; as many at random",
    lambda q: q.read(q.at_random(balanced=False), "sequence"),
  ),
  study.Arm(
    "all",
    "transformer without order; all known samples",
    lambda q: q.read(np.arange(len(q.known)), "set"),
  ),
  study.Arm("shuffled", "the same, their labels shuffled: chance", _shuffled),
)

# --- questions, written down before the run

_SPREAD = (("subject", 0.45), ("seed", 0.03))


def _asked(role: str, use: str) -> tuple[study.Question, ...]:
  return tuple(
    study.Question(f"{text} ({use})", reference, arms, "balanced", role, expects, _SPREAD)
    for text, reference, arms, expects in (
      ("Does a transformer beat neighbours?", "underbagging-knn", ("selected", "all"), "better"),
      ("Are underbagged neighbours the best of the rest?", "underbagging-knn",
       ("logistic", "svm", "knn"), "worse"),
      ("Do selection and order matter?", "random", ("selected",), "better"),
      ("Or does the balance of classes?", "random-balanced", ("selected",), "open"),
      ("Does the order matter alone?", "reversed", ("selected",), "better"),
      ("Does attention need training?", "attention", ("all",), "open"),
      ("Are known labels read at all?", "shuffled", ("all",), "better"),
    )
  )  # fmt: skip


QUESTIONS = (*_asked("errors", "use 1"), *_asked("classes", "use 2"))

PRESETS = {
  "demo": Config(),
  "evidence": Config(num_seeds=5, num_reads=6000, num_problems=16384),
  "folder": Config(widths=(16, 32, 32), num_steps=1000),
}

# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  title, source, rows_of = load(config, options)
  arms = config.arms or tuple(ARMS)
  seeds = range(options.seed, options.seed + config.num_seeds)
  people = {part: study.people_of(source.subjects, own) for part, own in rows_of.items()}
  members = {"seed": len(seeds), "subject": len(people["test"])}
  both = {"errors": members, "classes": members}
  planned = study.planned(QUESTIONS, both, arms, margin=config.margin)
  with options.directory(config, source.manifest()) as directory:
    if directory.finished:
      return
    turn = study.Turn("", None, (), {}, people)
    directory.write_json("splits", study.splits_of([turn], options.seed))
    study.announce(planned)
    parts = {part: data.stack(source, own) for part, own in rows_of.items()}
    subjects = [source.subjects[i] for i in rows_of["test"]]
    model = nets.from_linen(nets.SmallCNN(len(source.class_names), config.widths))
    tx = optax.adam(config.learning_rate)

    def loss_fn(params: Params, example: Batch, key: Key) -> Array:
      del key
      return losses.cross_entropy(model.apply(params, example.image)[0], example.label)

    predict = study.ChunkedPredictor(lambda params, image: model.apply(params, image)[0], chunk=64)
    networks = {
      name: nets.InContext(_MOST, config.read_width, 2, ordered=name == "sequence")
      for name in ("sequence", "set")
    }
    made_up = data.context_problems(
      config.num_problems, config.num_rows, _MOST, _MOST, options.seed
    )
    steps: dict[str, Step] = {"classifier": methods.supervised(loss_fn, tx)}
    for name, network in networks.items():
      steps[name] = methods.supervised(in_context.reading_loss(network.apply), tx)
    trained: dict[str, list[study.Trained]] = {name: [] for name in steps}
    rows: list[dict[str, Any]] = []
    scales: dict[str, list[float]] = {"errors": [], "classes": []}
    wrong: list[float] = []
    for seed in seeds:
      key = jax.random.key(seed)
      own = rng.stream(key, "parameters")
      start = {"classifier": model.init(own, parts["train"].image[0])[0]}
      for name, network in networks.items():
        start[name] = jax.jit(network.init)(own, made_up["features"][0], made_up["labels"][0])
      for name, step in steps.items():
        is_reader = name in networks
        size, store = (16, made_up) if is_reader else (config.batch_size, parts["train"])
        stream = data.batches(store, size, key, name="problems" if is_reader else "pictures")
        updates = config.num_reads if is_reader else config.num_steps
        job = study.Job(f"{name}-{seed}", step, stream, start[name], key, updates)
        trained[name].append(study.train_job(job, directory, log_every=config.log_every))
      readers = {
        name: in_context.ContextReader(network.apply, trained[name][-1].params)
        for name, network in networks.items()
      }
      outputs = {
        part: np.asarray(jax.nn.softmax(predict(trained["classifier"][-1].params, own.image)))
        for part, own in parts.items()
      }
      for role, (question, answers) in questions_of(config, parts, outputs, seed, readers).items():
        scales[role].append(question.scale)
        wrong += [float(answers.mean())] if role == "errors" else []
        for arm in arms:
          about = {"arm": arm, "seed": seed, "role": role}
          said = ARMS[arm].make(question)
          wanted = ("balanced", "accuracy")
          rows += study.classes(said, answers, about=about, subjects=subjects, wanted=wanted)
    questions = study.ask(QUESTIONS, rows, margin=config.margin)
    found = study.results(
      rows,
      ("balanced", "accuracy"),
      questions=questions,
      planned=planned,
      not_asked=study.not_asked(QUESTIONS, questions),
      is_simulated=False,
      scales=scales,
      wrong=wrong,
    )
    report = page(config, title, len(people["known"]), found, trained)
    every = [one for own in trained.values() for one in own]
    study.finish(directory, found, report, trained=every, rows=rows)


def questions_of(
  config: Config,
  parts: Mapping[str, Batch],
  outputs: Mapping[str, np.ndarray],
  seed: int,
  readers: dict[str, in_context.ContextReader],
) -> dict[str, tuple[Question, np.ndarray]]:
  """Role -> (what is asked, right answers), from a classifier's probabilities."""
  labels = {part: np.asarray(own.label) for part, own in parts.items()}
  errors = {part: (outputs[part].argmax(1) != own).astype(np.int32) for part, own in labels.items()}
  for part in ("known", "test"):
    check.require(
      0 < errors[part].sum() < len(errors[part]),
      f"a classifier that gets some of the {part} pictures wrong, and some right",
      f"{errors[part].sum()} of {len(errors[part])} wrong",
      "train it on fewer pictures, or for fewer updates",
    )
  keys = transduction.unit(jnp.asarray(outputs["known"], jnp.float32))
  found: dict[str, tuple[Question, np.ndarray]] = {}
  for role, own, num_classes in (
    ("errors", errors, 2),
    ("classes", labels, outputs["known"].shape[1]),
  ):
    number = max(int(config.ratio * len(own["known"])), num_classes)
    scale = transduction.best_scale(keys, own["known"], num_classes)
    known, new = outputs["known"], outputs["test"]
    given = Question(role, known, own["known"], new, num_classes, seed, readers, number, scale)
    found[role] = given, own["test"]
  return found


def page(
  config: Config,
  title: str,
  num_known: int,
  found: dict[str, Any],
  trained: dict[str, list[study.Trained]],
) -> Report:
  """The answers, scores, verdicts, scales of attention, and curves."""
  report = study.page.start(f"Reading known samples of {title}", found)
  wrong = ", ".join(f"{share:.1%}" for share in found["wrong"])
  text = f"The classifier errs on {wrong} of the test pictures; {num_known} samples are known."
  study.page.scores(report, found, ARMS, text=f"{text} {config.known}".strip())
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  report.table(
    ["use", "scales of kernel attention, by seed"],
    [[role, ", ".join(f"{s:g}" for s in own)] for role, own in found["scales"].items()],
    "Chosen on known samples, each judged by the others; a small scale is one nearest neighbour.",
  )
  first = {name: own[0] for name, own in trained.items()}
  study.page.curves(report, first, {"loss": "loss"}, caption="First seed.")
  study.page.costs(report, trained)
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
