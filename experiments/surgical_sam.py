"""SurgicalSAM: prompts, classes without prompts, and what either loses when pictures are spoiled.

Wang, Islam, Xu, Zhang & Ren, "SAM Meets Robotic Surgery: An Empirical Study on Generalization,
Robustness and Adaptation" (2023): a promptable segmenter is asked for instruments by boxes, by
points and without a prompt, on clean and on spoiled pictures; low-rank updates of q and v in its
encoder and a decoder with a mask for each class make it need no prompt. Claims: boxes are far above
points; every severity costs more than the one before; the adapted network is usable, and loses more
under corruption than the prompted one.

  python -m experiments.surgical_sam demo       simulated instruments; about 5 minutes
  python -m experiments.surgical_sam evidence   the same, 3 seeds; about 15 minutes
  python -m experiments.surgical_sam lite --data FOLDER --weights lite_medsam.safetensors
                                                your nnU-Net folder on LiteMedSAM, the class one, or
                                                --condition, a column of class.csv; about 30 minutes

Times are estimated from short runs on 2 CPU cores. Published, Jaccard of EndoVis18: box .894, point
.571, adapted .714; at severity 5 of Gaussian noise box .571, adapted .038; of brightness .864 and
.596.

What decides the last claim. A box tells where an object is, whatever happens to the picture, and a
score that is low to begin with falls otherwise than a high one. So there are three controls:
"equal" asks by boxes that are widened until their clean Dice, on validation people, is that of
"classes"; "boxed" has the same updates, trained as long, but is asked by boxes; "head" has no
low-rank update. "fill" is the box itself as the answer: it never falls. The claim holds for the
adaptation only where "classes" loses more than "equal", and more than "head".

DEVIATIONS: in `demo` and `evidence` a small segmenter stands for SAM. It was trained here by boxes,
points and no prompt, on shapes and on instruments of other operations without their classes (what
only shapes have taught finds no instrument), most of them in mosaics, so that prompts count. In
`lite` the decoder learns the three kinds of prompt on the training pictures first, since points and
no prompt score 0 as LiteMedSAM is shipped; nothing there is called zero-shot. Pictures go to the
encoder as they are after corruption; the stretch of intensities that LiteMedSAM's own tools do
would undo brightness and contrast. The paper clicks on the centre of the contour, here it is the
pixel of the object next to it.

results.json: the common schema of `study.results`, roles "test" and "corrupted"; "change" is Dice
less the clean Dice of the same picture. robustness: arm -> corruption -> severity -> mean Dice;
rises: arm -> cells whose mean is above that of the severity before; equal_width: how far the boxes
of "equal" are widened, a share of the side, by seed; tuned: numbers that train, and of these the
low-rank ones as a share of the network.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import prompt_free, prompt_mosaics, spoiled_answers
from experiments.prompt_free import Problem, Scenes
from medjax import adapt, cli, data, methods, nets, rng, study, tree
from medjax.data.augmentation import CORRUPTIONS
from medjax.inference.prompted import Prompted
from medjax.train import Report
from medjax.types import Params, PyTree

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """A promptable segmenter with prompts, and adapted to classes without them."""

  arms: tuple[str, ...] = (
    "box", "point", "none", "fill", "head", "classes", "boxed", "equal",
    "box-1", "box-3", "box-5",
  )  # fmt: skip
  corruptions: tuple[str, ...] = tuple(CORRUPTIONS)  # of the suite
  severities: tuple[int, ...] = (1, 2, 3, 4, 5)
  num_pictures: int = 160  # simulated pictures
  train_fraction: float = 0.5  # of the people
  validation_fraction: float = 0.1  # of the people, for the boxes of "equal"
  num_pretraining: int = 3000  # updates of the small segmenter, or of LiteMedSAM's decoder
  num_steps: int = 250  # updates of every adapted network
  batch_size: int = 8  # pictures an update
  learning_rate: float = 1e-3  # AdamW's, as in the paper
  rank: int = 4  # of the low-rank updates
  weights: str = ""  # file of LiteMedSAM; "": the small segmenter
  condition: str = ""  # column of class.csv with the class; "": one class
  person: str = ""  # column of class.csv with the person; "": each picture is one
  max_pictures: int = 12  # real pictures a class
  # similarity of two people's pictures that is refused; 0: not looked at
  near_duplicates: float = -1.0
  known: str = ""  # what is known of these data, a sentence shown beside the scores

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)
    study.chosen("corruptions", self.corruptions, CORRUPTIONS)


ARMS = study.arms(
  study.Arm("box", "asked by the box of each object", lambda: None),
  study.Arm("point", "asked by a click in the middle of each object", lambda: None),
  study.Arm("none", "asked for nothing", lambda: None),
  study.Arm("fill", "the box as the answer: a control", lambda: None),
  study.Arm("head", "a decoder of class masks; the encoder stays", lambda: 0),
  study.Arm("classes", "and low-rank updates of q and v: SurgicalSAM", lambda: 1),
  study.Arm("boxed", "these updates, asked by boxes: a control", lambda: 1),
  study.Arm("equal", "boxes so wide that their clean Dice is that of classes", lambda: None),
  *(study.Arm(f"box-{s}", f"box, at severity {s} alone", lambda: None) for s in (1, 3, 5)),
)

# --- questions, written down before the run

_SPREAD = (("subject", 0.15), ("seed", 0.02))


def _asked(text: str, reference: str, arms: tuple[str, ...], expects: Any, **more: Any) -> Any:
  metric = more.pop("metric", "dice")
  return study.Question(text, reference, arms, metric, expects=expects, spread=_SPREAD, **more)


_LOSS: dict[str, Any] = {"metric": "change", "role": "corrupted"}
QUESTIONS = (
  _asked("Are boxes above points?", "point", ("box",), "better"),
  _asked("Are points above no prompt?", "none", ("point",), "better"),
  _asked("Are adapted classes below boxes, which tell the place?", "box", ("classes",), "worse"),
  _asked("Do low-rank updates add to a decoder of classes?", "head", ("classes",), "better"),
  _asked("Does severity 3 cost more than 1?", "box-1", ("box-3",), "worse", role="corrupted"),
  _asked("Does severity 5 cost more than 3?", "box-3", ("box-5",), "worse", role="corrupted"),
  _asked("Do adapted classes lose more than boxes?", "box", ("classes",), "worse", **_LOSS),
  _asked("And more than boxes of equal clean Dice?", "equal", ("classes",), "worse", **_LOSS),
  _asked("And more than without low-rank updates?", "head", ("classes",), "worse", **_LOSS),
  _asked("Is it the adapted encoder, with a box too?", "box", ("boxed",), "open", **_LOSS),
)  # fmt: skip

PRESETS = {
  "demo": Config(num_seeds=1),
  "evidence": Config(num_seeds=3, num_pictures=240, num_steps=400),
  "lite": Config(
    weights="lite_medsam.safetensors", num_seeds=1, num_pretraining=60, num_steps=30, batch_size=1,
    max_pictures=26, corruptions=("noise", "blur", "brightness", "jpeg"), severities=(1, 3, 5),
    arms=tuple(arm for arm in ARMS if arm != "boxed"),
  ),
}  # fmt: skip

# --- the run


def load(config: Config, options: cli.RunOptions) -> Scenes:
  if not config.weights:
    study.paths_of(options.data, 0)
    return prompt_free.drawn(config.num_pictures, 64, options.seed)
  (path,) = study.paths_of(options.data, 1)
  return prompt_free.folder(
    pathlib.Path(path), 256, condition=config.condition, person=config.person,
    most=config.max_pictures,
  )  # fmt: skip


def build(config: Config, options: cli.RunOptions) -> None:
  sets = load(config, options)
  shares = {"train": config.train_fraction, "validation": config.validation_fraction}
  shares["test"] = 1 - sum(shares.values())
  parts = study.parted(sets.subjects, shares, options.seed)
  people = study.people_by_part(sets.subjects, parts)
  roles = ("test", "corrupted")
  design = study.design(config, options.seed, QUESTIONS, config.arms, people, tested=roles)
  if config.weights:
    prompt_free.lite_weights(config.weights)
    picture = study.pair_picture(options.workdir)
    prompt_free.check_alike(sets, people, config.near_duplicates, picture)
  with options.directory(config, sets.manifest) as directory:
    if directory.finished:
      return
    design.begin(directory)
    stores = {
      part: {"image": sets.image[np.array(own)], "label": sets.label[np.array(own)]}
      for part, own in parts.items()
    }
    module = nets.lite_medsam() if config.weights else nets.mini_promptable(num_masks=1)
    # The small one has to learn that prompts count, which boxes teach in the fewest updates.
    shares = (1, 1, 1) if config.weights else (10, 7, 3)
    problem = Problem(module, len(sets.classes), sets.image.shape[1], shares)
    names = [sets.subjects[i] for i in parts["test"]]
    runs = [
      one_seed(config, options, directory, problem, stores, names, seed) for seed in design.seeds
    ]
    trained: dict[str, list[study.Trained]] = {}
    for own, _, _ in runs:
      for arm, one in own.items():
        trained.setdefault(arm, []).append(one)
    rows = [row for _, own, _ in runs for row in own]
    about = runs[0][2]
    flops = {arm: about["flops"].get(arm, float("nan")) for arm in config.arms}
    found = design.results(
      rows, ("dice", "change"), costs=flops, flops=flops, is_simulated=not config.weights,
      equal_width=[own["width"] for _, _, own in runs], tuned=about["tuned"],
      **spoiled_answers.tables(rows),
    )  # fmt: skip
    report = page(config, sets, found, trained)
    study.finish(directory, found, report, trained=trained, rows=rows)


def started(
  config: Config, directory: Any, problem: Problem, stores: Any, seed: int
) -> tuple[Params, dict[str, np.ndarray], study.Trained]:
  """The network that knows all three kinds of prompt, embeddings by part, and its training."""
  key, side = jax.random.key(seed), problem.side
  if config.weights:
    params = prompt_free.lite_weights(config.weights)
    reader = Prompted(problem.net.embed, problem.net.decode, params, size=side, channels=3,
                      cache=directory.path / "embeddings")  # fmt: skip
    seen = {
      part: np.stack([np.asarray(reader.embedded(x).embedding) for x in own["image"]])
      for part, own in stores.items()
    }
    own = prompt_free.objects(stores["train"]["label"])
    store = {**own, "embedding": seen["train"][own["picture"]]}
    small, frozen = problem.take(params, key, 0)
  else:
    store = prompt_mosaics.of_many_kinds(side, seed + 7000)
    params = problem.net.init(rng.stream(key, "parameters"), jnp.asarray(store["image"][0]))
    small, frozen = adapt.take(params, trains=lambda name: True)
    seen = {}
  rate = optax.cosine_decay_schedule(3e-4 if config.weights else 1e-3, config.num_pretraining)
  step = methods.supervised(adapt.adapted_loss(problem.taught_loss, frozen), optax.adam(rate))
  stream = data.batches(store, 2 if config.weights else 8, key, name="prompts")
  job = study.Job(f"prompts-{seed}", step, stream, small, key, config.num_pretraining)
  one = study.train_job(job, directory, log_every=config.log_every)
  params = adapt.whole(one.params, frozen)
  return params, seen or {k: problem.embed(params, x["image"]) for k, x in stores.items()}, one


def one_seed(
  config: Config, options: cli.RunOptions, directory: Any, problem: Problem, stores: Any,
  names: list[str], seed: int,
) -> tuple[dict[str, study.Trained], list[dict[str, Any]], dict[str, Any]]:  # fmt: skip
  """Trainings, rows and figures of a seed."""
  key = jax.random.key(seed)
  params, seen, first = started(config, directory, problem, stores, seed)
  trained, flops = {"prompts": first}, {}
  tuned: dict[str, Any] = {"prompts": tree.size(first.params)}
  networks: dict[str, Params] = {"prompted": params}
  own = prompt_free.objects(stores["train"]["label"])
  losses = {"head": problem.class_loss, "classes": problem.class_loss, "boxed": problem.boxed_loss}
  held: dict[str, PyTree] = {
    "head": {"embedding": seen["train"], "label": stores["train"]["label"]},
    "classes": stores["train"],
    "boxed": {**own, "image": stores["train"]["image"][own["picture"]]},
  }
  for arm in (arm for arm in losses if arm in config.arms):
    start = params if arm == "boxed" else problem.fresh(params, key)
    small, frozen = problem.take(start, key, config.rank * ARMS[arm].make())
    tuned[arm] = {"numbers": tree.size(small), "low_rank": adapt.share_of(small.factors, start)}
    loss = adapt.adapted_loss(losses[arm], frozen)
    step = methods.supervised(loss, prompt_free.adamw(config.learning_rate, config.num_steps))
    stream = data.batches(held[arm], config.batch_size, key, name=arm)
    job = study.Job(f"{arm}-{seed}", step, stream, small, key, config.num_steps,
                    inherited=first.params)  # fmt: skip
    flops[arm] = study.flops(step, small, stream(0))
    trained[arm] = study.train_job(job, directory, log_every=config.log_every)
    networks[arm] = adapt.whole(trained[arm].params, frozen)
  width = spoiled_answers.equal_width(problem, networks, stores["validation"], seen["validation"])
  rows = spoiled_answers.scored(
    config, options, directory, problem, networks, stores["test"], names, width, seed
  )
  return trained, rows, {"width": width, "flops": flops, "tuned": tuned}


# --- the page


def page(
  config: Config, sets: Scenes, found: dict[str, Any], trained: dict[str, list[study.Trained]]
) -> Report:
  """Answers, scores, verdicts, the tables of robustness, curves and costs."""
  report = study.page.start(f"With and without prompts: {sets.title}", found)
  study.page.scores(report, found, ARMS, text=config.known)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  widths = ", ".join(f"{width:.2f}" for width in found["equal_width"])
  report.note(f"The boxes of equal are widened by {widths} of the side.")
  for arm, cells in found["robustness"].items():
    lines = [[name, *own.values()] for name, own in cells.items()]
    heads = ["corruption", *(f"severity {s}" for s in config.severities)]
    rises = ", ".join(found["rises"][arm]) or "none"
    report.section(f"Robustness of {arm}").table(
      heads, lines, f"Mean Dice. Cells above the severity before: {rises}."
    )
  study.page.trainings(report, found, trained, {"loss": "loss"})
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
