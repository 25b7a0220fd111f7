"""What studies share, as plain functions over plain data: a study stays a text read top to bottom.

settings   Settings, check_fields       fields that every study has, and what names promise
data       Turn, turns_of, splits_of    who is trained on, who is tested in which role
           parted, people_by_part       the same where there is one split of people
           check_alike, pair_picture    two people who look like one stand on one side
arms       Arm, arms, chosen            one row an arm: name, meaning, what makes its method
questions  Question                     what is asked, written down before the run
design     Design, design               people, questions, seeds, and what the run could find
training   Job, train_job, train_jobs   a training that is asked for; resumable, its cost counted
scores     ChunkedPredictor, classes    a network on test cases: rows of people
           masks, findings, kept        the same for several findings; scores of a finished job
answers    ask, tables                  rows -> arrays [seed, subject] -> verdicts
page       page.start and its sections  sentences derived from the rows
end        Design.results, finish       cases.csv, timing.json, report.html, and results.json last

The kit knows no method, no network and no loss; a test of the layers holds it to that. Example of a
whole study: experiments/fusestyle.py.

Every study opens and ends alike. Before there is a run directory, `design` decides what can be
known without a training. In the directory, `Design.begin` writes splits.json and prints the planned
power; after the trainings, `Design.results` asks the questions of the rows of cases:

  with options.directory(config, manifest) as directory:
    if directory.finished:
      return
    design.begin(directory)
    ...  # trainings and scores of every arm and of every seed in design.seeds
    found = design.results(rows, ("accuracy",))
    study.finish(directory, found, page(found), trained=trained, rows=rows)

Without a directory, and with scores that are made up:

>>> from medjax import study
>>> names = [f"person {i}" for i in range(10)]
>>> parts = study.parted(names, {"train": 0.6, "test": 0.4}, seed=0)
>>> people = study.people_by_part(names, parts)
>>> question = study.Question("Does it help?", "plain", ("ours",), "accuracy")
>>> design = study.design(study.Settings(num_seeds=2), 0, [question], ("plain", "ours"), people)
>>> rows = [
...   {"arm": arm, "seed": seed, "role": "test", "subject": name, "case": name, "domain": "",
...    "accuracy/all": score}
...   for arm, score in (("plain", 0.7), ("ours", 0.8))
...   for seed in design.seeds for name in people["test"]
... ]
>>> found = design.results(rows, ("accuracy",))
>>> found["test_people"], found["questions"][0]["verdict"]
({'test': 4}, 'better')
"""

from medjax.study import page
from medjax.study.alike import check_alike, pair_picture
from medjax.study.arms import Arm, arms, chosen
from medjax.study.design import Design, design
from medjax.study.jobs import Job, Trained, flops, train_job, train_jobs
from medjax.study.kept import kept
from medjax.study.power import announce, planned, smallest_detectable
from medjax.study.predict import ChunkedPredictor, accuracy_of
from medjax.study.questions import Question, against, ask, ask_each, not_asked, sentence
from medjax.study.results import check_arms_differ, finish, mean_of_curves, results
from medjax.study.scores import Scored, ShownPlane, classes, findings, masks
from medjax.study.settings import Settings, check_fields, paths_of
from medjax.study.tables import interval, mean, table, tables
from medjax.study.turns import Turn, parted, people_by_part, people_of, splits_of, turns_of

__all__ = [
  "Arm",
  "ChunkedPredictor",
  "Design",
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
  "arms",
  "ask",
  "ask_each",
  "check_alike",
  "check_arms_differ",
  "check_fields",
  "chosen",
  "classes",
  "design",
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
  "people_by_part",
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
