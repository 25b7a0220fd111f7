"""What studies share, as plain functions over plain data: a study stays a text read top to bottom.

settings   Settings, check_fields       fields that every study has, and what names promise
data       Turn, turns_of, splits_of    who is trained on, who is tested in which role
           check_alike, pair_picture    two people who look like one stand on one side
arms       Arm, arms, chosen            one row an arm: name, meaning, what makes its method
training   Job, train_job, train_jobs   a training that is asked for; resumable, its cost counted
scores     ChunkedPredictor, classes    a network on test cases: rows of people
           masks, findings, kept        the same for several findings; scores of a finished job
questions  Question, ask, tables        rows -> arrays [seed, subject] -> verdicts
power      planned, announce            what the design could find, before anything is trained
page       page.start and its sections  sentences derived from the rows
end        answered, results, finish    cases.csv, timing.json, report.html, and results.json last

The kit knows no method, no network and no loss; a test of the layers holds it to that. Example of a
whole study: experiments/fusestyle.py.
"""

from medjax.study import page
from medjax.study.alike import check_alike, pair_picture
from medjax.study.arms import Arm, arms, chosen
from medjax.study.jobs import Job, Trained, flops, train_job, train_jobs
from medjax.study.kept import kept
from medjax.study.power import announce, planned, smallest_detectable
from medjax.study.predict import ChunkedPredictor, accuracy_of
from medjax.study.questions import Question, against, ask, ask_each, not_asked, sentence
from medjax.study.results import answered, check_arms_differ, finish, mean_of_curves, results
from medjax.study.scores import Scored, ShownPlane, classes, findings, masks
from medjax.study.settings import Settings, check_fields, paths_of
from medjax.study.tables import interval, mean, table, tables
from medjax.study.turns import Turn, parted, people_of, splits_of, turns_of

__all__ = [
  "Arm",
  "ChunkedPredictor",
  "Job",
  "Question",
  "Scored",
  "Settings",
  "ShownPlane",
  "Trained",
  "Turn",
  "accuracy_of",
  "against",
  "announce",
  "answered",
  "arms",
  "ask",
  "ask_each",
  "check_alike",
  "check_arms_differ",
  "check_fields",
  "chosen",
  "classes",
  "findings",
  "finish",
  "flops",
  "interval",
  "kept",
  "masks",
  "mean",
  "mean_of_curves",
  "not_asked",
  "page",
  "pair_picture",
  "parted",
  "paths_of",
  "people_of",
  "planned",
  "results",
  "sentence",
  "smallest_detectable",
  "splits_of",
  "table",
  "tables",
  "train_job",
  "train_jobs",
  "turns_of",
]
