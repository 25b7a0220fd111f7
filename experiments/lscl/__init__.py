"""Style curricula for unseen scanners: LSCL, the controls that it lacks, and its competitors.

Liu et al., "Style Curriculum Learning for Robust Medical Image Segmentation", MICCAI 2021: training
images are blended with style-transferred versions of themselves, more and more where the gradient
of the loss is positive. Two questions: does the gradient choose better than a random mask of cells,
and does the direction that ascends the loss by the chain rule (of the gradient times the difference
that the blend adds) beat the published one?

  python -m experiments.lscl demo           simulated hearts, vendors A and B to train on, C and D
                                            unseen; about 3 minutes
  python -m experiments.lscl evidence       the same with 5 seeds of every arm; about 70 minutes
  python -m experiments.lscl sites --data SITE1 --data SITE2 --data SITE3
                                            your nnU-Net folders, a site each, left out in turn;
                                            three of 128 x 128 pixels take about half an hour
  python -m experiments.lscl simulated_sites --data FOLDER --subject_pattern "(person\\d+)_"
                                            one folder of T1 scans as four scanners show it, two of
                                            them unseen, one of these out of family; 24 people take
                                            about 10 minutes
  python -m experiments.lscl mnms --data OPENDATASET
                                            the M&Ms challenge (registration): train on vendors A
                                            and B, test on all; wants an accelerator
  python -m experiments.lscl paper --data OPENDATASET
                                            the same with the paper's numbers

Times are for 2 CPU cores. What the paper reports on M&Ms, where unseen vendors count twice and its
own method alone has a filter of small components, stands on the page of the last two.

An unlabelled pool of styles goes to imagesUn/ of a source's folder. Distances of PNG files are in
pixels. The rate of the second phase was chosen for the plain U-Net on source validation people of
other simulated hearts (seed 100: 1e-3, 3e-3 and 1e-2 gave a Dice of .974, .981 and .987) and is the
same for all arms; the last update counts.

results.json: test_cases, test_people; label_vote: mean Dice on unseen sites of a vote of the
training label maps, without any image (null where cases differ in slices); turns: unseen sites,
training_slices, styles; arms.<row> with flops_an_update; sites.{unseen, in-domain}.<site>.{dice,
jaccard, hausdorff, assd}.{mean, std} over cases; phases.{ED, ES} the same on unseen sites; unseen
and in_domain: dice {mean, low, high, ...: 95 % interval over seeds and people} and the other
metrics; missed: structures of unseen sites with Dice 0; weighted_dice, weighted_hausdorff, min_max.
comparison.{u-net, augmented}: rows of `metrics.comparison_table` against that arm. questions: rows
of planned comparisons. curriculum.<rule>: loss and coverage by update, wrong_way. Rows ending in
-tta average four rotations. cases.csv has a row a test case.
"""

import dataclasses
import functools

from experiments.lscl import curriculum, hospitals, report, scores
from experiments.lscl.training import (
  AUGMENTED,
  PLAIN,
  Config,
  Task,
  Trainer,
  bank_of,
  flops_of,
  start_of,
)
from medjax import cli, study

_EVIDENCE = Config(
  leave_out=("C", "D"),
  num_people=40,
  num_unlabelled=10,
  num_seeds=5,
  pretrain_updates=1000,
  finetune_updates=800,
)
_MNMS = Config(
  source="mnms",
  leave_out=("C", "D"),
  shape=(256, 256),
  grid="resize",
  normalise="minmax",
  widths=(32, 64, 128, 256, 256),
  batch_size=16,
  num_seeds=3,
  pretrain_updates=20_000,
  finetune_updates=8_000,
  finetune_rate=1e-3,
  log_every=200,
  eval_every=2_000,
  style="autoencoder",
  style_updates=20_000,
  known="Table 1 of the paper: U-Net .8345 16.67 mm 0.000, Mixup .8465 11.82 .528, LSCL .8647 11.01"
  " .789, LSCL-TTA .8710 10.60 .890 (DSC score, HD score, min-max score among seven methods).",
)
PRESETS = {
  "demo": dataclasses.replace(
    _EVIDENCE,
    arms=("u-net", "augmented", "mixup", "random-style", "lscl-paper", "lscl-chain", "lscl-random"),
    num_people=20,
    num_unlabelled=0,
    shape=(48, 48),
    num_seeds=1,
    pretrain_updates=300,
    finetune_updates=80,
    eval_every=200,
  ),
  "evidence": _EVIDENCE,
  "sites": Config(source="folders", turns="each", shape=(96, 96)),
  "simulated_sites": Config(
    source="folders",
    simulate=("research-t1", "hospital-t1", "lowfield-t1", "curve-t1"),
    leave_out=("lowfield-t1", "curve-t1"),
    shape=(96, 96),
    pixel_mm=2.0,
  ),
  "mnms": _MNMS,
  "paper": dataclasses.replace(
    _MNMS,
    arms=("u-net", "mixup", "random-style", "scl", "lscl-paper"),
    test_time=("lscl-paper",),
    num_seeds=1,
    # 3,284 slices in batches of 16: 206 batches an epoch, 10 epochs, 4 updates a batch
    finetune_updates=8_240,
    finetune_rate=1e-5,
    component_fraction=0.3,
  ),
}


def build(config: Config, options: cli.RunOptions) -> None:
  picture = study.pair_picture(options.workdir)
  setting = hospitals.load(config, options.data, options.seed, picture)
  with options.directory(config, setting.manifest) as directory:
    if directory.finished:
      return
    directory.write_json("splits", setting.splits)
    task = Task(config, setting)
    scored: dict[str, list[study.Scored]] = {}
    trained: dict[str, list[study.Trained]] = {}
    pretrained: dict[str, list[study.Trained]] = {}
    kinds = [kind for kind in (PLAIN, AUGMENTED) if kind in map(start_of, config.arms)]
    banks = []
    for turn in setting.turns:
      banks.append(bank := bank_of(config, turn, options.seed, directory))
      for seed in range(options.seed, options.seed + config.num_seeds):
        trainer = Trainer(task, turn, seed, directory)
        starts = {kind: trainer.first_phase(kind) for kind in kinds}
        for kind, start in starts.items():
          pretrained.setdefault(kind, []).append(start)
        for arm in config.arms:
          one = trainer.second_phase(arm, starts[start_of(arm)], bank)
          trained.setdefault(arm, []).append(one)
          for ending in ("", scores.ROTATED) if arm in config.test_time else ("",):
            row = f"{arm}{ending}"
            make = functools.partial(scores.score, task, turn, row, one, seed)
            own = study.kept(directory, f"{row}-{turn.name}-{seed}", one.params, make)
            scored.setdefault(row, []).append(own)
    rows = [row for parts in scored.values() for part in parts for row in part.rows]
    audits = curriculum.audit(task, next(iter(pretrained.values()))[0], banks[0])
    by_arm = {arm: flops_of(task, arm, banks[0]) for arm in config.arms}
    flops = {row: by_arm[row.removesuffix(scores.ROTATED)] for row in scored}
    found = {rule: audit.figures for rule, audit in audits.items()}
    results = scores.results(task, rows, flops, found)
    study.finish(
      directory,
      results,
      report.page(task, pretrained, trained, scored, audits, results),
      trained=[one for own in (*pretrained.values(), *trained.values()) for one in own],
      rows=rows,
      times={
        "seconds_a_volume": {row: [p.seconds for p in parts] for row, parts in scored.items()}
      },
    )
