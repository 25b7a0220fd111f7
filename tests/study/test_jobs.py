"""Trainings under names, their costs, and scores that are kept with the weights that gave them."""

import json
import re

import jax
import numpy as np
import pytest

from medjax import study, train
from medjax.check import InputError
from medjax.types import Step, TrainState
from tests.train import toy

STEP = toy.linear()
ROWS = [{"arm": "a", "subject": "ann", "case": "ann", "domain": "", "seed": 3, "dice/x": np.nan}]


def opened(path, **options):
  return train.RunDirectory.open(
    path, experiment="toy", preset="demo", config={"n": 1}, seed=0, **options
  )


def job(name, seed=0, **changes):
  made = study.Job(name, STEP, toy.stream, toy.params(), jax.random.key(seed), 4)
  return made._replace(**changes)


def test_jobs_are_the_trainings_of_the_loop_in_their_own_order(tmp_path):
  jobs = [job("one", 1), job("long", 1, num_steps=6), job("two", 2)]
  with opened(tmp_path / "run") as directory:
    found = study.train_jobs(jobs, directory, log_every=2, progress=False)
  assert [one.name for one in found] == ["one", "long", "two"]
  for one, own in zip(found, jobs, strict=True):
    alone = train.fit(
      STEP, toy.stream, toy.params(), own.key, num_steps=own.num_steps, log_every=2, progress=False
    )
    toy.assert_same_bits(one.state, alone.state)
  steps, losses = found[0].curve("loss")
  assert steps == [2, 4] and losses == [row["loss"] for row in found[0].fit.history]
  assert study.mean_of_curves(found[:1], "loss") == pytest.approx(np.mean(losses))
  assert np.isnan(study.mean_of_curves(found, "absent"))


def test_periods_count_updates_of_the_network(tmp_path):
  with opened(tmp_path / "run") as directory:
    options = dict(log_every=4, eval_every=8, progress=False)
    evaluate = {"own": lambda state: {"step": float(state.step)}}
    one = study.train_job(job("four", updates_a_step=4, evaluators=evaluate), directory, **options)
  assert one.curve("loss")[0] == [1, 2, 3, 4] and one.curve("own/step")[0] == [2, 4]
  assert one.num_updates == 16 and one.num_steps == 4


def test_the_best_weights_on_validation_people_are_kept(tmp_path):
  evaluate = {"validation": lambda state: {"dice": -abs(float(state.step) - 2)}}
  with opened(tmp_path / "run") as directory:
    best = job("best", evaluators=evaluate, keep_best="validation/dice")
    one = study.train_job(best, directory, log_every=2, eval_every=1, progress=False)
    two = study.train_job(job("two", num_steps=2), directory, log_every=2, progress=False)
  np.testing.assert_array_equal(one.params["weight"], two.params["weight"])


def chained(path, num_steps, *, more_steps=False):
  """A training from drawn weights, and one that starts from what it left."""
  config = {"num_steps": num_steps}
  options = dict(experiment="toy", preset="demo", config=config, seed=0, more_steps=more_steps)
  with train.RunDirectory.open(path, **options) as directory:
    fit = dict(directory=directory, log_every=2, progress=False)
    first = study.train_job(job("first", num_steps=num_steps), **fit)
    then = job("then", num_steps=num_steps, params=first.params, inherited=first.params)
    return study.train_job(then, **fit)


def test_a_training_does_not_go_on_from_a_start_that_no_longer_exists(tmp_path):
  """Without the digest of its start the second training would go on after the shorter first one."""
  one = chained(tmp_path / "run", 4)
  again = chained(tmp_path / "run", 4)
  toy.assert_same_bits(one.state, again.state)
  words = (
    "then to start from the weights .*others: the training that they come from was made longer"
  )
  for _ in range(2):  # and it stays refused
    with pytest.raises(InputError, match=words):
      chained(tmp_path / "run", 6, more_steps=True)
  assert set(json.loads((tmp_path / "run" / "inherited.json").read_text())) == {"then"}


def test_directories_from_before_the_digests_are_resumed(tmp_path):
  one = chained(tmp_path / "run", 4)
  (tmp_path / "run" / "inherited.json").unlink()
  toy.assert_same_bits(one.state, chained(tmp_path / "run", 4).state)
  assert (tmp_path / "run" / "inherited.json").exists()


