"""Learn2Synth: hypergradients of accuracy on real images tune a synthesiser.

Paper: Hu et al., "Learn2Synth: Learning Optimal Data Synthesis Using Hypergradients for Brain Image
Segmentation", ICCV 2025, arXiv:2411.16719.

  python -m experiments.learn2synth demo          MNI152 template, hidden noise; about 3 minutes
  python -m experiments.learn2synth demo --data FOLDER --shape 192 224 --background clusters
                                                  your own nnU-Net folder, 2D or 3D; with --labels
                                                  MAPS synthesised from label maps of other people
  python -m experiments.learn2synth recovery      known noise levels, profile and method; 70 minutes
  python -m experiments.learn2synth fields        known bias fields, a known range of noise levels,
                                                  and what the data can tell; 25 minutes
  python -m experiments.learn2synth evidence --data BRAINS
                                                  against supervised training and randomisation, at
                                                  home and on other contrasts, 3 seeds; an hour
  python -m experiments.learn2synth cross_contrast --data BRAINS
                                                  the same with all arms, one seed; an hour
  python -m experiments.learn2synth cross_contrast --data BRAINS --people 5
                                                  with five labelled people
  python -m experiments.learn2synth volume --data SCAN --maps HEADS
                                                  3D patches, half a real scan judges: feasibility
                                                  and cost, no claim
  python -m experiments.learn2synth paper --data REAL --labels MAPS
                                                  the paper's sizes; wants an accelerator
  python -m experiments.learn2synth released_code --data REAL --labels MAPS
                                                  the same with every departure of the released code

Times are for 2 CPU cores. `demo` on the template demonstrates the mechanism on one averaged head
and claims no accuracy. BRAINS is an nnU-Net folder of T1 volumes whose classes are names of
`synth.tissues.TISSUES`, csf, cortical_gray_matter, white_matter and the like, since their signal on
other contrasts is computed. Claims that are put to the test: above randomisation at home; as good
as supervised training there; and where supervised training falls on another contrast, no fall.

HEADS is a folder of label maps of heads with FreeSurfer's values, SCAN an nnU-Net folder of one
scan whose skull is stripped, labelled with such values, which need not be the same ones.

`paper` and `released_code` have not been run whole: the sets want agreements. MAPS is a folder of
label maps of 24 classes, in the paper 434 people of OASIS, skull-stripped and cut to one coronal
slice of 160 x 192; REAL is an nnU-Net folder of labelled slices of ABIDE or OASIS3 of that size and
with the same label values. The published mean Dice on ABIDE and OASIS3 stands beside the scores:
supervised .908 .899, naive SynthSeg .869 .831, mixed .875 .854, fine-tuned .871 .847, Learn2Synth
.879 .881. The released scripts hold no code for real images, so no run can be held against these
figures to the last digit. Departures of the released code are settings, see `released`; its U-Net
has no norm, here it has instance norm.

results.json, `demo`, `paper` and `released_code`: test_cases, test_subjects; dice.<row>.{mean,
<class>, scored, missed} for the rows "label vote" (training label maps alone), "naive" and
"learn2synth", scored: structures in the means, missed: those with Dice 0; learned: natural
parameters of the augmentation after training, one entry a seed; comparison: rows of
`metrics.comparison_table` against "naive" over test subjects, none for the template. cases.csv has
a row a test image, seed and row of the table.
results.json, `recovery`: recoveries, one entry a preset, with preset, minimiser and minimiser_error
of the profile, estimate and estimate_error of the method, estimates by seed, profile_passes,
method_passes; profile.levels and profile.losses [preset][seed][level].
results.json, `fields`: recoveries, see `field_recovery.outcome`. results.json, `volume`: the common
schema, with learned as below. `evidence` and `cross_contrast`: the common schema of
`study.results`, whose roles are "in domain" and the views of `contrast_views`; people_trained_on;
learned.<arm>: what the synthesiser had learnt at the last update, one entry a seed;
late_gain.<arm>: what the last third of the updates added to the best Dice on validation people.
"""

import dataclasses
from typing import Any

from experiments.learn2synth import (
  contrasts,
  field_recovery,
  noise_recovery,
  real_images,
  report,
  volumes,
)
from medjax import cli, study

_PAPER = real_images.Config(
  shape=(160, 192),
  slice_axis=1,
  contrast="random",
  initial_exponents=0.6,
  naive_exponent=0.6,
  num_steps=180_000,
  batch_size=64,
  widths=(16, 24, 32, 48, 64),
  learning_rate=1e-4,
  theta_learning_rate=1e-4,
  log_every=100,
  eval_every=1000,
  beside_published=True,
)
PRESETS: dict[str, Any] = {
  "demo": real_images.Config(),
  "recovery": noise_recovery.Config(),
  "fields": field_recovery.Config(),
  "evidence": contrasts.Config(),
  "cross_contrast": contrasts.Config(arms=tuple(contrasts.ARMS), num_seeds=1),
  "volume": volumes.Config(),
  "paper": _PAPER,
  "released_code": dataclasses.replace(
    _PAPER,
    doubled=True,
    batch_field=True,
    released_dice=True,
    one_rate=True,
    raw_parameters=True,
  ),
}


def build(config: Any, options: cli.RunOptions) -> None:
  if isinstance(config, noise_recovery.Config):
    _recovery(config, options)
  elif isinstance(config, field_recovery.Config):
    field_recovery.build(config, options)
  elif isinstance(config, contrasts.Config):
    contrasts.build(config, options)
  elif isinstance(config, volumes.Config):
    volumes.build(config, options)
  else:
    _real_images(config, options)


def _real_images(config: real_images.Config, options: cli.RunOptions) -> None:
  picture = study.pair_picture(options.workdir)
  setting = real_images.load(config, options.data, options.seed, picture)
  given = setting.source.manifest()
  if setting.label_maps is not None:
    given = {"images": given, "labels": setting.label_maps}
  with options.directory(config, given) as directory:
    if directory.finished:
      return
    directory.write_json("splits", setting.splits)
    found = real_images.run(config, options.seed, setting, directory)
    results = real_images.results(found)
    page = report.real_images_page(config, found, results)
    trained = [one for own in found.trained.values() for one in own]
    rows = [row for own in found.scored.values() for one in own for row in one.rows]
    study.finish(directory, results, page, trained=trained, rows=rows)


def _recovery(config: noise_recovery.Config, options: cli.RunOptions) -> None:
  study.paths_of(options.data, 0, " for recovery")
  manifests = {
    name: source.manifest() for name, source in noise_recovery.sources(config, options.seed).items()
  }
  with options.directory(config, manifests) as directory:
    if directory.finished:
      return
    found = noise_recovery.run(config, options.seed, directory)
    results = {
      "recoveries": [recovery._asdict() for recovery in found.recoveries],
      "profile": {"levels": config.profile, "losses": found.losses.tolist()},
    }
    page = report.recovery_page(config, found)
    trained = [*found.profiled, *(one for own in found.learned.values() for one in own)]
    study.finish(directory, results, page, trained=trained)
