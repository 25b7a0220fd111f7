"""fit: what rows mean, what is refused; blocks, devices and restarts change nothing."""

import jax
import numpy as np
import pytest

from medjax import rng, train
from medjax.check import InputError
from medjax.train import engine as engines
from medjax.train import logging
from medjax.train.checkpoint import Checkpoints
from medjax.types import Step
from tests.train import toy

KEY = jax.random.key(0)


def fit(step=None, stream=toy.stream, *, num_steps=10, **options):
  options = {"log_every": 4, "progress": False, **options}
  step = toy.linear() if step is None else step
  return train.fit(step, stream, toy.params(), KEY, num_steps=num_steps, **options)


def bias(state):
  return {"bias": state.params["bias"], "nothing": float("nan")}


def by_hand(num_steps):
  """The same training written out: state and metrics of every step."""
  step = toy.linear()
  update = jax.jit(step.update)
  init_key, update_key = rng.streams(KEY, "init", "update")
  state = jax.jit(step.init)(toy.params(), init_key)
  metrics = []
  for t in range(num_steps):
    state, measured = update(state, toy.stream(t), jax.random.fold_in(update_key, t))
    metrics.append(jax.device_get(measured))
  return state, metrics


def test_rows_are_window_means_of_the_plain_loop():
  state, metrics = by_hand(10)
  result = fit()
  for x, y in zip(toy.leaves(result.state), toy.leaves(state), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-6)
  windows = {4: metrics[:4], 8: metrics[4:8], 10: metrics[8:]}
  assert [row["step"] for row in result.history] == list(windows)
  for row in result.history:
    for name in ("loss", "grad_norm"):
      mean = np.mean([m[name] for m in windows[row["step"]]])
      np.testing.assert_allclose(row[name], mean, rtol=1e-6)  # float32 sums of 4


def test_update_is_traced_once_and_callers_arrays_survive():
  traces = []
  params = toy.params()
  step = toy.linear(on_trace=lambda: traces.append(1))
  train.fit(step, toy.stream, params, KEY, num_steps=9, log_every=8, block=4, progress=False)
  assert len(traces) == 1
  assert not any(x.is_deleted() for x in jax.tree.leaves(params))


def test_arrays_closed_over_by_init_survive_donation():
  donor = toy.params()
  plain = toy.linear()
  step = Step(lambda p, key: plain.init(p, key).replace(model_state=donor), plain.update)
  first, second = fit(step), fit(step)
  toy.assert_same_bits(first.state, second.state)


def test_scanned_blocks_equal_the_python_loop():
  options = dict(num_steps=11, log_every=5, evaluators={"probe": bias}, eval_every=3)
  loop, scan = fit(**options), fit(block=2, **options)
  for x, y in zip(toy.leaves(loop.state), toy.leaves(scan.state), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5)  # two programs: float32 rounding over 11 steps
  assert [r["step"] for r in loop.history] == [r["step"] for r in scan.history]
  for x, y in zip(loop.history, scan.history, strict=True):
    assert x.keys() == y.keys()
    for name in x.keys() - {"run"}:
      np.testing.assert_allclose(x[name], y[name], rtol=1e-5)


@pytest.mark.parametrize("block", [1, 4])
def test_two_devices_equal_one(block):
  traces = []
  step = toy.linear(on_trace=lambda: traces.append(1))
  one, two = fit(), fit(step, mesh=train.data_mesh(), block=block)
  for x, y in zip(toy.leaves(one.state), toy.leaves(two.state), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)  # sums in another order
  assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(two.state))
  assert len(traces) == 1


def test_batch_that_the_devices_do_not_divide_is_refused():
  with pytest.raises(InputError, match=r"multiple of 2 devices, got shape \(3, 3\)"):
    fit(stream=lambda t: toy.stream(t, size=3), mesh=train.data_mesh())


def test_shard_batch_follows_a_spec_past_a_leading_axis():
  batch = {"inner": np.zeros((1, 4, 3)), "outer": np.zeros((4, 3))}
  spec = {"inner": jax.P(None, "batch"), "outer": jax.P("batch")}
  placed = train.shard_batch(batch, train.data_mesh(), spec)
  assert placed["inner"].sharding.spec == jax.P(None, "batch")
  assert placed["outer"].sharding.shard_shape((4, 3)) == (2, 3)


def test_evaluators_run_at_their_interval_and_at_the_end(tmp_path):
  result = fit(evaluators={"probe": bias}, eval_every=4, workdir=tmp_path)
  assert [r["step"] for r in result.history if "probe/bias" in r] == [4, 8, 10]
  assert result.history[-1]["probe/bias"] == float(result.state.params["bias"])
  assert np.isnan(result.history[-1]["probe/nothing"])
  assert '"probe/nothing": null' in (tmp_path / "metrics.jsonl").read_text()


