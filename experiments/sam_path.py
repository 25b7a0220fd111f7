"""SAM-Path: does a second frozen encoder, one that knows tissue, help SAM to name tissue?

Zhang et al., "SAM-Path: A Segment Anything Model for Semantic Segmentation in Digital Pathology"
(2023): tokens of classes take the place of SAM's mask tokens, so that the decoder gives a mask a
class without a prompt. It reads the embeddings of two frozen encoders, SAM's and one of pathology,
side by side through a new neck; neck, tokens and decoder are trained. Claims: both encoders are
better than either, and all are far above no training; the second one matters more where there are
several classes.

  python -m experiments.sam_path demo       simulated tissue of four kinds, small encoders that are
                                            trained here; about 9 minutes
  python -m experiments.sam_path evidence   3 seeds and more updates; about 30 minutes
  python -m experiments.sam_path nuclei --data FOLDER --segmenter lite_medsam.safetensors
      --tissue efficientnet_lite0.safetensors
                                            your pictures of 256 x 256, an nnU-Net folder, with
                                            LiteMedSAM and ImageNet's Lite0; about 25 minutes

`demo` took nine minutes of trainings on 2 CPU cores beside other work; the other times are
estimated. In it the small segmenter's map tells tissue hardly apart, so that every arm without the
textures' encoder calls a whole picture one class, and the segmenter adds little to the other
encoder: whether both are better than either is for `nuclei` to say.

Published Dice (IoU), four kinds of tissue: without the pathology encoder .7562 (.6080), without
SAM's .7813 (.6411), both .7949 (.6596). Glands: SAM as it comes .5245 (.3555); then .8414 (.8451),
.8191 (.8252), .8841 (.8831). The last three cannot be figures of the same masks: IoU = Dice / (2 -
Dice) is below the Dice, .8414 gives .7262 and .8841 gives .7923, as the other rows have it to four
digits. The gain of 71.63 % in IoU is .8451 over .4924 of SAM with post-processing, two kinds of
average; .7262 over .4924 is 47 %.

Two encoders also make a wider neck. So controls of equal width are trained: "twice" reads SAM's
embedding two times, "untrained" reads it beside an encoder of random weights. What the paper calls
fine-tuned without one of the encoders are the arms "segmenter" and "tissue". "linear" does without
what SAM brings for prompts: a linear map on both embeddings stands in the place of neck, tokens and
decoder, and is trained with as many updates on the same loss.

DEVIATIONS: embeddings are those behind SAM's own neck; in `demo` and `evidence` a small segmenter,
trained here by clicks on shapes, stands for SAM, and an encoder that learnt to tell which texture
fills each quarter of a picture for HIPT; Adam, whose rate goes to 0 by a cosine, without weight
decay. LiteMedSAM's decoder takes no more than about 3e-4: at 1e-3 and 3e-3 every arm calls the
whole picture a nucleus after 20 updates of two pictures and stays there.

results.json: the common schema of `study.results`; jaccard is the IoU; rating: squared error of the
decoder's own estimates of it, mean over classes; classes: arm -> class -> mean Dice; tuned: numbers
that train. timing.json: as every study.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
import optax

from experiments import click_trials, prompt_free, tissue_quilts
from experiments.class_decoders import Head, Kind
from experiments.tissue_quilts import Tissue
from medjax import check, cli, data, methods, nets, study, tree
from medjax.train import Report
from medjax.types import Array, Params

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Decoders of classes on the embeddings of frozen encoders."""

  arms: tuple[str, ...] = ("untuned", "linear", "segmenter", "tissue", "both", "twice", "untrained")
  num_seeds: int = 1
  size: int = 64  # side of simulated pictures, divisible by 8
  num_pictures: int = 120  # simulated; half are tested
  num_pretraining: int = 600  # updates of each small encoder
  num_corrections: int = 2  # clicks after the first, of the small segmenter's training
  num_steps: int = 300  # updates of each arm
  batch_size: int = 8  # pictures an update
  learning_rate: float = 3e-3  # Adam's, cosine to 0; 1e-4 in the paper, for far more updates
  linear_rate: float = 3e-3  # the same of the linear map, which starts from zeros
  segmenter: str = ""  # file of LiteMedSAM; "": the small segmenter
  tissue: str = ""  # file of EfficientNet-Lite0; "": the small encoder of textures
  subject: str = r"^(.+)_[0-9]+_[0-9]+$"  # finds the person in a picture's name

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)
    check.require(
      bool(self.segmenter) == bool(self.tissue), "two files of weights, or none",
      f"segmenter={self.segmenter!r}, tissue={self.tissue!r}", "pass both",
    )  # fmt: skip


