"""Supervised transfer from one hospital to another: MMTL, OCTL, every baseline and every control.

Goodman, Greenspan, Goldberger, "Supervised Domain Adaptation Using Gradients Transfer for Improved
Medical Image Analysis", DART 2022 (MMTL and OCTL). Two questions: with few target people, does MMTL
beat the best baseline and keep the source; and where OCTL helps, is it the gradient history, or the
warm-up that its step count brings?

  python -m experiments.site_transfer demo        simulated scanners, skull stripping; 3 minutes
  python -m experiments.site_transfer evidence    the same: 3 pairs, 3 seeds, both optimisers, all
                                                  controls; about 50 minutes
  python -m experiments.site_transfer folders --data SITE1 --data SITE2
                                                  your nnU-Net folders, the target last; pictures
                                                  are people of one slice: --target_sizes 16 64
  python -m experiments.site_transfer simulated_sites --data FOLDER --subject_pattern "(.+)_scan"
                                                  one folder of T1 scans as two scanners show it
  python -m experiments.site_transfer cc359 --data DOWNLOAD
                                                  30 pairs of CC359's sites; wants an accelerator
  python -m experiments.site_transfer prostate --data DOWNLOAD
                                                  five sites to the sixth, each in turn
  python -m experiments.site_transfer chest --data CHEXPERT --data CHESTXRAY14
                                                  chest radiographs, both directions, mean AUROC;
                                                  wants an accelerator with 11 GB for the pictures
  python -m experiments.site_transfer paper --data DOWNLOAD
                                                  CC359 with the paper's numbers
  python -m experiments.site_transfer released_code --data DOWNLOAD
                                                  CC359 with those of the released code

Times are for 2 idle CPU cores. On CC359 (Table 2, surface Dice under SGD) the paper reports, with
90 slices of the target: fine-tuning 74.5, SpotTune 75.3, OCTL 73.4, MMTL 78.5; with 1080: 82.6,
81.3, 87.0, 84.2; no transfer 54.6, oracle 84.6.

Downloads are trained with BatchNorm, as published; the other presets have GroupNorm, which couples
no examples. Running statistics go over from source to target, where they move on whatever an arm
freezes: as in the released code, first-layers includes a free adaptation of all statistics. MMTL's
are those of batches of both sites; SpotTune has one set for both of its copies.

Radiographs (`chest`): --classes own, as in the paper, gives each site a head for its findings. The
target's head is new and trained alike in all arms: fine-tuning's optimiser, no history, no penalty.
No transfer then means nothing at the target, and no pair is left out for want of a gap. --classes
shared, the seven findings of both, keeps the head and has both. Epochs, batch, image size and the
policy for uncertain labels are not in the paper; they are fields.

DEVIATIONS: slices are drawn without replacement, not person by person, and cut or padded about the
middle, in tests too (what is cut off is not scored); rates drop after three quarters of the updates
whatever their number; images of prostates have one slice, not three, and no post-processing.
SpotTune's policy is a smaller residual network under AdamW. Rates are not tuned arm by arm. With
voxels of 2 x 2 x 4 mm the simulated surface Dice at 1 mm asks boundary voxels to coincide.
octl-rebuilt has a pass as long as the source training: at b2 = .999 and 600 updates its second
moment still remembers its start by half, for which the step count 100 does not correct.

results.json: sizes: people (or images), least_slices, most_slices; test_people.<pair>.{target,
source}; findings.<site>.{scored, left_out} of radiographs; optimisers.<name>.pairs.<pair>: {no
transfer, oracle, gap, in_table}, Dice (AUROC); .bounds.{no transfer, oracle}.<role>.<metric>.{mean,
std} and .sizes.<size>.<arm>.<role>.<metric>.{mean, std}: role target or source, metric surface_dice
or dice (auroc), over pairs in the tables (NaN without any), std over seeds; .flops_an_update;
questions: rows of planned comparisons, with compute, the operations of the arm's update over those
of the reference's. cases.csv has a row a test case, of radiographs a person.
"""

import dataclasses
import functools
from typing import Any

from experiments.site_transfer import chest, hospitals, report, scores, training
from experiments.site_transfer.config import Config
from experiments.site_transfer.scorers import scorer_of
from experiments.site_transfer.scores import NO_TRANSFER, ORACLE
from experiments.site_transfer.training import Run, Study, Trained
from medjax import cli, study