def test_flops_count_the_products_of_an_update():
  def init(params, key):
    return TrainState(0, params, (), {}, ())

  product = Step(init, lambda state, batch, key: (state, {"loss": (batch @ state.params).sum()}))
  shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in ((5, 7), (40, 5))]
  found = study.flops(product, *shapes)
  assert 2 * 40 * 5 * 7 <= found <= 2 * 40 * 5 * 7 + 40 * 7  # the product, and its sum
  assert study.flops(product, *shapes, updates_a_step=4) == found / 4


def picture():
  image, label = np.ones((2, 3), np.float32), np.zeros((2, 3), np.int32)
  return study.ShownPlane("ann", "here", image, None, label, 0.5)


def test_scores_are_kept_and_not_made_again(tmp_path):
  calls = []

  def score():
    calls.append(1)
    sums = {"sums": np.arange(3.0)}
    return study.Scored([dict(ROWS[0], x=np.int32(7))], [picture()], 0.25, sums)

  with opened(tmp_path / "run") as directory:
    one = study.kept(directory, "a-0", toy.params(), score)
  with opened(tmp_path / "run") as directory:
    two = study.kept(directory, "a-0", toy.params(), score)
    assert len(calls) == 1
    assert list(one.rows[0]) == list(two.rows[0]) and two.rows[0]["x"] == 7
    assert two.rows[0]["seed"] == 3 and np.isnan(two.rows[0]["dice/x"])
    assert two.seconds == 0.25 and two.pictures[0].truth is None
    np.testing.assert_array_equal(two.pictures[0].image, picture().image)
    np.testing.assert_array_equal(two.more["sums"], np.arange(3.0))
    other = {**toy.params(), "weight": np.ones(3, np.float32)}
    study.kept(directory, "a-0", other, score)  # other weights under the name: scored anew
    assert len(calls) == 2


def test_a_private_run_keeps_no_rows_of_people(tmp_path):
  with opened(tmp_path / "run", private=True) as directory:
    found = study.kept(directory, "a-0", toy.params(), lambda: study.Scored(ROWS))
    assert found.rows is ROWS
    with pytest.raises(InputError, match="private run"):
      study.finish(directory, {}, train.Report("x"), rows=ROWS)
  assert not any((tmp_path / "run" / name).exists() for name in ("scores", "cases.csv"))


def test_results_come_last(tmp_path):
  with opened(tmp_path / "run") as directory:
    one = study.train_job(job("one"), directory, log_every=2, progress=False)
    study.finish(directory, {"x": 1}, train.Report("x"), trained=[one], rows=ROWS)
  path = tmp_path / "run"
  assert all((path / f).exists() for f in ("cases.csv", "timing.json", "report.html"))
  newest = max(path.glob("*.*"), key=lambda p: p.stat().st_mtime_ns)
  assert newest.name == "results.json"


# --- pages ------------------------------------------------------------------------------


def test_a_page_speaks_of_equal_compute_only_where_there_is_such_a_column():
  table = np.array([[0.7, 0.8, 0.6, 0.9], [0.7, 0.8, 0.6, 0.9]])
  scores = {"plain": table, "ours": table + np.array([0.1, 0.09, 0.11, 0.1])}
  for costs, is_told in ((None, False), ({"plain": 1.0, "ours": 1.01}, True)):
    report = train.Report("x").section("y")
    rows = study.against("plain", {"unseen": scores}, margin=0.01, costs=costs)
    study.page.comparison(report, rows, "plain")
    assert ("qual compute" in report.html()) == is_told


def test_a_role_is_said_once():
  """By the question where it names the role in brackets, else beside it; "test" needs no word."""
  table = np.array([[0.7, 0.8, 0.6, 0.9], [0.7, 0.8, 0.6, 0.9]])
  (row,) = study.against("plain", {"x": {"plain": table, "ours": table + 0.1}}, margin=0.01)
  about = [("Here? (5 shots)", "5 shots"), ("There? (15 shots)", "5 shots"), ("Then?", "test")]
  rows = [row | {"question": text, "role": role, "metric": "dice"} for text, role in about]
  said = [text.partition(" ours ")[0] for text in study.page.answers(rows)]
  assert said == ["Here? (5 shots)", "There? (15 shots) (5 shots)", "Then?"]


