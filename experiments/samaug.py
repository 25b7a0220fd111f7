"""SAMAug: do masks of a foundation model, given beside the picture, help a network that segments?

Zhang, Zhou, Wang, Liang, Zhang & Chen, "Input Augmentation with SAM: Boosting Medical Image
Segmentation with Segmentation Foundation Model" (2023). A frozen promptable segmenter is asked all
over a picture; its masks make two maps, one of what they hold and one of their borders, which are
added to the green and the blue channel. A U-Net is trained on these pictures (1), or on both kinds
(2), and tested on these (3), by the sum of both answers (4), or by the surer answer (5, 6). Claims:
the priors help every network; choosing the answer of lower entropy never costs much where they
fail.

  python -m experiments.samaug demo       simulated stained nuclei and a small segmenter that is
                                          trained here on grey shapes; about 12 minutes
  python -m experiments.samaug evidence   more pictures, updates and arms, 3 seeds; about 25 minutes
  python -m experiments.samaug nuclei --data FOLDER --weights lite_medsam.safetensors
                                          your pictures with numbered nuclei (an nnU-Net folder with
                                          instancesTr), people apart, LiteMedSAM; about 20 minutes

`demo` took 695 seconds of trainings beside other work; the other times are estimated. It is no
evidence for priors: the small segmenter marks nothing on these nuclei, so that "boxes" is "plain".
It has not learnt to look at the picture: with boxes drawn into its mask prompt (as
`painted_prompts` draws clicks) and after 600 updates it gave a picture and its negative masks of
the same sizes, about the box's, and rated them .12 to .46, below the .5 from which a mask is taken.
Its patches have 8 pixels, nuclei 8 to 14. What the priors of a foundation model are worth is for
`nuclei` to say.

Published AJI and F of MoNuSeg, percent: U-Net 58.36 and 75.70, with priors 64.30 and 82.36; P-Net
59.46 and 77.09, 63.98 and 82.56; Attention U-Net 58.76 and 75.43, 63.15 and 81.49.

The paper compares with no prior at all, so that any map of edges might do as well. Controls:
"edges" has two channels of equal cost, the slope of the picture and its steepest pixels, as many as
the segmenter marks; "thresholds" and "superpixels" make masks with a stability without a network;
"shuffled" gives every picture the priors of another one, in training too. In "broken" the priors
are another picture's in the test alone: what choosing by entropy is to protect from. Of these only
the segmenter has learnt from other pictures: the small one from grey shapes of another texture, not
from nuclei.

DEVIATIONS: boxes on a grid ask the segmenter, where SAM's automatic masks come from points; masks
of more than a quarter of the picture are left out. The network learns inside and edge of nuclei as
two classes, so that nuclei that touch can be told apart. F counts pairs of a Jaccard index above
.5. One learning rate, fewer updates, whole pictures in place of crops.

results.json: the common schema of `study.results`; aji, f1, object_dice: of numbered nuclei, and
dice of their pixels. priors: kind -> dice of the pixels that its masks hold, marked: share of the
pixels that it calls border, means over test pictures and seeds. chosen: arm -> share of the test
pictures where the answer with priors was the surer one. timing.json: as every study.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import prior_maps, prior_sets, prompt_free
from experiments.prior_sets import Nuclei
from medjax import cli, data, inference, losses, methods, metrics, nets, rng, study
from medjax.train import Report
from medjax.types import Array, Key, Params, PyTree

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """A U-Net that sees prior maps beside the picture."""

  arms: tuple[str, ...] = (
    "plain", "boxes", "boxes-both", "boxes-entropy", "thresholds", "superpixels", "edges",
    "shuffled", "broken", "broken-entropy",
  )  # fmt: skip
  num_seeds: int = 1
  size: int = 64  # side of the pictures in pixels
  num_pictures: int = 100  # simulated
  train_fraction: float = 0.2  # of the people; all others are tested
  num_boxes: int = 10  # along each side of the grid
  box_fraction: float = 0.2  # side of a box, a share of the picture's
  num_superpixels: int = 80
  num_pretraining: int = 400  # updates of the small segmenter
  widths: tuple[int, ...] = (8, 16, 32)  # channels of the U-Net, finest level first
  num_steps: int = 300  # updates of each U-Net
  batch_size: int = 8  # pictures an update
  learning_rate: float = 3e-3  # Adam's; 5e-4 in the paper, for 50,000 updates
  weights: str = ""  # file of LiteMedSAM; "": the small segmenter
  subject: str = r"^(.+)_[0-9]+_[0-9]+$"  # finds the person in a picture's name

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)


class Kind(NamedTuple):
  """What a network sees and is asked.

  Attributes:
    prior: a name of `prior_maps.every`.
    trains: "plain", "augmented" by rule (1), or "both" by rule (2).
    rule: for tests, of `prior_maps.RULES`.
    join: how priors come to the picture, see `prior_maps.joined`.
    is_broken: whether the priors of a test picture are another one's.
  """

  prior: str = "boxes"
  trains: str = "augmented"
  rule: str = "augmented"
  join: str = "added"
  is_broken: bool = False

  @property
  def training(self) -> str:
    return "plain" if self.trains == "plain" else f"{self.prior}-{self.trains}-{self.join}"


ARMS = study.arms(
  study.Arm("plain", "the picture alone", lambda: Kind(trains="plain", rule="plain")),
  study.Arm("boxes", "priors of the segmenter in training and test", Kind),
  study.Arm("boxes-both", "trained with and without, tested with", lambda: Kind(trains="both")),
  study.Arm("boxes-sum", "the same, the sum of both answers", lambda: Kind(
    trains="both", rule="sum")),
  study.Arm("boxes-entropy", "the same, the surer answer", lambda: Kind(
    trains="both", rule="entropy")),
  study.Arm("boxes-stacked", "priors as channels of their own", lambda: Kind(join="stacked")),
  study.Arm("thresholds", "parts above thresholds", lambda: Kind("thresholds")),
  study.Arm("superpixels", "superpixels", lambda: Kind("superpixels")),
  study.Arm("edges", "slope and steepest pixels: the control", lambda: Kind("edges")),
  study.Arm("shuffled", "priors of other pictures: the control", lambda: Kind("shuffled")),
  study.Arm("broken", "boxes-both, tested with priors of others", lambda: Kind(
    trains="both", is_broken=True)),
  study.Arm("broken-sum", "the same, the sum of both answers", lambda: Kind(
    trains="both", rule="sum", is_broken=True)),
  study.Arm("broken-entropy", "the same, the surer answer", lambda: Kind(
    trains="both", rule="entropy", is_broken=True)),
)  # fmt: skip

# --- questions, written down before the run

_SPREAD = (("subject", 0.1), ("seed", 0.03))
QUESTIONS = tuple(
  study.Question(text, reference, arms, metric, expects=expects, spread=_SPREAD)
  for text, reference, arms, expects, metric in (
    ("Do priors help?", "plain", ("boxes", "boxes-entropy"), "better", "aji"),
    ("Do they help in pixels too?", "plain", ("boxes",), "open", "dice"),
    ("Is the segmenter's prior better than edges of equal cost?", "edges", ("boxes",), "better",
     "aji"),
    ("Do edges help?", "plain", ("edges",), "open", "aji"),
    ("Is it better than masks without a network?", "thresholds", ("boxes",), "open", "aji"),
    ("And than superpixels?", "superpixels", ("boxes",), "open", "aji"),
    ("Is it the picture's own prior that helps?", "shuffled", ("boxes",), "better", "aji"),
    ("Where priors are wrong, does the surer answer protect?", "broken",
     ("broken-sum", "broken-entropy"), "better", "aji"),
    ("Is it then as good as no prior?", "plain", ("broken-entropy",), "equivalent", "aji"),
    ("Where priors are right, does the choice cost?", "boxes-both",
     ("boxes-sum", "boxes-entropy"), "open", "aji"),
    ("Are channels of their own better than a sum?", "boxes", ("boxes-stacked",), "open", "aji"),
  )
)  # fmt: skip
PRESETS = {
  "demo": Config(),
  "evidence": Config(arms=tuple(ARMS), num_seeds=3, num_pictures=200, train_fraction=0.15,
                     num_pretraining=800, num_steps=500),
  "nuclei": Config(arms=tuple(ARMS), weights="lite_medsam.safetensors", size=128,
                   train_fraction=0.5, num_superpixels=150, batch_size=4),
}  # fmt: skip

# --- the run


def load(config: Config, options: cli.RunOptions) -> Nuclei:
  if not config.weights:
    study.paths_of(options.data, 0)
    return prior_sets.drawn(config.num_pictures, config.size, options.seed)
  (path,) = study.paths_of(options.data, 1)
  prompt_free.lite_weights(config.weights)
  return prior_sets.folder(path.resolve(), config.size, config.subject)


def build(config: Config, options: cli.RunOptions) -> None:
  own = load(config, options)
  shares = {"train": config.train_fraction, "test": 1 - config.train_fraction}
  parts = study.parted(own.subjects, shares, options.seed)
  people = study.people_by_part(own.subjects, parts)
  design = study.design(config, options.seed, QUESTIONS, config.arms, people)
  with options.directory(config, own.manifest) as directory:
    if directory.finished:
      return
    design.begin(directory)
    train, test = (np.array(parts[part]) for part in ("train", "test"))
    label = np.stack([prior_sets.classes(number) for number in own.number])
    net = nets.UNet(num_outputs=3, widths=config.widths)
    init = jax.jit(net.init)
    step = methods.supervised(loss_of(net), optax.adam(config.learning_rate))
    call = jax.jit(lambda params, images: jax.vmap(lambda x: net.apply(params, x))(images))
    trained: dict[str, list[study.Trained]] = {}
    rows: list[dict[str, Any]] = []
    flops: dict[str, float] = {}
    held: list[dict[str, np.ndarray]] = []
    surer: dict[str, list[float]] = {}
    for seed in design.seeds:
      prior = prior_maps.every(config, own, directory, seed, trained)
      held.append(prior)
      key, done = jax.random.key(seed), dict[str, study.Trained]()
      for arm in config.arms:
        kind = ARMS[arm].make()
        given = prior[kind.prior]
        plain, augmented = (prior_maps.joined(own.image, x, kind.join) for x in (0 * given, given))
        if kind.training not in done:
          used = {"plain": [plain], "augmented": [augmented], "both": [plain, augmented]}
          seen = np.stack(used[kind.trains], 1)[train]
          store = {"seen": seen, "label": label[train]}
          start = init(rng.stream(key, "parameters"), plain[0])
          stream = data.batches(store, config.batch_size, key)
          job = study.Job(f"{kind.training}-{seed}", step, stream, start, key, config.num_steps)
          one = study.train_job(job, directory, log_every=config.log_every)
          done[kind.training] = one
          trained.setdefault(kind.training, []).append(one)
          flops.setdefault(kind.training, study.flops(step, start, stream(0)))
        params = done[kind.training].params
        shown = augmented[test]
        if kind.is_broken:
          random = np.random.default_rng(seed)
          shown = prior_maps.joined(
            own.image[test], prior_maps.of_others(given[test], random), kind.join
          )
        about = {"arm": arm, "seed": seed, "role": "test"}

        def make(p=params, k=kind, x=plain[test], y=shown, a=about) -> study.Scored:
          return scored(k.rule, call(p, x), call(p, y), own, test, a)

        one = study.kept(directory, f"{arm}-{seed}", params, make)
        rows += one.rows
        surer.setdefault(arm, []).append(float(one.more["surer"].mean()))
    found = design.results(
      rows, ("aji", "f1", "object_dice", "dice"),
      flops={arm: flops[ARMS[arm].make().training] for arm in config.arms},
      priors=prior_maps.quality(held, own.number, test),
      chosen={arm: float(np.mean(x)) for arm, x in surer.items() if "entropy" in arm},
      is_simulated=not config.weights,
    )  # fmt: skip
    report = page(own, held[0], int(test[0]), found, trained)
    study.finish(directory, found, report, trained=trained, rows=rows)


def loss_of(net: nets.UNet) -> Any:
  """Sum of the cross-entropies on what an example is seen as: once, or without and with priors."""

  def loss(params: Params, example: PyTree, key: Key) -> Array:
    del key
    logits: list[Any] = [net.apply(params, seen) for seen in example["seen"]]
    return jnp.stack([losses.cross_entropy(x, example["label"]) for x in logits]).sum()

  return loss


def scored(
  rule: str, plain: Array, augmented: Array, own: Nuclei, test: np.ndarray, about: dict[str, Any]
) -> study.Scored:
  """A row a test picture, from logits [n, row, column, class] without and with priors."""
  answers = jax.vmap(lambda x, y: prior_maps.answered(rule, x, y))(plain, augmented)
  less = inference.entropy(augmented).mean((1, 2)) < inference.entropy(plain).mean((1, 2))
  rows = []
  for i, answer in zip(test, np.asarray(answers), strict=True):
    found, truth = prior_sets.objects(answer), own.number[i]
    dice = metrics.dice((answer > 0).astype(np.int32), (truth > 0).astype(np.int32), num_classes=2)
    rows.append({
      **about, "case": str(i), "subject": own.subjects[i], "domain": "",
      "aji/nuclei": metrics.aji(found, truth), "f1/nuclei": metrics.object_rates(found, truth).f1,
      "object_dice/nuclei": metrics.object_dice(found, truth), "dice/nuclei": float(dice[0]),
    })  # fmt: skip
  return study.Scored(rows, more={"surer": np.asarray(less)})


def page(
  own: Nuclei, prior: dict[str, np.ndarray], shown: int, found: dict[str, Any],
  trained: dict[str, list[study.Trained]],
) -> Report:  # fmt: skip
  """Answers, a picture with every prior, scores, verdicts and costs."""
  report = study.page.start(f"Priors beside the picture: {own.title}", found)
  marks = [np.where(x[shown, ..., 1] > 0, 2, x[shown, ..., 0] > 0.5) for x in prior.values()]
  report.section("What each prior marks").overlay(
    [own.image[shown]] * (1 + len(marks)), ["the nuclei", *prior],
    class_names=("", "held by masks", "border"),
    fills=[prior_sets.classes(own.number[shown]), *(x.astype(np.int32) for x in marks)],
  )  # fmt: skip
  report.table(
    ["prior", "Dice with the nuclei", "share called border"],
    [[kind, x["dice"], x["marked"]] for kind, x in found["priors"].items()],
    "Of what holds more than half of a stable mask, over test pictures; first line: SAMAug.",
  )
  study.page.scores(report, found, ARMS)
  chosen = ", ".join(f"{share:.0%} in {arm}" for arm, share in found["chosen"].items())
  if chosen:
    report.note(f"The answer with priors was the surer one in: {chosen} of the pictures.")
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  study.page.trainings(report, found, trained, {"loss": "loss"})
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