def test_resume_in_mid_window_gives_the_same_bits(tmp_path):
  options = dict(evaluators={"probe": bias}, eval_every=4, checkpoint_every=6, workdir=tmp_path)
  whole = fit(evaluators={"probe": bias}, eval_every=4)

  class Crash(Exception):
    pass

  def crashing(step):
    if step == 9:  # past the row of step 8; the checkpoint, 6, lies inside its window
      raise Crash
    return toy.stream(step)

  with pytest.raises(Crash):
    fit(stream=crashing, **options)
  with logging.MetricsWriter(tmp_path / "metrics.jsonl", "main") as writer:
    writer.write(9, {"loss": -1.0})  # a row past the checkpoint goes, whatever it says
  seen = []

  def counting(step):
    seen.append(step)
    return toy.stream(step)

  resumed = fit(stream=counting, **options)
  assert set(seen) == {6, 7, 8, 9}
  toy.assert_same_bits(whole.state, resumed.state)
  assert repr(whole.history) == repr(resumed.history)  # NaN != NaN
  assert repr(logging.read_rows(tmp_path / "metrics.jsonl")) == repr(whole.history)


def test_finished_run_is_returned_without_training(tmp_path):
  whole = fit(workdir=tmp_path)

  def fail(state, batch, key):
    return toy.linear().update(state, batch, key)

  again = fit(Step(toy.linear().init, fail), workdir=tmp_path)
  toy.assert_same_bits(whole.state, again.state)
  assert whole.history == again.history
  assert np.isnan(again.timing.seconds_per_step)
  with pytest.raises(InputError, match="num_steps >= 10.*got num_steps=5"):
    fit(workdir=tmp_path, num_steps=5)


def test_resume_with_another_update_is_refused(tmp_path):
  fit(workdir=tmp_path, num_steps=4)
  with pytest.raises(InputError, match="another learning rate, schedule, loss.*; restore the old"):
    fit(toy.linear(learning_rate=0.2), workdir=tmp_path)
  with pytest.raises(InputError, match="network or batch"):
    fit(stream=lambda t: toy.stream(t, size=8), workdir=tmp_path)
  resumed = fit(workdir=tmp_path, num_steps=6)  # the same, built anew, and more steps
  toy.assert_same_bits(resumed.state, fit(num_steps=6).state)
  other = fit(toy.linear(learning_rate=0.2), workdir=tmp_path, allow_change=True)
  assert other.history[:1] == resumed.history[:1] and other.history[-1]["step"] == 10


def test_a_restored_state_and_a_fresh_one_are_one_program(tmp_path):
  engine = engines.build(toy.linear(), toy.params(), KEY, toy.stream(0), log_every=4, mesh=None)
  fresh = engine.init(toy.params(), KEY)
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(0, fresh, {})
    restored = checkpoints.restore(engine.template, {})[1]
  texts = [engine.advance.lower(carry, toy.stream(0), KEY).as_text() for carry in (fresh, restored)]
  assert texts[0] == texts[1]


def test_a_hint_is_shown_once_when_its_metric_is_up_for_a_whole_row(capsys):
  plain = toy.linear()

  def update(state, batch, key):
    state, metrics = plain.update(state, batch, key)
    trouble = (state.step > 4).astype(np.float32)  # in no step of the first row, in all of the rest
    return state, {**metrics, "trouble": trouble}

  step = Step(plain.init, update, hints={"trouble": "do this", "loss of all": "never asked"})
  fit(step, num_steps=12, progress=True)
  out = capsys.readouterr().out
  assert out.count("main: trouble is 1: do this") == 1 and "never asked" not in out
  fit(step, num_steps=4, progress=True)
  assert "trouble" not in capsys.readouterr().out


def test_runs_share_a_directory(tmp_path):
  a = fit(workdir=tmp_path, name="a")
  fit(workdir=tmp_path, name="b", num_steps=3)
  rows = logging.read_rows(tmp_path / "metrics.jsonl")
  assert [(r["run"], r["step"]) for r in rows] == [("a", 4), ("a", 8), ("a", 10), ("b", 3)]
  assert fit(workdir=tmp_path, name="a").history == a.history


def test_non_finite_metric_stops_with_its_step_and_keeps_the_last_good_checkpoint(tmp_path):
  step = toy.linear(poison_step=5, hints={"loss": "lower the inner learning rate"})
  with pytest.raises(
    train.NonFiniteError, match=r"run 'arm'.*loss=nan at step 5; lower the inner learning rate"
  ) as caught:
    fit(step, workdir=tmp_path, name="arm", checkpoint_every=3)
  assert (caught.value.run, caught.value.step, list(caught.value.values)) == ("arm", 5, ["loss"])
  assert [r["step"] for r in logging.read_rows(tmp_path / "metrics.jsonl")] == [4]
  good = fit(workdir=tmp_path, name="arm", num_steps=3, log_every=3, allow_change=True)
  toy.assert_same_bits(good.state, fit(num_steps=3).state)


