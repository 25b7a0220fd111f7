"""CEmb-SAM: does a segmenter that is told the group of a picture beat one that is not?

Shin, Kim & Baek, "CEmb-SAM: Segment Anything Model with Condition Embedding for Joint Learning from
Heterogeneous Datasets" (2023): the image encoder and the prompt encoder stay frozen; the mask
decoder learns, behind a block whose instance norm is scaled and shifted by the group. Claims, Dice
over the decoder's training alone (MedSAM): +3.4 on breast ultrasound, +6.2 and +4.2 on nerves.

  python -m experiments.cemb_sam demo          simulated speckle in three groups; about 4 minutes
  python -m experiments.cemb_sam evidence      more seeds and pictures
  python -m experiments.cemb_sam lite --data FOLDER --weights lite_medsam.safetensors
                                               your pictures on LiteMedSAM, the group a column of
                                               class.csv or, of several folders, the folder; the
                                               encoder takes some seconds a picture, once

Times are estimated from short runs on 2 CPU cores; no preset has been recorded.
Published, BUSI: U-Net .649, SAM .614, MedSAM .860, CEmb-SAM .894.

The paper's group of a breast picture is its diagnosis: whoever knows it need not be told by a
network. So controls decide what the gain is. "block" has the block with one group for all (the same
network and cost without the condition); "shuffled" learns and is tested with groups dealt out at
random; "predicted" is the network of "told-skip" tested with the group that the nearest mean of
embeddings gives. Pictures without an object have no box and no Dice; they are left out.

The box is around the true mask, each side moved at random by up to 4 % of the picture, in training
and in the test, as in the paper; it tells where the object ends, and so part of what the group
tells.

DEVIATIONS: gamma starts at 1; "told" is the block as printed, which has no skip and must learn the
embedding anew, "told-skip" adds one. In `demo` and `evidence` a small segmenter, trained here on
simulated shapes without groups, stands for SAM. Adam for a fixed number of updates, no stopping.

results.json: the common schema of `study.results`, a domain a group; condition_accuracy: how often
"predicted" is told the true group; tuned: numbers that train in each arm; kept_share: operations of
an update of "decoder" on kept embeddings, over those of one that runs the encoder. timing.json:
seconds of encoder and decoder a picture.
"""

