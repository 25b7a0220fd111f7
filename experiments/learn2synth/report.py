"""The pages of the Learn2Synth studies."""

from typing import Any

import numpy as np

from experiments.learn2synth import noise_recovery, real_images
from medjax import metrics, study
from medjax.train.report import Report

_DEMONSTRATION = (
  "A demonstration of the mechanism on one averaged head (the MNI152 template): training and test"
  " images are neighbouring slices of the same template, so no figure on this page is a claim of"
  " accuracy."
)


# Mean Dice on ABIDE and OASIS3, Tables 1 and 2 of the paper.
_PUBLISHED = {
  "supervised": (0.908, 0.899),
  "naive SynthSeg": (0.869, 0.831),
  "mixed": (0.875, 0.854),
  "fine-tuned": (0.871, 0.847),
  "Learn2Synth, a network": (0.879, 0.881),
}
_CONTROL = "A control: all images, test images too, were cut by their true labels; no claim. "
_CONTRAST = {
  "matched": "Class intensities of the synthetic images come from labelled real training images.",
  "random": "Class intensities of the synthetic images are random.",
}
_WINDOW = (0.0, 1.3)  # one scale for all pictures, or more noise would only look darker


def real_images_page(
  config: real_images.Config, found: real_images.Found, results: dict[str, Any]
) -> Report:
  """What went in, what was learnt, and how the three rows score."""
  setting = found.setting
  learned = found.learned[0]
  scores = {row: values["mean"] for row, values in results["dice"].items()}
  if setting.is_template:
    title = "Learn2Synth looks for a hidden noise level"
    lead = (
      f"{_DEMONSTRATION} The slices were acquired with noise of level {config.hidden_sigma:.3f},"
      f" which the method was not told; judged by its real training images it settled on"
      f" {learned['sigma']:.3f}, which also has to stand in for the texture inside a tissue class"
      " that label maps lack."
    )
  else:
    title = "Learn2Synth on your images"
    lead = (
      f"{_CONTROL if config.background == 'strip' else ''}Mean Dice on {results['test_cases']} test"
      f" images of {results['test_subjects']} subjects who took no part in training:"
      f" {scores['learn2synth']:.3f} with the learned synthesiser, {scores['naive']:.3f} with fixed"
      f" randomisation, {scores['label vote']:.3f} by a vote of the training label maps that looks"
      " at no image. One split, no interval: a result to look at, not a verdict."
    )
  report = Report(title, lead)
  _what_was_learnt(report, config, found)
  _inputs(report, found)
  study.page.pictures(
    report,
    {name: own[0].pictures for name, own in found.scored.items()},
    setting.class_names,
    title="Predictions on test images",
    text=f"From top to bottom: {', '.join(found.scored)}. Images not used in training.",
  )
  _tables(report, config, found, results)
  return report


def recovery_page(config: noise_recovery.Config, found: noise_recovery.Found) -> Report:
  """Profile, trajectories and the verdict for each preset."""
  passed = sum(r.profile_passes and r.method_passes for r in found.recoveries)
  report = Report(
    "Does Learn2Synth find the best noise level?",
    f"Noise of known level was added to real images; {passed} of {len(found.recoveries)} presets"
    " were recovered by the profile and by the method within max(0.005, 5 %).",
  )
  report.section(
    "Recovered noise levels",
    f"The profile is the loss on real images of networks trained for {config.profile_steps} updates"
    " at fixed noise levels, with a rate that decays to a twentieth; its minimiser is what an ideal"
    " synthesiser would find. The method's estimate is the"
    " mean of its last 20 % of steps.",
  )
  report.table(
    ["preset", "profile", "± SE", "method", "± SE", "bias", "profile ok", "method ok"],
    [
      [
        r.preset,
        r.minimiser,
        r.minimiser_error,
        r.estimate,
        r.estimate_error,
        r.estimate - r.minimiser,
        r.profile_passes,
        r.method_passes,
      ]
      for r in found.recoveries
    ],
    f"Noise levels in image intensities; standard errors over {config.num_seeds} seeds; bias:"
    " method minus profile.",
  )
  captions = [f"preset {preset:.2f}" for preset in found.examples]
  report.section("Real images").images(
    [np.rot90(image) for image in found.examples.values()], captions, window=_WINDOW
  )
  report.section("Profiles")
  for i, preset in enumerate(config.presets):
    series = {
      f"seed {s}": (config.profile, found.losses[i, s]) for s in range(config.num_seeds)
    } | {"mean": (config.profile, found.losses[i].mean(0))}
    report.curves(
      series,
      "noise level in training",
      "loss on real images",
      caption=f"Preset {preset:.2f}; minimiser of the mean {found.recoveries[i].minimiser:.4f}.",
    )
  report.section("Trajectories")
  for preset, own in found.learned.items():
    series = {one.name: one.curve("theta/sigma") for one in own}
    report.curves(series, "step", "noise level", {"preset": preset}, caption=f"Preset {preset:.2f}")
  return report