ARMS = study.arms(
  study.Arm("untuned", "both encoders, nothing trained", lambda: Kind(trains=False)),
  study.Arm("linear", "a linear map on both embeddings", lambda: Kind(head="linear")),
  study.Arm("segmenter", "without the tissue encoder", lambda: Kind(("segmenter",))),
  study.Arm("tissue", "without the segmenter's encoder", lambda: Kind(("tissue",))),
  study.Arm("both", "both encoders: SAM-Path", Kind),
  study.Arm("twice", "one encoder two times: control of equal width",
            lambda: Kind(("segmenter", "segmenter"))),
  study.Arm("untrained", "beside an encoder of random weights: control of equal width",
            lambda: Kind(("segmenter", "untrained"))),
)  # fmt: skip

# --- questions, written down before the run

_SPREAD = (("subject", 0.08), ("seed", 0.02))
QUESTIONS = tuple(
  study.Question(text, reference, arms, "dice", expects=expects, spread=_SPREAD)
  for text, reference, arms, expects in (
    ("Is training far above none?", "untuned", ("segmenter", "tissue", "both"), "better"),
    ("Are both encoders better than the segmenter's?", "segmenter", ("both",), "better"),
    ("Are both encoders better than that of tissue?", "tissue", ("both",), "better"),
    ("Is it the tissue encoder, and not the width?", "both", ("twice", "untrained"), "worse"),
    ("Does width alone help?", "segmenter", ("twice", "untrained"), "open"),
    ("Is the decoder better than a linear map?", "linear", ("both",), "open"),
  )
)
PRESETS = {
  "demo": Config(),
  "evidence": Config(num_seeds=3, num_pictures=200, num_steps=500),
  "nuclei": Config(segmenter="lite_medsam.safetensors", tissue="efficientnet_lite0.safetensors",
                   num_steps=120, batch_size=2, learning_rate=3e-4, linear_rate=1e-2),
}  # fmt: skip

# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  is_simulated = not config.segmenter
  if is_simulated:
    study.paths_of(options.data, 0)
    own = tissue_quilts.quilts(config.num_pictures, config.size, options.seed)
  else:
    (path,) = study.paths_of(options.data, 1)
    prompt_free.lite_weights(config.segmenter)
    prompt_free.imagenet_weights(config.tissue)
    own = tissue_quilts.folder(path.resolve(), config.subject)
  parts = study.parted(own.subjects, {"train": 0.5, "test": 0.5}, options.seed)
  people = study.people_by_part(own.subjects, parts)
  design = study.design(config, options.seed, QUESTIONS, config.arms, people)
  with options.directory(config, own.manifest) as directory:
    if directory.finished:
      return
    design.begin(directory)
    train, test = (np.array(parts[part]) for part in ("train", "test"))
    trained: dict[str, list[study.Trained]] = {}
    rows: list[dict[str, Any]] = []
    tuned: dict[str, int] = {}
    flops: dict[str, float] = {}
    for seed in design.seeds:
      module, params, maps = encoders(config, own, directory, seed, trained)
      head = Head(module, params, len(own.names), own.label.shape[1])
      rates = {"decoder": config.learning_rate, "linear": config.linear_rate}
      steps = {
        name: methods.supervised(
          head.loss, optax.adam(optax.cosine_decay_schedule(rate, config.num_steps))
        )
        for name, rate in rates.items()
      }
      score = jax.jit(head.scores)
      for arm in config.arms:
        kind, key = ARMS[arm].make(), jax.random.key(seed)
        step = steps[kind.head]
        seen = np.concatenate([maps[name] for name in kind.seen], -1)
        weights = head.start(kind, key, seen[0])
        tuned[arm] = tree.size(weights) if kind.trains else 0
        if kind.trains:
          store = {"embedding": seen[train], "label": own.label[train]}
          stream = data.batches(store, config.batch_size, key)
          job = study.Job(f"{arm}-{seed}", step, stream, weights, key, config.num_steps,
                          inherited=params)  # fmt: skip
          one = study.train_job(job, directory, log_every=config.log_every)
          trained.setdefault(arm, []).append(one)
          weights = one.params
          if seed == design.seeds[0]:
            flops[arm] = study.flops(step, weights, stream(0))
        about = {"arm": arm, "seed": seed, "role": "test"}

        def make(w=weights, s=seen, a=about, score=score) -> study.Scored:
          return study.Scored([
            {**a, "case": str(i), "subject": own.subjects[i], "domain": "",
             **_figures(own.names, score(w, s[i], own.label[i]))}
            for i in test
          ])  # fmt: skip

        rows += study.kept(directory, f"{arm}-{seed}", weights, make).rows
    found = design.results(
      rows, ("dice", "jaccard", "rating"), flops=flops, tuned=tuned, is_simulated=is_simulated,
      classes=by_class(rows, own.names),
    )  # fmt: skip
    title = "simulated tissue" if is_simulated else options.data[0].resolve().name
    study.finish(directory, found, page(title, found, trained), trained=trained, rows=rows)


