"""Minutes from a raw nnU-Net folder to a Dice, and what nnU-Net reaches in the same minutes.

  python -m experiments.bench.minutes_to_dice demo --data FOLDER       a few updates
  python -m experiments.bench.minutes_to_dice evidence --data FOLDER   1,000 updates
  python -m experiments.bench.minutes_to_dice evidence --data FOLDER --nnunet PATH/TO/python

The clock starts before the folder is read and counts all that follows: reading, normalising,
compiling, training, and looking at the validation people every `eval_every` updates. The network
is that of `experiments.segmentation` on fold 0 of five. Its averaged weights then predict the
people of the fold, file to file, and the written label maps are scored.

`--nnunet` names a Python in which nnunetv2 (2.8) is installed. It gets the same people to train on,
its own plan (3d_fullres), its own preprocessing and augmentation, the same processors, and `shares`
times the minutes that medjax took, preprocessing included. Its rate falls to zero at the end of
these minutes as (1 - t)^0.9, where its own schedule counts 1,000 epochs. The same people are
predicted by it and scored by the same function.

results.json: dice of each row by class. timing.json: minutes to each Dice of `targets` on the
validation people (NaN: not reached), the curve, minutes in all, seconds a case of prediction. A
killed run starts anew: remove the directory.
"""

import dataclasses
import json
import math
import pathlib
import shutil
import subprocess
import time
from typing import Any

import numpy as np

from experiments.segmentation import training
from medjax import check, cli, data, inference, train
from medjax.predict import predict
from medjax.study import stack_scores
from medjax.train.report import Report


@dataclasses.dataclass(frozen=True)
class Config:
  num_steps: int = 20
  """Updates."""
  eval_every: int = 10
  """Updates between two looks at the validation people."""
  patch: tuple[int, ...] = (32, 48, 32)
  """Voxels per axis that the network sees."""
  widths: tuple[int, ...] = (8, 16, 32, 64)
  """Channels of the U-Net's levels."""
  targets: tuple[float, ...] = (0.7, 0.8, 0.84)
  """Values of the mean Dice on validation people whose minutes are asked for."""
  shares: tuple[float, ...] = (1.0, 4.0)
  """Minutes that nnU-Net gets, as multiples of those that medjax took."""
  nnunet: str = ""
  """A Python with nnunetv2; "" leaves nnU-Net out."""


PRESETS = {"demo": Config(), "evidence": Config(num_steps=1000, eval_every=50)}
TRAINER = pathlib.Path(__file__).with_name("nnunet_for_minutes.py")


def reached(curve: list[tuple[float, float]], target: float) -> float:
  """Minutes at which a curve of (minutes, Dice) first stands at `target`; NaN if it never does.

  >>> reached([(1.0, 0.5), (2.0, 0.8), (3.0, 0.7)], 0.75), reached([(1.0, 0.5)], 0.75)
  (2.0, nan)
  """
  return next((minutes for minutes, dice in curve if dice >= target), math.nan)


def ours(
  config: Config, root: pathlib.Path, seed: int
) -> tuple[list[tuple[float, float]], float, inference.Member, training.Setting]:
  """The curve of (minutes, validation Dice), all minutes, the network, and what it was given."""
  began = time.perf_counter()
  asked = training.Config(
    fold=0, patch=config.patch, widths=config.widths, num_steps=config.num_steps
  )
  setting = training.load(asked, root, seed)
  job, model = training.job_of(setting, setting.folds[0], "augmented", seed)
  validate, curve = job.evaluators["validation"], []

  def timed(state: Any) -> Any:
    found = validate(state)
    curve.append(((time.perf_counter() - began) / 60, found["dice"]))
    return found

  fit = train.fit(
    job.step,
    job.stream,
    job.params,
    job.key,
    num_steps=job.num_steps,
    evaluators={"validation": timed},
    eval_every=config.eval_every,
    log_every=config.eval_every,
  )
  minutes = (time.perf_counter() - began) / 60
  member = inference.Member(model, fit.state.extra.params, setting.preprocess, job.name)
  return curve, minutes, member, setting


def scored(setting: training.Setting, folder: pathlib.Path) -> dict[str, float]:
  """Mean Dice by class of the label maps that were written for the people of the fold."""
  truth = data.NnUNetFolder(setting.source.root, normalise="none", reorient=False)
  values, names = np.asarray(setting.preprocess.label_values), setting.source.class_names
  found = []
  for index in setting.folds[0].test:
    name, ending = setting.source.names[index], setting.preprocess.file_ending
    written = data.read_case(data.Case(name, (folder / f"{name}{ending}",))).array[..., 0]
    label = truth[index].label
    assert label is not None
    found.append(stack_scores.dice(np.searchsorted(values, written.astype(int)), label, len(names)))
  means = np.nanmean(np.asarray(found), 0)
  by_class = {name: float(x) for name, x in zip(names[1:], means, strict=True)}
  return {"mean": float(means.mean()), **by_class}