def _what_was_learnt(report: Report, config: real_images.Config, found: real_images.Found) -> None:
  hidden: dict[str, float] = {}
  if found.setting.is_template:
    hidden = {"sigma": config.hidden_sigma} | dict(
      zip(("exponent_2", "exponent_4", "exponent_8"), config.hidden_exponents, strict=True)
    )
  initial = found.task.augmentation.describe(real_images.initial_theta(config))
  names = {
    "sigma": "noise level",
    "exponent_2": "non-uniformity, 2 nodes an axis",
    "exponent_4": "non-uniformity, 4 nodes an axis",
    "exponent_8": "non-uniformity, 8 nodes an axis",
  }
  report.section(
    "What was learnt",
    "The network trains on synthetic images only. Real images judge each of its updates, and the"
    " gradient of that judgement moves the noise level and the strength of the bias field."
    f" {_CONTRAST[config.contrast]}",
  )
  report.table(
    ["parameter", "start", "hidden", *(f"learned, seed {s}" for s in range(len(found.learned)))],
    [
      [label, float(initial[k]), hidden.get(k), *(seed[k] for seed in found.learned)]
      for k, label in names.items()
    ],
    "Noise in image intensities; exponents are unitless. Only the noise level is known to be"
    " identifiable: the paper does not recover the exponents either.",
  )
  report.curves(
    {one.name: one.curve("theta/sigma") for one in found.trained["learn2synth"]},
    "step",
    "noise level",
    {"hidden": config.hidden_sigma} if hidden else None,
    caption="Noise level of the synthesiser during training.",
  )


def _inputs(report: Report, found: real_images.Found) -> None:
  cases = found.setting.cases
  place = len(cases.training.weight) // 2
  image, label = (
    real_images.plane(cases.training.image[place, ..., 0]),
    real_images.plane(cases.training.label[place]),
  )
  names = found.setting.class_names
  report.section(
    "From label maps to images",
    "A real training image and its labels; then the synthesiser's images of the same draws before"
    " and after learning.",
  )
  report.overlay(
    [image, image],
    ["real image", "its labels"],
    class_names=names,
    fills=[None, label],
    opacity=1.0,
    window=_WINDOW,
  )
  for when, (images, _) in found.synthetic.items():
    captions = [f"{when}, draw {n}" for n in range(len(images))]
    report.images([real_images.plane(i) for i in images], captions, window=_WINDOW)


def _tables(
  report: Report, config: real_images.Config, found: real_images.Found, results: dict[str, Any]
) -> None:
  names = found.setting.class_names[1:]
  report.section("Scores")
  report.table(
    ["row", "mean", *names, "missed", "scored"],
    [
      [row, v["mean"], *(v[name] for name in names), v["missed"], v["scored"]]
      for row, v in results["dice"].items()
    ],
    f"Dice over {results['test_cases']} test images of {results['test_subjects']} subject(s) and"
    f" {config.num_seeds} seed(s). Equal updates; an update of Learn2Synth computes about 3.3 times"
    " as much as one of naive randomisation.",
  )
  if config.beside_published:
    report.table(
      ["published", "ABIDE", "OASIS3"],
      [[row, *values] for row, values in _PUBLISHED.items()],
      "Mean Dice of the paper, on other images than these unless the folders are its own.",
    )
  if results["comparison"]:
    report.table(
      *metrics.comparison_cells(results["comparison"]),
      "Paired differences to naive randomisation over test subjects, by hierarchical bootstrap"
      " against a margin of 0.01.",
    )
  study.page.curves(
    report,
    {one.name: one for own in found.trained.values() for one in own},
    {"validation/dice": "mean Dice on validation images", "loss": "loss on synthetic images"},
  )