def encoders(
  config: Config, own: Tissue, directory: Any, seed: int, trained: dict[str, list[study.Trained]]
) -> tuple[nets.PromptableSegmenter, Params, dict[str, np.ndarray]]:
  """The segmenter, its weights, and the maps of every encoder on all pictures."""
  if config.segmenter:
    folder = pathlib.Path(directory.path) / "embeddings"
    module, params, maps = tissue_quilts.of_weights(
      own.image, config.segmenter, config.tissue, folder
    )
  else:
    module = nets.mini_promptable(num_masks=1)
    asked = click_trials.Asked(module, config.size, 1, config.num_corrections)
    shapes = click_trials.pretrained(config, asked, directory, seed)
    textures = tissue_quilts.trained_on_textures(config, directory, seed)
    trained.setdefault("shapes", []).append(shapes)
    trained.setdefault("textures", []).append(textures)
    params, net = shapes.params, tissue_quilts.small_encoder()
    maps = {
      "segmenter": tissue_quilts.embedded(net, params["encoder"], own.image),
      "tissue": tissue_quilts.embedded(net, textures.params["encoder"], own.image),
    }
  grid, width = maps["segmenter"].shape[1], maps["tissue"].shape[-1]
  coarse = min(grid, 16)  # all of Lite0's map; attention over 64 x 64 places would take minutes
  random = tissue_quilts.random_weights(coarse, width, own.image, seed)
  maps["untrained"] = np.repeat(np.repeat(random, grid // coarse, 1), grid // coarse, 2)
  return module, params, maps


def _figures(names: tuple[str, ...], scores: tuple[Array, ...]) -> dict[str, float]:
  dice, overlap, rating = (np.asarray(x) for x in scores)
  found = {f"dice/{name}": float(x) for name, x in zip(names[1:], dice, strict=True)}
  found |= {f"jaccard/{name}": float(x) for name, x in zip(names[1:], overlap, strict=True)}
  return {**found, "rating/all": float(rating)}


def by_class(rows: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, dict[str, float]]:
  """Arm -> class -> mean Dice over the pictures that show it or an answer of it."""
  return {
    arm: {
      name: float(np.nanmean([row[f"dice/{name}"] for row in rows if row["arm"] == arm]))
      for name in names[1:]
    }
    for arm in dict.fromkeys(row["arm"] for row in rows)
  }


def page(title: str, found: dict[str, Any], trained: dict[str, list[study.Trained]]) -> Report:
  """Answers, scores, Dice by class, verdicts and costs."""
  report = study.page.start(f"Two frozen encoders on {title}", found)
  study.page.scores(report, found, ARMS)
  names = list(next(iter(found["classes"].values())))
  report.table(
    ["arm", *names], [[arm, *own.values()] for arm, own in found["classes"].items()],
    "Dice of each class, over pictures that show it or an answer of it.",
  )  # fmt: skip
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  study.page.trainings(report, found, trained, {"loss": "loss"})
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
