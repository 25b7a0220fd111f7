"""Plain supervised segmentation of a folder of images: where a user starts, and what methods beat.

  python -m experiments.segmentation demo           simulated heads, one fold; about 3 minutes
  python -m experiments.segmentation folder --data FOLDER --fold 0
                                                    your own nnU-Net folder, 2D or 3D
  python -m experiments.segmentation evidence --data HIPPOCAMPUS
                                                    five folds, augmented and plain; 50 minutes

Times are for 2 CPU cores. `--fold -1` trains all folds one after the other, resumable; folds on
several machines take a directory each, and `python -m medjax.predict --run A B C` averages them.
HIPPOCAMPUS is Task04 of the Medical Segmentation Decathlon in nnU-Net v2 layout (CC-BY-SA 4.0); on
all of its 260 labelled cases and 1,000 epochs nnU-Net reaches a mean Dice of .89 to .90.

results.json: test_cases, test_subjects, folds; arms.<arm>: flops_an_update, dice.{mean, low, high}
(95 % interval over subjects and seeds), dice_by_class, dice_by_fold, missed, calibration and
calibration_with_temperature {classwise_ece, top_label_ece, brier, nll}, temperatures (one a
network); comparison: rows of `metrics.comparison_table` against the arm "plain". cases.csv has a
row a held-out case, weights/ the networks, held_out/ each network's label maps of the cases that it
was tested on, predictions/ label maps of imagesTs.
"""

import functools
import pathlib

from experiments import procedural_folder
from experiments.segmentation import report, scores
from experiments.segmentation.training import Config, Trained, fit, load
from medjax import cli, data, study

PRESETS = {
  "demo": Config(
    fold=0,
    patch=(32, 32, 32),
    widths=(8, 16, 32),
    num_steps=400,
    eval_every=100,
    log_every=10,
    mirror=False,
  ),
  "folder": Config(),
  "evidence": Config(
    arms=("augmented", "plain"),
    patch=(32, 48, 32),
    widths=(8, 16, 32, 64),
    num_steps=600,
    known="On all 260 labelled cases and 1,000 epochs nnU-Net reaches a mean Dice of .89 to .90.",
  ),
}


def build(config: Config, options: cli.RunOptions) -> None:
  root = _folder(options)
  picture = study.pair_picture(options.workdir)
  setting = load(config, root, options.seed, picture, options.given)
  with options.directory(config, setting.source.manifest()) as directory:
    if directory.finished:
      return
    directory.write_json("splits", setting.splits)
    if scores.has_unlabelled(setting.source):  # refused now, not after the training
      data.check_cases(data.find_cases(root / "imagesTs", setting.preprocess), setting.preprocess)
    trained: dict[str, list[Trained]] = {arm: [] for arm in config.arms}
    scored: dict[str, list[study.Scored]] = {arm: [] for arm in config.arms}
    for fold in setting.folds:
      for seed in range(options.seed, options.seed + config.num_seeds):
        for arm in config.arms:
          one = fit(setting, fold, arm, seed, directory)
          make = functools.partial(scores.score, setting, fold, one, arm, seed, directory)
          trained[arm].append(one)
          scored[arm].append(study.kept(directory, one.job.name, one.member.params, make))
    first = config.arms[0]
    members = [one.member for one in trained[first]]
    output = directory.path / "predictions"
    unlabelled = scores.predict_unlabelled(setting, first, members, output)
    flops = {arm: parts[0].flops for arm, parts in trained.items()}
    results = scores.results(setting, scored, flops)
    page = report.page(setting, trained, scored, unlabelled, results)
    jobs = [one.job for own in trained.values() for one in own]
    parts = [part for own in scored.values() for part in own]
    seconds = {job.name: part.seconds for job, part in zip(jobs, parts, strict=True)}
    study.finish(
      directory,
      results,
      page,
      trained=jobs,
      rows=[row for part in parts for row in part.rows],
      times={"prediction_seconds_a_case": seconds},
    )


def _folder(options: cli.RunOptions) -> pathlib.Path:
  """The reader's folder; for the demo one that is simulated beside the run directory."""
  if options.data or options.preset != "demo":
    return study.paths_of(options.data, 1, ", an nnU-Net folder")[0]
  folder = options.workdir.with_name(f"{options.workdir.name}-data")
  folder.parent.mkdir(parents=True, exist_ok=True)
  procedural_folder.write(folder, options.seed, num_train=20, num_test=3, size=32)
  return folder