import dataclasses
import functools
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import prompt_free, prompted_sets
from experiments.grouped_prompts import Kind, Problem, nearest_group, pretrained
from medjax import adapt, check, cli, data, nets, study, tree
from medjax.inference.prompted import Prompted
from medjax.train import Report

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Decoders of a frozen promptable segmenter that learn several groups of pictures."""

  arms: tuple[str, ...] = (
    "frozen",
    "decoder",
    "block",
    "told",
    "told-skip",
    "shuffled",
    "predicted",
  )
  num_pictures: int = 180  # simulated pictures
  train_fraction: float = 0.5  # of the people; all others are tested
  num_pretraining: int = 300  # updates of the small segmenter before the study
  num_steps: int = 120  # updates of a decoder
  batch_size: int = 8  # pictures an update
  learning_rate: float = 3e-4  # Adam's, as in the paper
  weights: str = ""  # file of LiteMedSAM; "": the small segmenter
  condition: str = "class"  # column of class.csv with the group; "": the folder
  person: str = ""  # column of class.csv with the person; "": each picture is one
  max_pictures: int = 24  # real pictures a group
  # similarity of two people's scans that is refused; 0: not looked at
  near_duplicates: float = -1.0
  known: str = ""  # what is known of these data, a sentence shown beside the scores

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)


# --- arms: which block, and which group it is told

ARMS = study.arms(
  study.Arm("frozen", "no training here: the segmenter as it comes", lambda: None),
  study.Arm("decoder", "the decoder learns: the paper's MedSAM", Kind),
  study.Arm("block", "and a block that is told nothing", lambda: Kind(True)),
  study.Arm("told", "the block as printed, told the group", lambda: Kind(True, False, "group")),
  study.Arm("told-skip", "the same with a skip", lambda: Kind(True, True, "group")),
  study.Arm("shuffled", "told a random group: the control", lambda: Kind(True, True, "shuffled")),
  study.Arm("predicted", "told-skip, tested with a predicted group", lambda: None),
)


# --- questions, written down before the run

_SPREAD = (("subject", 0.06), ("seed", 0.01))
QUESTIONS = (
  study.Question("Does the block, told the group, beat the decoder alone?", "decoder",
                 ("told", "told-skip"), "dice", spread=_SPREAD),
  study.Question("Is it the group, and not the block?", "block", ("told-skip",), "dice",
                 spread=_SPREAD),
  study.Question("Is a random group worse?", "told-skip", ("shuffled",), "dice", expects="worse",
                 spread=_SPREAD),
  study.Question("Is a predicted group worse than the true?", "told-skip", ("predicted",), "dice",
                 expects="open", spread=_SPREAD),
  study.Question("Does training of the decoder help at all?", "frozen", ("decoder",), "dice",
                 spread=_SPREAD),
)  # fmt: skip

PRESETS = {
  "demo": Config(num_seeds=2),
  "evidence": Config(num_pictures=480, num_seeds=5, num_steps=600, num_pretraining=1500),
  "lite": Config(weights="lite_medsam.safetensors", num_seeds=1, num_steps=60, batch_size=2),
}

# --- the run and its page


def load(config: Config, options: cli.RunOptions) -> prompted_sets.Pictures:
  if not config.weights:
    study.paths_of(options.data, 0)
    return prompted_sets.drawn(config.num_pictures, 64, options.seed)
  check.require(options.data, "a path or more after --data", "none", "see --help")
  paths = [pathlib.Path(path).resolve() for path in options.data]
  return prompted_sets.folders(
    paths, 256, condition=config.condition if len(paths) == 1 else "", person=config.person,
    most=config.max_pictures,
  )  # fmt: skip


def build(config: Config, options: cli.RunOptions) -> None:
  sets = load(config, options)
  shares = {"train": config.train_fraction, "test": 1 - config.train_fraction}
  parts = study.parted(sets.subjects, shares, options.seed)
  people = study.people_by_part(sets.subjects, parts)
  design = study.design(config, options.seed, QUESTIONS, config.arms, people)
  if config.weights:
    prompt_free.lite_weights(config.weights)
    picture = study.pair_picture(options.workdir)
    prompted_sets.check_alike(sets, people, config.near_duplicates, picture)
  with options.directory(config, sets.manifest) as directory:
    if directory.finished:
      return
    if config.weights:
      net, frozen = nets.promptable(nets.lite_medsam()), prompt_free.lite_weights(config.weights)
    else:
      net, frozen = pretrained(config, directory, options.seed)
    prompted = Prompted(
      net.embed, net.decode, frozen, size=sets.image.shape[1], channels=sets.image.shape[-1],
      cache=directory.path / "embeddings" if config.weights else None,
    )  # fmt: skip
    embeddings = np.stack([np.asarray(prompted.embedded(image).embedding) for image in sets.image])
    problem = Problem(config, net, frozen, sets)
    program_of = functools.cache(problem.program)  # compiled once for all seeds
    shuffled = np.random.default_rng(options.seed).permutation(sets.group)
    every = {"embedding": embeddings, "mask": sets.mask, "box": prompted_sets.boxes(sets.mask),
             "group": sets.group, "shuffled": shuffled, "nothing": 0 * shuffled,
             "index": np.arange(len(sets.mask), dtype=np.int32)}  # fmt: skip
    train, test = ({k: v[np.array(parts[p])] for k, v in every.items()} for p in ("train", "test"))
    # One program for all: a block that is told nothing is told 0.
    said = {"group": "group", "shuffled": "shuffled", "one": "nothing"}
    design.begin(directory)
    names = [sets.subjects[i] for i in parts["test"]]
    guessed = nearest_group(train, test)

    def rows_of(arm: str, seed: int, dice: np.ndarray) -> list[dict[str, Any]]:
      return [
        {"arm": arm, "seed": seed, "role": "test", "case": str(own["index"]), "subject": name,
         "domain": sets.groups[own["group"]], "dice/object": float(value)}
        for name, own, value in zip(
          names, ({k: test[k][i] for k in ("index", "group")} for i in range(len(names))), dice,
          strict=True,
        )
      ]  # fmt: skip

    trained: dict[str, list[study.Trained]] = {}
    rows: list[dict[str, Any]] = []
    tuned: dict[str, int] = {"frozen": 0}
    flops = {arm: float("nan") for arm in config.arms}
    kinds: dict[str, Kind] = {arm: ARMS[arm].make() for arm in config.arms}
    for seed in design.seeds:
      key = jax.random.key(seed)
      for arm in config.arms:
        kind = kinds[arm]
        if arm == "frozen":
          dice = program_of(Kind())(frozen, test)
          rows += rows_of(arm, seed, dice)
        if kind is None:
          continue
        told = said[kind.told]
        stream = data.batches({**train, "group": train[told]}, config.batch_size, key)
        small, rest = problem.start(kind, key, jnp.asarray(train["embedding"][0]))
        step = problem.step(kind, rest)
        tuned[arm] = tree.size(small)
        job = study.Job(f"{arm}-{seed}", step, stream, small, key, config.num_steps)
        one = study.train_job(job, directory, log_every=config.log_every)
        trained.setdefault(arm, []).append(one)
        params = adapt.whole(one.params, rest)
        program = program_of(kind)
        asked = {arm: {**test, "group": test[told]}}
        if arm == "told-skip" and "predicted" in config.arms:
          asked["predicted"] = {**test, "group": guessed}
        for name, store in asked.items():
          make = lambda n=name, s=store, p=program, w=params, seed=seed: study.Scored(  # noqa: E731
            rows_of(n, seed, p(w, s))
          )
          rows += study.kept(directory, f"{name}-{seed}", one.params, make).rows
        if seed == design.seeds[0]:
          flops[arm] = study.flops(step, one.params, stream(0))
    if "told-skip" in flops and "predicted" in flops:
      flops["predicted"] = flops["told-skip"]
    costs = {arm: value for arm, value in flops.items() if arm in {row["arm"] for row in rows}}
    found = design.results(
      rows, ("dice",), costs=costs, flops=costs, tuned=tuned, is_simulated=not config.weights,
      condition_accuracy=float((guessed == test["group"]).mean()),
      kept_share=kept_share(problem, sets, flops.get("decoder", float("nan"))),
    )  # fmt: skip
    report = page(config, sets, found, trained)
    times = {"seconds": seconds(problem, prompted, sets, test)}
    study.finish(directory, found, report, trained=trained, rows=rows, times=times)


def kept_share(problem: Problem, sets: Any, update: float) -> float:
  """Operations of an update on kept embeddings over those of one that runs the encoder too."""
  image = jax.ShapeDtypeStruct(sets.image.shape[1:], jnp.float32)
  encoder: Any = jax.jit(problem.net.embed).lower(problem.frozen, image).cost_analysis()
  return update / (update + problem.config.batch_size * encoder["flops"])


def seconds(problem: Problem, prompted: Prompted, sets: Any, test: Any) -> dict[str, float]:
  """Seconds of the encoder and of the decoder a picture, compiled."""
  embed, answer = jax.jit(problem.net.embed), jax.jit(problem.net.decode)
  image = jnp.asarray(prompted.fitted(sets.image[0])[0])
  asked = nets.box_prompt(jnp.asarray(test["box"][0]))
  given = (problem.frozen, jnp.asarray(test["embedding"][0]), asked)

  def took(run: Any) -> float:
    jax.block_until_ready(run())
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began

  return {
    "encoder": took(lambda: embed(problem.frozen, image)),
    "decoder": took(lambda: answer(*given)),
  }


def page(
  config: Config, sets: Any, found: dict[str, Any], trained: dict[str, list[study.Trained]]
) -> Report:
  """Answers, scores, verdicts, curves and costs."""
  report = study.page.start(f"Told the group: {sets.title}", found)
  study.page.scores(report, found, ARMS, text=config.known)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  report.note(
    f"The nearest mean of embeddings finds the group of {found['condition_accuracy']:.0%} of the"
    " test pictures."
  )
  study.page.trainings(report, found, trained, {"loss": "loss"})
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