_EVIDENCE = Config(
  pairs=("research-t1>legacy-t1", "legacy-t1>hospital-t1", "memory-t1>lowfield-t1"),
  shape=(40, 40),
  spacing=(2.0, 2.0, 4.0),
  num_people=20,
  target_sizes=(1, 4),
  batch_size=8,
  num_epochs=20,
  source_epochs=60,
  steps_per_epoch=10,
)
_CC359 = Config(
  data_source="cc359",
  shape=(256, 256),
  test_fraction=0.25,
  network="sum_unet",
  norm="batch",
  widths=(16,),
  steps_per_epoch=100,
  spacing=(1.0, 1.0, 1.0),
  sgd_rate=1e-3,
  surface="surfel",
  log_every=500,
  known="Table 2 of the paper, surface Dice under SGD, 90 and 1080 slices: fine-tuning 74.5, 82.6;"
  " SpotTune 75.3, 81.3; OCTL 73.4, 87.0; MMTL 78.5, 84.2; no transfer 54.6; oracle 84.6.",
)
PRESETS = {
  "demo": dataclasses.replace(
    _EVIDENCE,
    pairs=("research-t1>lowfield-t1", "hospital-t1>legacy-t1"),
    arms=("fine-tune", "l2-sp", "mmtl", "octl", "octl-none", "equal-rate"),
    optimisers=("adam",),
    num_people=10,
    target_sizes=(1,),
    num_seeds=1,
    source_epochs=40,
  ),
  "evidence": _EVIDENCE,
  "folders": Config(data_source="folders", shape=(96, 96), batch_size=8, steps_per_epoch=10),
  "simulated_sites": Config(
    data_source="rescanned",
    pairs=("research-t1>lowfield-t1", "lowfield-t1>research-t1"),
    shape=(96, 96),
    spacing=(2.0, 2.0, 1.0),
    target_sizes=(1, 4),
    batch_size=8,
    steps_per_epoch=10,
  ),
  "cc359": dataclasses.replace(_CC359, max_test=10),
  "prostate": dataclasses.replace(
    _CC359,
    data_source="prostate",
    shape=(384, 384),
    spacing=(),
    normalise="zscore",
    adam_rate=1e-4,
    sgd_rate=1e-4,
    optimisers=("adam",),
    target_sizes=(1, 2),
    known="Table 4 of the paper, Dice under Adam, 10 slices: fine-tuning 81.4, first layers 78.0,"
    " L2-SP 80.5, SpotTune 80.0, OCTL 81.2, MMTL 83.2.",
  ),
  "chest": Config(
    data_source="chest",
    shape=(224, 224),
    max_test=1000,
    network="densenet",
    norm="batch",
    widths=(64,),
    optimisers=("adam",),
    target_sizes=(128, 256, 512, 1024),
    adam_rate=1e-4,
    num_epochs=20,
    source_epochs=100,
    steps_per_epoch=100,
    log_every=500,
  ),
  "paper": dataclasses.replace(
    _CC359, arms=("fine-tune", "first-layers", "l2-sp", "spottune", "mmtl", "octl")
  ),
  "released_code": dataclasses.replace(
    _CC359, spacing=(1.0, 0.95, 0.95), octl_momentum=0.9, mmtl_schedule="released"
  ),
}


def build(config: Config, options: cli.RunOptions) -> None:
  if config.data_source == "chest":
    setting = chest.load(config, options.data, options.seed)
  else:
    picture = study.pair_picture(options.workdir)
    setting = hospitals.load(config, options.data, options.seed, picture)
  seeds = range(options.seed, options.seed + config.num_seeds)
  runs = {
    optimiser: [
      Run(optimiser, pair, size, seed)
      for pair in setting.pairs
      for size in config.target_sizes
      for seed in seeds
    ]
    for optimiser in config.optimisers
  }
  for run in (run for own in runs.values() for run in own):
    training.rows_of(config, run, "fine-tune")  # refused now, not after the sources
  with options.directory(config, setting.manifest) as directory:
    if directory.finished:
      return
    directory.write_json("splits", setting.splits)
    trainer, scorer = Study(config, setting, directory), scorer_of(config, setting)
    rows: list[dict[str, Any]] = []
    first: dict[Any, tuple[Trained, study.Scored]] = {}

    def test(trained: Trained, run: Run, arm: str, size: float, roles: tuple[str, ...]) -> None:
      about = {"optimiser": run.optimiser, "arm": arm, "size": size, "pair": run.pair.name}
      for role in roles:
        stacks = run.pair.target_test if role == "target" else run.pair.source_test
        make = functools.partial(scorer, trained, stacks, {**about, "seed": run.seed, "role": role})
        name = f"{run._replace(size=size).name(arm)}-{role}"
        found = study.kept(directory, name, trained.network, make)
        rows.extend(found.rows)
        first.setdefault((run.optimiser, arm), (trained, found))

    for optimiser, own in runs.items():
      for run in (run for run in own if run.size == config.target_sizes[0]):
        source = trainer.source(run.pair, optimiser, run.seed)
        known = ("source",) if run.pair.has_new_head else ("target", "source")
        test(source, run, NO_TRANSFER, 0, known)
        test(trainer.oracle(run.pair, optimiser, run.seed), run, ORACLE, 0, ("target",))
      for arm in config.arms_of(optimiser):
        for run, trained in zip(own, trainer.adapt(arm, own), strict=True):
          test(trained, run, arm, run.size, ("target", "source"))
    flops = {
      str(optimiser): {
        str(arm): trainer.flops_of(arm, optimiser) for arm in config.arms_of(optimiser)
      }
      for optimiser in config.optimisers
    }
    results = scores.results(config, setting, rows, flops)
    page = report.page(
      config,
      setting,
      {key: one for key, (one, _) in first.items()},
      {key: found for key, (_, found) in first.items()},
      results,
    )
    every = [one.job for one, _ in first.values() if one.job is not None]
    study.finish(directory, results, page, trained=every, rows=rows)