def test_the_sections_of_a_page_hold_what_the_rows_say(tmp_path):
  rows = [
    {"arm": arm, "seed": s, "subject": p, "case": p, "domain": "", "role": "test", "dice/x": value}
    for arm, gain in (("plain", 0.0), ("ours", 0.1))
    for s in range(2)
    for p, value in (("ann", 0.5 + gain), ("bob", 0.7 + gain), ("cyd", 0.6 + gain + 0.01 * s))
  ]
  arms = study.arms(study.Arm("plain", "nothing", dict), study.Arm("ours", "the method", dict))
  question = study.Question("Does it help?", "plain", ("ours",), "dice")
  other = question._replace(text="And elsewhere?", role="unseen")
  costs = {"plain": 1.0, "ours": 2.0}
  asked = study.ask([question, other], rows, margin=0.01, costs=costs)
  missing = study.not_asked([question, other], asked)
  found = study.results(rows, ("dice",), questions=asked, flops=costs, not_asked=missing)
  with opened(tmp_path / "run") as directory:
    one = study.train_job(job("one"), directory, log_every=2, progress=False)
    report = study.page.start("Title", found)
    study.page.scores(report, found, arms)
    study.page.verdicts(report, asked, not_asked=missing)
    study.page.curves(report, {"ours": one}, {"loss": "loss of training", "absent": "nowhere"})
    study.page.pictures(report, {"ours": [picture()]}, ("background", "x"))
    study.page.costs(report, {"ours": [one]}, costs)
    study.finish(directory, found, report, trained=[one], rows=rows)
  html = (tmp_path / "run" / "report.html").read_text()
  for words in ("ours beats plain by more than 0.01", "at 2.00 of its compute", "the method",
                "intervals over seed and subject", "Does it help? ours beats", "And elsewhere?",
                "loss of training", "Smallest detectable"):  # fmt: skip
    assert words in html, words
  assert "nowhere" not in html
  assert directory.results["not_asked"] == missing


def test_intervals_are_cut_at_the_range_of_a_score_on_the_page_alone():
  rows = [
    {"arm": "plain", "seed": 0, "subject": p, "case": p, "domain": "", "role": "test"}
    | {"dice/x": dice, "gain/x": dice}
    for p, dice in (("ann", 0.01), ("bob", 0.06))
  ]
  found = study.results(rows, ("dice", "gain"), questions=[])
  whole = found["arms"]["plain"]["test"]
  assert whole["dice"]["low"] < 0 and whole["dice"] == whole["gain"]
  report = train.Report("x")
  study.page.scores(report, found, study.arms(study.Arm("plain", "nothing", dict)))
  dice, gain = re.findall(r"<td[^>]*>([^<]*)</td>", report.html())[2:4]
  assert "(0.000 to" in dice and "(-" in gain  # a "gain" has no known range
  assert "results.json holds them whole" in report.html()
  near = [row | {"dice/x": 0.5 + row["dice/x"] / 100} for row in rows]
  report = train.Report("x")
  found = study.results(near, ("dice",), questions=[])
  study.page.scores(report, found, study.arms(study.Arm("plain", "nothing", dict)))
  assert "results.json holds" not in report.html()


def test_an_arm_without_a_figure_of_a_metric_has_a_line_on_the_page():
  rows = [
    {"arm": arm, "seed": 0, "subject": p, "case": p, "domain": "", "role": "test", "dice/x": 0.5}
    | {"extra/x": 0.25 if arm == "ours" else float("nan")}
    for arm in ("plain", "ours")
    for p in ("ann", "bob")
  ]
  found, report = study.results(rows, ("dice", "extra"), questions=[]), train.Report("x")
  study.page.scores(report, found, study.arms(study.Arm("plain", "nothing", dict)))
  cells = re.findall(r"<td[^>]*>([^<]*)</td>", report.html())
  plain, ours = cells[: len(cells) // 2], cells[len(cells) // 2 :]
  assert len(plain) == len(ours) and ours[3].startswith("0.250 (")
  assert plain[2] == ours[2] and plain[3] == "–"
