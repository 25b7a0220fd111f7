"""Replay for MS lesions over hospitals: does a small memory keep what fine-tuning forgets?

Karthik et al., "Segmentation of Multiple Sclerosis Lesions across Hospitals: Learn Continually or
Train from Scratch?" (2022): a network learns from eight centres one after the other, with up to 20
people of each remembered. Claims to test: replay is above fine-tuning; its backward transfer is not
below 0; it reaches training on all centres at once.

  python -m experiments.ms_replay demo         4 simulated centres in 2D; about 2 minutes
  python -m experiments.ms_replay evidence     8 simulated centres, a fifth of the published sizes,
                                               volumes; 3 seeds and 3 orders; about 90 minutes
  python -m experiments.ms_replay strategies   the 8 centres in 2D, 3 seeds, every arm but the
                                               private one; about 25 minutes
  python -m experiments.ms_replay simulated8   8 simulated centres of the published sizes
  python -m experiments.ms_replay deeper | small_patches | large_patches
                                               replay with one of the choices of the paper's A.1.1;
                                               compare with evidence; about 40 minutes each
  python -m experiments.ms_replay folders --data CENTRE1 --data CENTRE2 ...
                                               your nnU-Net folders in the order of training;
                                               also MSLesSeg and the Ljubljana set as distributed
  python -m experiments.ms_replay paper --data CENTRE1 ...
                                               the paper's numbers on such folders
  python -m experiments.ms_replay released_code --data CENTRE1 ...
                                               as its code does: see below

With --data FOLDER (nnU-Net layout) simulated volumes take some lesions from real masks, each in
one head. Times are for 2 CPU cores; simulated8, paper and released_code want an accelerator. A run
stopped at any centre goes on from there when the command is repeated. --continue is refused: later
centres would keep the start that the shorter training of an earlier one gave them.

In 9 orders of the private data of the paper (290 people; Dice over all centres after the last one,
from the matrices in its repository): replay .530, fine-tuning .418, multi-domain .482; backward
transfer over K - 1 +.029 and -.071. Fine-tuning ends above replay in one of the orders, replay
below multi-domain in two.

Text and code of the paper differ, and each difference is a field: the memory is drawn once here
("replay"), anew at every centre in the code ("replay-redrawn", no bounded memory); pooled in the
code, half of the weight in Eq. 2 ("replay-weighted"); encoder with new decoder (transfer) of the
best validation loss (carry), although tests are of the last weights; activation and Dice over the
batch (couple_batch); patches normalised anew in training only (standardise_patches); BWT over K
(divide_by). Fine-tuning and replay have equal steps a centre, multi-domain training their sum;
paper and released_code count epochs, with which replay takes 3.5 times the steps of fine-tuning.

Further arms (--arms): ewc, lwf, a-gem, der++; replay from a reservoir, by herding or with diverse
gradients; replay-synthetic, random heads in place of patients; replay-private, DP-SGD on centre and
memory as one population. A memory of patients, or a synthesiser trained on them without privacy,
protects nobody: neither do the other arms of a run with replay-private, which keeps names and
hashes in private/ and shows no pictures and no rows of single people; means over the test people
of a centre stand in results.json, however few they are. replay-private draws patches of its own,
without turns. replay-synthetic takes its heads from the family of the simulated test heads, lesions
included: beside simulated centres it shows what such a generator can do at best, and no claim rests
on it.

results.json: data.{centres, num_train, num_test, left_out_of_claims}; orders; arms.<arm>.r [seed,
order, trained through, tested on, metric] in the order of training, null where not trained;
{fixed_order, orders}.{acc, bwt, fwt_untrained, fwt_single, forgetting}.{mean, std, num};
bwt_of_centre; mean_all_centres, what the paper plots as zero-shot; zero_shot over unseen centres;
steps; references.{multi-domain [seed, centre], single-domain [seed, trained on, tested on],
untrained}; costs.<arm>.{flops_an_update, updates, flops} of a course; claims.{fixed_order, orders}:
comparisons against fine-tuning and multi-domain, at equal updates (with num_epochs at equal epochs)
and, among arms whose courses cost the same to 5 %, at equal compute; bwt with its 95 % interval;
privacy: what people of each centre pay, with replay-private, and which trainings of the run are
without. cases.csv has a row a test person after every training; a run with replay-private has none.
"""

import dataclasses
from typing import Any, get_args

import numpy as np

from experiments.ms_replay import hospitals, report, scores
from experiments.ms_replay.bench import Bench
from experiments.ms_replay.config import Arm, Config, check_space, orders_of, runs_of
from experiments.ms_replay.courses import multi_domain, single_domain, train_courses, untrained
from experiments.ms_replay.hospitals import Setting
from experiments.ms_replay.scores import Trained
from medjax import check, cli, study

