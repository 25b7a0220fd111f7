"""Scores of whole scans, and the page of the study of contrasts."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.learn2synth import synthetic_training
from experiments.learn2synth.contrast_people import People
from medjax import study
from medjax.train import Report
from medjax.types import Json


def score(
  predictions: Mapping[str, np.ndarray], people: People, arm: str, seed: int
) -> study.Scored:
  """Dice of whole scans, role by role, and pictures of one slice of the first seed."""
  class_names = people.source.class_names
  rows, pictures = [], []
  for role, cases in people.test.items():
    for scan, name in enumerate(people.names):
      own = people.scans == scan
      dice = synthetic_training.dice(
        predictions[role][own][None], cases.label[own][None], len(class_names)
      )[0]
      subject = people.source.subjects[int(cases.index[own][0])]
      row = {"arm": arm, "seed": seed, "role": role, "case": name, "subject": subject, "domain": ""}
      rows.append(row | {f"dice/{k}": float(v) for k, v in zip(class_names[1:], dice, strict=True)})
      if scan == 0:
        middle = np.flatnonzero(own)[own.sum() // 2]
        planes = (cases.image[middle, ..., 0], cases.label[middle], predictions[role][middle])
        image, truth, prediction = (np.rot90(plane) for plane in planes)
        mean = study.mean(rows[-1], "dice")
        pictures.append(study.ShownPlane(name, role, image, truth, prediction, mean))
  return study.Scored(rows, pictures)


def page(
  arms: Mapping[str, study.Arm],
  people: People,
  found: Mapping[str, Json],
  trained: Mapping[str, Sequence[study.Trained]],
  scored: Mapping[str, Sequence[study.Scored]],
) -> Report:
  """The answers, scores, verdicts, what was learnt, pictures, curves and costs."""
  lead = (
    f"Networks of {found['people_trained_on']} people, tested on others. The contrasts are"
    " simulated from label maps, which is nearer to synthesised training images than to real ones;"
    " flip angles 20 and 30 show the contrast of the real images and are the control for that."
  )
  report = study.page.start("Learn2Synth at home and on other contrasts", found, lead)
  study.page.scores(report, found, arms)
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  if found["learned"]:
    names = list(dict.fromkeys(name for own in found["learned"].values() for name in own[0]))
    report.table(
      ["arm", "seed", *(name.partition("/")[2] for name in names)],
      [
        [arm, seed, *(one.get(name) for name in names)]
        for arm, own in found["learned"].items()
        for seed, one in enumerate(own)
      ],
      "What was learnt at the last update. Noise in image intensities; exponents have no unit.",
    )
  report.table(
    ["arm", "late gain"],
    [[arm, gain] for arm, gain in found["late_gain"].items()],
    "Late gain: what the last third of the updates added to the best Dice on validation people, a"
    " mean over seeds. An arm that still gains was stopped early.",
  )
  study.page.pictures(
    report, {arm: own[0].pictures for arm, own in scored.items()}, people.source.class_names
  )
  labels = {"validation/dice": "Dice on validation people", "loss": "loss", "theta/sigma": "sigma"}
  study.page.trainings(report, found, trained, labels)
  return report