def test_non_finite_parameters_under_finite_metrics_are_not_saved(tmp_path):
  plain = toy.linear()

  def update(state, batch, key):
    state, metrics = plain.update(state, batch, key)
    broken = jax.tree.map(lambda x: x * np.float32(np.inf), state.params)
    is_bad = state.step == 3
    params = jax.tree.map(lambda b, p: jax.numpy.where(is_bad, b, p), broken, state.params)
    return state.replace(params=params), metrics

  with pytest.raises(train.NonFiniteError, match="params/bias=nan, params/weight=nan at step 2"):
    fit(Step(plain.init, update), workdir=tmp_path, num_steps=3)
  assert not list((tmp_path / "checkpoints" / "main").iterdir())


def test_without_workdir_there_are_no_files(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  result = fit()
  assert not list(tmp_path.iterdir())
  assert result.timing.seconds_to_first_step > 0
  assert result.timing.steps_per_second > 0


@pytest.mark.parametrize(
  ("metrics", "message"),
  [
    ({}, "flat dict, got an empty one"),
    ({"loss": np.zeros(2)}, r"'loss' to be a scalar, got shape \(2,\)"),
  ],
)
def test_wrong_metrics_are_refused(metrics, message):
  plain = toy.linear()
  step = Step(plain.init, lambda s, b, k: (s, metrics))
  with pytest.raises(InputError, match=message):
    fit(step)


def test_update_that_changes_the_state_is_refused():
  plain = toy.linear()

  def update(state, batch, key):
    state, metrics = plain.update(state, batch, key)
    return state.replace(extra=()), metrics

  with pytest.raises(InputError, match=r"keep the state's .extra\[0\]\['bias'\] as float32"):
    fit(Step(plain.init, update))


def test_numbers_do_not_enter_the_rows_as_times(tmp_path):
  fit(workdir=tmp_path)
  rows = logging.read_rows(tmp_path / "metrics.jsonl")
  assert {name for row in rows for name in row} == {"run", "step", "loss", "grad_norm"}


def test_progress_without_a_terminal_is_two_lines(capsys):
  fit(progress=True)
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == "main: 10 steps"
  assert lines[1].startswith("main: step 10/10, loss ")
  assert len(lines) == 2


def _fit_with_scores(scores, **options):
  """Trains 5 x 4 steps; the evaluation after step 4 i gives scores[i - 1]."""
  seen = {}

  def probe(state):
    seen[int(state.step)] = np.asarray(state.params["weight"])
    return {"score": scores[int(state.step) // 4 - 1]}

  fit = train.fit(
    toy.linear(),
    toy.stream,
    toy.params(),
    jax.random.key(0),
    num_steps=20,
    eval_every=4,
    evaluators={"probe": probe},
    progress=False,
    **options,
  )
  return fit, seen


def test_the_best_state_is_that_of_the_highest_score_the_earliest_on_a_tie():
  scores = (float("nan"), 0.5, 0.7, 0.7, 0.1)
  fit, seen = _fit_with_scores(scores, keep_best="probe/score")
  assert int(fit.best.step) == 12
  assert float(fit.best.value) == np.float32(0.7)
  np.testing.assert_array_equal(fit.best.state.params["weight"], seen[12])
  assert fit.best.state.opt_state == ()
  plain, _ = _fit_with_scores(scores)
  toy.assert_same_bits(plain.state, fit.state)
  assert plain.best is None


def test_no_score_keeps_no_best():
  fit, _ = _fit_with_scores((float("nan"),) * 5, keep_best="probe/score")
  assert fit.best is None


@pytest.mark.parametrize("name", ["prob/score", "probe/scores"])
def test_an_unknown_score_is_refused(name):
  with pytest.raises(InputError, match="probe"):
    _fit_with_scores((0.0,) * 5, keep_best=name)


def test_writers_see_the_rows_of_metrics_jsonl(tmp_path):
  class Memory:
    def __init__(self):
      self.rows = []

    def write(self, run, step, values):
      self.rows.append({"run": run, "step": step, **values})

    def close(self):
      raise AssertionError("whoever made a writer closes it")

  memory = Memory()
  assert isinstance(memory, train.Writer)
  fit, _ = _fit_with_scores((0.0,) * 5, writers=[memory], workdir=tmp_path, log_every=3)
  assert memory.rows == fit.history