_EVIDENCE = Config(num_seeds=3, num_orders=3, num_steps=60, batch_size=2)
_ABLATION = dataclasses.replace(_EVIDENCE, arms=("replay",), num_orders=1)
_PAPER = Config(
  source="folders",
  shape=(),
  spacing=(1.0, 1.0, 1.0),
  equalise=True,
  widths=(32, 64, 128, 256),
  dropout=0.5,
  couple_batch=True,
  patch=(64, 64, 64),
  patches_per_volume=4,
  window=(64, 64, 64),
  arms=("fine-tuning", "replay-weighted"),
  num_seeds=9,
  num_orders=9,
  num_steps=0,
  num_epochs=150.0,
  learning_rate=1e-4,
  transfer="encoder",
  memory=20,
  log_every=200,
)
PRESETS = {
  "demo": Config(
    num_train=(12, 8, 6, 6),
    num_test=6,
    shape=(48, 48),
    patch=(32, 32),
    batch_size=8,
    num_steps=120,
    memory=4,
    log_every=40,
  ),
  "evidence": _EVIDENCE,
  "strategies": Config(
    shape=(48, 48),
    patch=(32, 32),
    batch_size=8,
    num_steps=100,
    num_seeds=3,
    arms=tuple(arm for arm in get_args(Arm) if arm != "replay-private"),
  ),
  "simulated8": dataclasses.replace(
    _EVIDENCE,
    num_train=(80, 51, 47, 51, 28, 13, 12, 8),
    shape=(96, 96, 96),
    widths=(32, 64, 128, 256),
    patch=(64, 64, 64),
    window=(64, 64, 64),
    patches_per_volume=4,
    num_seeds=3,
    num_orders=9,
    num_steps=1000,
    learning_rate=1e-3,
    memory=20,
    log_every=200,
  ),
  "deeper": dataclasses.replace(_ABLATION, widths=(8, 16, 32, 64, 128)),
  "small_patches": dataclasses.replace(_ABLATION, patch=(16, 16, 16)),
  "large_patches": dataclasses.replace(_ABLATION, patch=(40, 40, 40)),
  "folders": Config(source="folders", shape=(), num_steps=1000, window=(32, 32, 32), memory=20),
  "paper": _PAPER,
  "released_code": dataclasses.replace(
    _PAPER,
    arms=("fine-tuning", "replay-redrawn"),
    num_seeds=1,
    standardise_patches=True,
    carry="best",
    num_validation=5,
    divide_by="k",
  ),
}


def build(config: Config, options: cli.RunOptions) -> None:
  check.require(
    not options.more_steps,
    "one number of steps a centre in all of a run",
    "--continue",
    "a centre starts from the weights of the one before, which more steps change; pass a new"
    " directory with --workdir",
  )
  setting = _load(config, options)
  check_space(config, setting.label.shape[1:])
  orders = orders_of(config, len(setting.centres), options.seed)
  is_private = "replay-private" in config.arms
  with options.directory(config, setting.manifest, private=is_private) as directory:
    if directory.finished:
      return
    bench = Bench(config, setting, directory)
    seeds = range(options.seed, options.seed + config.num_seeds)
    runs = [(options.seed + s, orders[o]) for s, o in runs_of(config)]
    directory.write_json("splits", _splits(setting, seeds), names_people=True)
    singles: dict[Any, Any] = {}
    single_domain(bench, [(s, c) for s in seeds for c in range(len(setting.centres))], singles)
    multi = multi_domain(bench, list(seeds))
    trained = Trained(
      {arm: train_courses(bench, arm, runs, singles) for arm in config.arms},
      singles,
      multi,
      np.stack([untrained(bench, seed) for seed in seeds]),
      orders,
      bench.flops,
    )
    results = scores.results(config, setting, trained)
    times = _times(trained)
    page = report.page(bench, trained, results, times)
    print(report.findings(results), flush=True)
    rows = [] if directory.private else scores.cases(setting, trained)
    study.finish(directory, results, page, rows=rows, times=times)


def _load(config: Config, options: cli.RunOptions) -> Setting:
  if config.source == "simulated":
    check.require(
      len(options.data) <= 1,
      "at most one folder of lesion masks after --data with --source simulated",
      f"{len(options.data)}",
      "see --help",
    )
    return hospitals.simulated(
      config.num_train,
      config.num_test,
      config.shape,
      options.seed,
      masks=options.data[0] if options.data else None,
      subject_pattern=config.subject_pattern,
      num_synthetic=_num_synthetic(config, len(config.num_train)),
      normalise="equalise" if config.equalise else "zscore",
      on_device=config.on_device,
    )
  return hospitals.folders(
    options.data,
    config.test_fraction,
    shape=config.shape or None,
    spacing=config.spacing or None,
    subject_pattern=config.subject_pattern,
    near_duplicates=config.near_duplicates,
    seed=options.seed,
    picture=study.pair_picture(options.workdir),
    num_synthetic=_num_synthetic(config, len(options.data)),
    normalise="equalise" if config.equalise else "zscore",
    on_device=config.on_device,
  )


def _num_synthetic(config: Config, num_centres: int) -> int:
  """Synthetic heads, as many as a full memory holds cases."""
  return config.memory * (num_centres - 1) if "replay-synthetic" in config.arms else 0


def _splits(setting: Setting, seeds: range) -> dict[str, Any]:
  """People by seed, centre and part."""
  return {
    str(seed): {
      centre: {part: sorted({setting.subjects[i] for i in rows}) for part, rows in parts.items()}
      for centre, parts in hospitals.split(setting, seed).items()
    }
    for seed in seeds
  }


def _times(trained: Trained) -> dict[str, Any]:
  """Times of every training, hours of every arm, and how much slower its last centre was.

  The first centre's training is shared by the arms, except the private one.
  """
  arms = {}
  for arm, own in trained.courses.items():
    stages = [stage for course in own for stage in course.stages[1:]]
    seconds = [s.timing.seconds_per_step * s.num_steps for s in stages]
    ratios = [
      c.stages[-1].timing.steps_per_second / c.stages[1].timing.steps_per_second for c in own
    ]
    arms[arm] = {
      "hours": float(np.nansum(seconds)) / 3600,
      "steps": int(sum(s.num_steps for s in stages)),
      "last_over_second_centre": ratios,
    }
  every = [*trained.singles.values(), *trained.multi]
  every += [stage for own in trained.courses.values() for c in own for stage in c.stages[1:]]
  return {"arms": arms, "trainings": {s.name: s.timing._asdict() for s in every}}
