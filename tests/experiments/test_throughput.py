"""The benchmark's own arithmetic: what is counted, what is compared, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bench import growth, largest_patch
from experiments.throughput import __main__ as throughput
from experiments.throughput import comparing
from experiments.throughput.config import PRESETS, Config
from experiments.throughput.groups import Group, groups
from experiments.throughput.measuring import Program, measure
from experiments.throughput.peaks import Peaks
from medjax import cli, files, programs
from medjax.check import InputError

SLOW = Peaks(flops=1e6, bandwidth=1e6, nominal=2e6)


def test_counts_floors_and_first_calls_of_a_matrix_product(tmp_path):
  side, calls = 64, []
  x = np.ones((side, side), np.float32)

  def on_host(x):
    calls.append(1)
    return x

  rows = [
    Program("product", lambda a, b: a @ b, (x, x), 1),
    Program("host", on_host, (x,), 1, on_host=True),
  ]
  cache = jax.config.jax_compilation_cache_dir
  found = measure(rows, 3, SLOW, cached=True, trace=tmp_path / "trace")
  product, host = found["product"], found["host"]
  assert product.counts.flops == 2 * side**3
  assert product.counts.argument_bytes == 3 * 4 * side**2  # two matrices in, one out
  assert product.counts.peak_bytes >= product.counts.argument_bytes
  assert product.floor_s == 2 * side**3 / 1e6  # longer than 3 * 4 * side^2 bytes take
  np.testing.assert_allclose(
    product.utilisation, product.counts.flops / np.median(product.times) / 2e6
  )
  assert product.cold_s > 0 and product.cached_s > 0
  np.testing.assert_array_equal(product.ratios, 1.0)
  assert np.isnan(host.counts.flops) and np.isnan(host.floor_s)
  assert len(calls) == 2 + 2 + 3 + 1  # first calls, warm-up, rounds, trace
  assert any((tmp_path / "trace").rglob("*.xplane.pb"))
  assert jax.config.jax_compilation_cache_dir == cache


def test_the_fullest_moment_holds_what_a_gradient_keeps():
  # the backward pass of two layers needs both activations, which are neither argument nor result
  def loss(w, x):
    return jnp.tanh(jnp.tanh(x @ w) @ w).sum()

  w, x = jnp.ones((8, 8)), jnp.ones((4096, 8))
  compiled = jax.jit(jax.grad(loss)).lower(w, x).compile()
  assert programs.peak_bytes(compiled) >= 2 * x.nbytes + 2 * w.nbytes


@pytest.mark.parametrize("power", [1, 3])
@pytest.mark.parametrize("best", [0, 1, 6, 7, 8, 33, 40])
def test_the_largest_size_is_found_in_few_compilations(best, power):
  calls = []

  def bytes_of(n):
    calls.append(n)
    return 1000 + 7 * n**power + n  # nearly of the form that the search assumes

  asked = largest_patch.largest(bytes_of, 1000 + 8 * best**power, 33, power)
  fit = [n for n in range(1, 34) if 1000 + 7 * n**power + n <= 1000 + 8 * best**power]
  found = max((n for n, size in asked.items() if size <= 1000 + 8 * best**power), default=0)
  assert found == max(fit, default=0)
  assert sorted(asked) == sorted(calls) and len(calls) <= 6


def timing(ratio, spread, seconds=1.0):
  return {
    "median_s": seconds,
    "low_s": 0.9 * seconds,
    "high_s": 1.1 * seconds,
    "ratio": ratio,
    "ratio_low": ratio - spread,
    "ratio_high": ratio + spread,
  }


def test_only_what_lies_beyond_the_spread_is_a_regression():
  counts = {"flops": 100.0, "temporary_bytes": 100.0}

  def record(second, first_s=1.0, **changes):
    return {
      "timing": {"g: first": timing(1.0, 0.0, first_s), "g: second": second},
      "results": {"g: first": counts, "g: second": {**counts, **changes}},
    }

  before = record(timing(2.0, 0.2))
  assert comparing.regressions(record(timing(2.3, 0.2)), before) == []
  assert comparing.regressions(record(timing(1.0, 0.1)), before) == []
  (line,) = comparing.regressions(record(timing(2.5, 0.2)), before)
  assert line.startswith("g: second: ratio 2.5")
  # A busy machine moves seconds, and only the first row of a group is held to them.
  (line,) = comparing.regressions(record(timing(2.0, 0.2), first_s=1.5), before)
  assert line.startswith("g: first: seconds 1.5")
  (line,) = comparing.regressions(record(timing(2.0, 0.2), temporary_bytes=110.0), before)
  assert "temporary_bytes 110" in line


def test_a_record_of_another_device_is_refused(tmp_path):
  record = {"timing": {}, "results": {}, "devices": {"kind": "TPU v4", "count": 1}}
  files.write_json(tmp_path / "record.json", record)
  with pytest.raises(InputError, match="made on TPU v4"):
    comparing.read_record(tmp_path / "record.json", {"kind": "cpu"})
  files.write_json(tmp_path / "other.json", {})
  with pytest.raises(InputError, match="another file"):
    comparing.read_record(tmp_path / "other.json", {"kind": "cpu"})


def test_a_group_is_chosen_by_how_its_title_begins():
  assert list(groups(Config(only=("Federated", "Private")))) == [
    "Federated rounds, 2D U-Net",
    "Private noise",
  ]
  with pytest.raises(InputError, match="begin as a title does"):
    groups(Config(only=("nothing",)))
  assert PRESETS["device"].minutes == 7  # of the eight that it may take


def test_a_run_that_is_ended_goes_on_after_the_last_group_it_measured(tmp_path, monkeypatch):
  made, is_ended = [], [True]

  def group(title):
    def make():
      made.append(title)
      if title == "second" and is_ended[0]:
        raise KeyboardInterrupt
      row = lambda name: Program(name, lambda x: x, (np.ones(1),), 1, on_host=True)  # noqa: E731
      return [row("z, the first row"), row("a")]

    return Group(make)

  monkeypatch.setattr(
    throughput, "groups", lambda config: {t: group(t) for t in ("first", "second")}
  )
  config = Config(num_rounds=2, cached=False)
  options = cli.RunOptions(tmp_path / "run", 0, (), "demo", "throughput")
  with pytest.raises(KeyboardInterrupt):
    throughput.build(config, options)
  kept = files.read_json(tmp_path / "run" / "groups.json")["first"]
  assert [row["name"] for row in kept] == ["z, the first row", "a"]  # ratios are to the first
  is_ended[0] = False
  throughput.build(config, options)
  assert made == ["first", "second", "second"]
  timing = files.read_json(tmp_path / "run" / "timing.json")
  assert timing["first: a"] == kept[1]["timed"] and len(timing) == 4
  assert "z, the first row" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.slow
def test_a_round_of_clients_is_made_of_as_many_steps():
  """The rounds in blocks of 1 and of all clients give one model."""
  config = Config(shape=(8, 8), widths=(2, 4), num_clients=2, blocks=(1, 2), only=("Federated",))
  (group,) = groups(config).values()
  plain, one, two, *drifting = group.make()
  assert [program.name.partition(",")[0] for program in drifting] == ["FedProx", "SCAFFOLD"]
  assert (one.floor, one.num_examples) == (2.0, 2) and plain.num_examples == 1
  first, second = (program.fn(*program.args)[0].params for program in (one, two))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), first, second)
  assert not jnp.array_equal(jax.tree.leaves(first)[0], jax.tree.leaves(one.args[0].params)[0])


def test_exponents_are_slopes_of_logarithms_with_their_error():
  sizes = np.array([1.0, 2.0, 4.0, 8.0])
  slope, error = growth.exponent(sizes.tolist(), (3 * sizes**1.5).tolist())
  np.testing.assert_allclose([slope, error], [1.5, 0.0], atol=1e-12)
  noisy = (3 * sizes**1.5 * [1.0, 1.1, 0.9, 1.0]).tolist()
  found, error = growth.exponent(sizes.tolist(), noisy)
  want, covariance = np.polyfit(np.log(sizes), np.log(noisy), 1, cov=True)
  np.testing.assert_allclose([found, error], [want[0], covariance[0, 0] ** 0.5])
  assert np.isnan(growth.exponent([1, 2], [1.0, 2.0])[1])