def raw_folder(setting: training.Setting, folder: pathlib.Path) -> None:
  """The folder as nnU-Net wants it, by links: its test people are unlabelled images."""
  fold, root = setting.folds[0], setting.source.root
  for part in ("imagesTr", "labelsTr", "imagesTs"):
    (folder / part).mkdir(parents=True)
  ending = setting.preprocess.file_ending
  for index in (*fold.train, *fold.validation, *fold.test):
    name = setting.source.names[index]
    target = "imagesTs" if index in fold.test else "imagesTr"
    for path in sorted((root / "imagesTr").glob(f"{name}_[0-9][0-9][0-9][0-9]{ending}")):
      (folder / target / path.name).symlink_to(path.resolve())
    if index not in fold.test:
      label = root / "labelsTr" / f"{name}{ending}"
      (folder / "labelsTr" / label.name).symlink_to(label.resolve())
  about = json.loads((root / "dataset.json").read_text())
  about["numTraining"] = len(fold.train) + len(fold.validation)
  (folder / "dataset.json").write_text(json.dumps(about))
  names = setting.source.names
  splits = [{"train": [names[i] for i in fold.train], "val": [names[i] for i in fold.validation]}]
  (folder / "splits.json").write_text(json.dumps(splits))


def theirs(
  python: str, setting: training.Setting, folder: pathlib.Path, minutes: float
) -> dict[str, Any]:
  """nnU-Net in a process of its own: how many updates it made, and seconds a case; see TRAINER."""
  raw_folder(setting, folder / "raw" / "Dataset001_Bench")
  command = [python, str(TRAINER), str(folder), str(minutes)]
  ran = subprocess.run(command, capture_output=True, text=True, check=False)
  (folder / "log.txt").write_text(ran.stdout + ran.stderr)
  last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
  check.require(
    ran.returncode == 0,
    "nnU-Net to train and to predict",
    f"status {ran.returncode}: {last}",
    f"read {folder / 'log.txt'}",
  )
  return json.loads((folder / "about.json").read_text())


def build(config: Config, options: cli.RunOptions) -> None:
  check.require(
    len(options.data) == 1, "one nnU-Net folder after --data", f"{len(options.data)}", "pass one"
  )
  root = options.data[0]
  check.existing_file(root / "dataset.json", "pass an nnU-Net v2 dataset folder after --data")
  check.require(
    not config.nnunet or shutil.which(config.nnunet),
    "a Python with nnunetv2 after --nnunet",
    config.nnunet,
    "pass its path",
  )
  with options.directory(config) as directory:
    if directory.finished:
      return
    path = directory.path
    curve, minutes, member, setting = ours(config, root, options.seed)
    held_out = path / "held_out"
    held_out.mkdir()
    for index in setting.folds[0].test:
      for file in setting.source.case(index).files:
        (held_out / file.name).symlink_to(file.resolve())
    began = time.perf_counter()
    predict([member], held_out, path / "medjax", symmetries=inference.mirrorings(len(config.patch)))
    seconds = (time.perf_counter() - began) / len(setting.folds[0].test)
    dice = {"medjax": scored(setting, path / "medjax")}
    about: dict[str, Any] = {
      "medjax": {"minutes": minutes, "updates": config.num_steps, "seconds_a_case": seconds}
    }
    for share in config.shares if config.nnunet else ():
      name = f"nnU-Net, {share:g} times the minutes"
      own = path / f"nnunet-{share:g}"
      about[name] = theirs(config.nnunet, setting, own, share * minutes)
      dice[name] = scored(setting, own / "predicted")
      print(name, dice[name], about[name], flush=True)
    to_dice = {f"{target:g}": reached(curve, target) for target in config.targets}
    report = Report("Minutes to a Dice", f"{setting.source.root.name}, fold 0 of 5.")
    report.section("Minutes until the validation people stand at a mean Dice").table(
      ["mean Dice", "minutes"], [[f"{t:g}", to_dice[f"{t:g}"]] for t in config.targets]
    )
    line = ([minute for minute, _ in curve], [dice for _, dice in curve])
    report.curves({"medjax": line}, "minutes", "mean Dice")
    report.section("Held-out people").table(
      ["trained by", "mean Dice", "minutes", "updates", "seconds a case"],
      [
        [name, dice[name]["mean"], row["minutes"], row["updates"], row["seconds_a_case"]]
        for name, row in about.items()
      ],
    )
    report.what_ran(directory.config).write(path / "report.html")
    directory.write_json("timing", {"to_dice": to_dice, "curve": curve, "rows": about})
    directory.write_json("results", {"dice": dice})


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
