"""The transfer study as a person runs it: who is trained on, what counts, what is asked."""

import csv
import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import site_transfer
from experiments.site_transfer import hospitals, networks, optimisers, report, scores, training
from experiments.site_transfer.config import ARMS, Config
from experiments.site_transfer.scores import NO_TRANSFER, ORACLE, Tables
from experiments.site_transfer.training import Run
from medjax import cli, methods
from medjax.check import InputError
from medjax.types import Batch
from tests.data import fake_downloads
from tests.data.folders import write_json
from tests.experiments.test_lscl import site

TINY = [
  *("--pairs", "research-t1>lowfield-t1", "--num_people", "5", "--shape", "16", "16"),
  *("--num_slices", "4", "--widths", "2", "2", "--batch_size", "4", "--num_epochs", "2"),
  *("--source_epochs", "1", "--steps_per_epoch", "2", "--threshold", "-1"),
  *("--arms", "fine-tune", "mmtl", "octl"),
]
ADAM = {"spacing": (2.0, 2.0, 4.0), "pairs": ("research-t1>lowfield-t1",)}


def run(*args):
  cli.run(site_transfer.PRESETS, site_transfer.build, site_transfer.__doc__, args=args)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("transfer") / "run"
  arguments = ["demo", *TINY, "--workdir", str(workdir)]
  run(*arguments)
  return workdir, arguments


def setting_of(tmp_path, **changes):
  """Two folders, a site each; 12 target slices of 4 people to train on."""
  config = Config(
    data_source="folders", shape=(12, 12), subject_pattern=r"(.)_\d", batch_size=2, **changes
  )
  names = ("a_1", "a_2", "b_1", "c_1", "d_1", "e_1", "f_1")
  roots = [site(tmp_path / name, seed, names) for seed, name in enumerate(("old", "new"))]
  return config, hospitals.load(config, roots, 0)


def test_people_of_both_sites_are_parted(finished):
  parts = json.loads((finished[0] / "splits.json").read_text())["pairs"]["research-t1>lowfield-t1"]
  assert set(parts) == {"source train", "source test", "target train", "target test"}
  for part, names in parts.items():
    home = "research-t1" if part.startswith("source") else "lowfield-t1"
    assert {name.partition("/")[0] for name in names} == {home}
  everybody = [name for names in parts.values() for name in names]
  assert len(everybody) == len(set(everybody)) == 10


def test_the_tables_come_from_the_case_table(finished):
  results = json.loads((finished[0] / "results.json").read_text())
  with open(finished[0] / "cases.csv") as file:
    rows = list(csv.DictReader(file))
  found = results["optimisers"]["adam"]["sizes"]["1"]
  assert set(found) == {"fine-tune", "mmtl", "octl"}
  for arm, roles in found.items():
    for role in ("target", "source"):
      own = [float(r["dice/brain"]) for r in rows if (r["arm"], r["role"]) == (arm, role)]
      np.testing.assert_allclose(roles[role]["dice"]["mean"], np.mean(own), rtol=1e-6)
  assert results["sizes"] == [{"people": 1, "least_slices": 4, "most_slices": 4}]
  assert {r["question"] for r in results["questions"]} == {"few", "source", "history"}
  for row in results["questions"]:  # of an update; the source's own network makes none
    assert (row["compute"] is None) == (row["reference"] == "source model")


def test_the_page_shows_everything(finished):
  text = (finished[0] / "report.html").read_text()
  for words in ("What there is to gain", "At the source after adaptation", "NEEDS SOURCE DATA",
                "Planned comparisons", "How features move", "Arm by arm", "oracle"):  # fmt: skip
    assert words in text


def test_a_finished_run_is_not_repeated(finished, capsys):
  before = (finished[0] / "results.json").stat().st_mtime_ns
  run(*finished[1])
  assert (finished[0] / "results.json").stat().st_mtime_ns == before
  assert "finished" in capsys.readouterr().out


@pytest.mark.slow
def test_every_arm_under_both_optimisers_runs_to_its_end(tmp_path):
  run("demo", *TINY[:-4], "--arms", *ARMS, "--optimisers", "adam", "sgd", "--workdir",
      str(tmp_path / "run"))  # fmt: skip
  results = json.loads((tmp_path / "run" / "results.json").read_text())
  for optimiser, found in results["optimisers"].items():
    arms = found["sizes"]["1"]
    assert set(arms) == set(Config(**ADAM, arms=ARMS).arms_of(optimiser))
    for roles in arms.values():
      assert all(0 <= roles[role]["dice"]["mean"] <= 1 for role in ("target", "source"))
  few = [r["reference"] for r in results["questions"] if r["question"] == "few"]
  assert set(few) == {"fine-tune", "first-layers", "l2-sp", "spottune"}


def rows_of(values):
  """A row for each (arm, size, role) -> [pair, seed, person] Dice."""
  rows = []
  for (arm, size, role), cube in values.items():
    for (p, s, i), value in np.ndenumerate(np.asarray(cube)):
      about = {"optimiser": "adam", "arm": arm, "size": size, "role": role, "pair": "ab"[p]}
      scores = {"dice/x": value, "surface_dice/x": value}
      rows.append({**about, "seed": s, "subject": f"{i}", "case": f"{i}", **scores})
  return rows


def test_published_figures_are_means_over_pairs_and_then_over_seeds():
  cube = np.random.default_rng(0).uniform(size=(2, 3, 4))
  tables = Tables(rows_of({("octl", 1, "target"): cube}))
  found = tables.published("adam", "octl", 1, "target", ["a", "b"], "dice")
  by_seed = cube.mean((0, 2))
  np.testing.assert_allclose(list(found.values()), [by_seed.mean(), by_seed.std(ddof=1)])
  assert np.isnan(tables.published("adam", "octl", 1, "target", [], "dice")["mean"])


def test_sites_of_unequal_size_keep_the_mean_of_the_tables():
  """Verdicts are of the mean that the tables show: .5 and not .417 moved by repeated people."""
  rows = rows_of({("octl", 1, "target"): np.array([[[1.0, 0.0, 0.0]]])})
  rows += [{**r, "pair": "b"} for r in rows_of({("octl", 1, "target"): np.full((1, 1, 4), 0.5)})]
  tables = Tables(rows)
  asked = ("adam", "octl", 1, "target", ["a", "b"], "dice")
  np.testing.assert_allclose(tables.cube(*asked).mean(), tables.published(*asked)["mean"])
  np.testing.assert_allclose(tables.cube(*asked).mean(), (1 / 3 + 1 / 2) / 2)


def test_a_person_at_two_sites_is_refused(tmp_path):
  names = ("a_1", "b_1", "c_1", "d_1", "e_1", "f_1")
  roots = [site(tmp_path / name, 0, names) for name in ("old", "new")]  # the same scans
  config = Config(data_source="folders", shape=(12, 12), subject_pattern=r"(.)_\d")
  with pytest.raises(InputError, match="different people in site old and site new.*pair.png"):
    hospitals.load(config, roots, 0, tmp_path / "pair.png")
  assert (tmp_path / "pair.png").is_file()


def test_a_pair_without_a_gap_stays_out(tmp_path):
  """Pair b loses one point against its oracle: under two, so that tables hold pair a alone."""
  config, setting = setting_of(tmp_path, arms=("fine-tune", "mmtl"), optimisers=("adam",),
                               target_sizes=(1,), threshold=0.02)  # fmt: skip
  pair = setting.pairs[0]
  setting = setting._replace(pairs=(pair._replace(name="a"), pair._replace(name="b")))
  ones = np.ones((1, 2, 3))
  values = {
    (NO_TRANSFER, 0, "target"): np.concatenate([0.7 * ones, 0.8 * ones]),
    (NO_TRANSFER, 0, "source"): np.full((2, 2, 3), 0.9),
    (ORACLE, 0, "target"): np.concatenate([0.9 * ones, 0.81 * ones]),
    ("fine-tune", 1, "target"): np.concatenate([0.8 * ones, 0.1 * ones]),
    ("fine-tune", 1, "source"): np.full((2, 2, 3), 0.5),
    ("mmtl", 1, "target"): np.concatenate([0.85 * ones, 0.2 * ones]),
    ("mmtl", 1, "source"): np.full((2, 2, 3), 0.9),
  }
  flops = {"adam": dict.fromkeys(("fine-tune", "mmtl"), 1.0)}
  found = scores.results(config, setting, rows_of(values), flops)
  assert [p["in_table"] for p in found["optimisers"]["adam"]["pairs"].values()] == [True, False]
  arms = found["optimisers"]["adam"]["sizes"]["1"]
  np.testing.assert_allclose(arms["fine-tune"]["target"]["dice"]["mean"], 0.8)
  verdicts = {(r["question"], r["metric"]): r["verdict"] for r in found["questions"]}
  assert verdicts["few", "dice"] == "better" and verdicts["source", "dice"] == "undecided"
  assert "mmtl beats fine-tune by more than 0.01" in report.answers(config, setting, found)


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
def test_controls_make_the_steps_of_octl(optimiser):
  """For a gradient that never changes, history or not: the rate is all that differs."""
  config = Config(**ADAM)
  params = {"encoder0": {"w": jnp.ones(())}}
  task = networks.task_of(Config(**ADAM, widths=(2, 2)), (2,))
  plain = optimisers.plain_tx(config, optimiser, config.num_epochs)

  def stationary(state):
    if isinstance(state, optax.ScaleByAdamState):
      return state._replace(mu=params, nu=params)
    if isinstance(state, optax.TraceState):
      return state._replace(trace=jax.tree.map(lambda x: 10.0 * x, params))  # 1 / (1 - .9)
    return state

  kinds = (optax.ScaleByAdamState, optax.TraceState)
  donor = jax.tree.map(stationary, plain.init(params), is_leaf=lambda s: isinstance(s, kinds))
  steps = {}
  for arm in ("octl", "octl-none", "equal-rate", "fine-tune"):
    tx = optimisers.tx_of(config, optimiser, arm, donor, task)
    state = optimisers.opt_state_of(config, arm, tx, params, donor)
    update, found = jax.jit(tx.update), []
    for _ in range(12):
      updates, state = update(params, state, params)
      found.append(float(updates["encoder0"]["w"]))
    steps[arm] = np.array(found)
  np.testing.assert_allclose(steps["octl-none"], steps["octl"], rtol=1e-4)
  np.testing.assert_allclose(steps["equal-rate"], steps["octl"], rtol=1e-4)
  assert (np.abs(steps["fine-tune"] / steps["octl"] - 1) > 0.05).any()
  late = np.arange(1, 13) + 100
  want = {
    "adam": np.sqrt(1 - 0.999**late) / (1 - 0.99**late) * config.adam_rate,
    "sgd": (100 - 90 * 0.99 ** np.arange(1, 13)) * config.sgd_rate,
  }
  np.testing.assert_allclose(-steps["octl"], want[optimiser], rtol=1e-4)


def test_two_classes_are_one_logit_under_binary_cross_entropy():
  task = networks.task_of(Config(**ADAM, widths=(2, 2)), (2,))
  image = jax.random.normal(jax.random.key(0), (8, 8, 1))
  label = (image[..., 0] > 0).astype(jnp.int32)
  params, _ = task.model.init(jax.random.key(1), image)
  example = Batch(image, label, *4 * (None,))
  logits = jax.jit(task.model.apply)(params, image)[0]
  assert logits.shape == (8, 8, 2) and not logits[..., 0].any()
  want = optax.sigmoid_binary_cross_entropy(logits[..., 1], label).mean()
  found, _ = task.loss_fn(params, example, jax.random.key(0), {})
  np.testing.assert_allclose(found, want, rtol=1e-5)


def test_the_first_layers_of_the_released_network_are_4816_parameters():
  task = networks.task_of(Config(**ADAM, network="sum_unet", widths=(16,)), (2,))
  params, _ = jax.eval_shape(task.model.init, jax.random.key(0), jnp.zeros((32, 32, 1)))
  leaves = jax.tree_util.tree_leaves_with_path(params)
  named = {jax.tree_util.keystr(p, simple=True, separator="/"): x.size for p, x in leaves}
  first = [n for path, n in named.items() if path.startswith(task.first_layers)]
  assert sum(first) == 4816


def test_sizes_count_people_and_mmtl_mixes_rows(tmp_path):
  config, setting = setting_of(tmp_path, num_epochs=2, steps_per_epoch=3, target_sizes=(1,))
  pair = setting.pairs[0]
  assert pair.name == "old>new" and len(pair.units) == 4
  people = pair.drawn_units(0)
  assert set(pair.target_rows(2, 0)) == {*people[0], *people[1]}
  assert set(pair.target_rows(0.5, 0)) < set(people[0])
  assert len({tuple(pair.target_rows(1, seed)) for seed in range(9)}) > 1
  one = Run("adam", pair, 1, 0)
  plain = training.rows_of(config, one, "fine-tune")
  mixed = training.rows_of(config, one, "mmtl")
  assert set(plain(0)) <= set(people[0])
  # floor(epoch / 2 * 2) slots of the target: none in the first epoch, one in the second.
  for step, share in ((0, 0), (2, 0), (3, 1), (5, 1)):
    assert np.isin(mixed(step), people[0]).sum() == share
    assert np.isin(mixed(step), pair.source_rows).sum() == 2 - share
  with pytest.raises(InputError, match="1..4 people"):
    pair.target_rows(5, 0)


def test_fewer_target_slices_than_a_batch_are_refused(tmp_path):
  config, setting = setting_of(tmp_path)
  config = dataclasses.replace(config, batch_size=64)
  with pytest.raises(InputError, match="64 target slices.*lower --batch_size"):
    training.rows_of(config, Run("adam", setting.pairs[0], 1, 0), "fine-tune")


def test_sites_with_other_labels_are_refused(tmp_path):
  first, second = site(tmp_path / "one", 0), site(tmp_path / "two", 1)
  write_json(second, labels={"background": 0, "left": 3, "right": 7})
  config = Config(data_source="folders", shape=(12, 12))
  with pytest.raises(InputError, match="new head"):
    hospitals.load(config, [first, second], 0)


def test_weights_alone_have_no_history():
  with pytest.raises(InputError, match="octl-rebuilt.*rebuilds the moments"):
    Config(**ADAM, source_weights="weights.safetensors", arms=("fine-tune", "octl"))
  assert Config(**ADAM, source_weights="w", arms=("octl-rebuilt",)).arms == ("octl-rebuilt",)


def test_history_of_another_optimiser_or_network_is_refused():
  params = {"w": jnp.ones(3)}
  sgd, adam = optax.sgd(0.1, momentum=0.9), optax.adam(0.1)
  with pytest.raises(InputError, match="one kind of optimiser, or rebuild"):
    methods.octl(sgd.init(params), adam, params)
  with pytest.raises(InputError, match="of their own"):
    methods.octl(adam.init(params), adam, {**params, "head": jnp.ones(2)})


def test_downloads_are_sites_of_pairs(tmp_path):
  fake_downloads.cc359(tmp_path, zipped=False)
  names = ("philips-1.5T", "philips-3T")
  config = Config(data_source="cc359", pairs=(">".join(names),), shape=(8, 8))
  (twice := tmp_path / "more").mkdir()
  with pytest.raises(InputError, match="at least 2 subjects"):  # one person a site in miniature
    hospitals.load(config, [tmp_path], 0)
  fake_downloads.prostate(twice, cases=3)
  config = dataclasses.replace(config, data_source="prostate", pairs=(), normalise="zscore")
  pairs = hospitals.load(config, [twice], 0).pairs
  assert [pair.name.count("+") for pair in pairs] == [4] * 6
  assert pairs[0].name.endswith(">RUNMC")


def test_rescanned_people_train_at_one_site_and_are_tested_at_all(tmp_path):
  names = ("research-t1", "lowfield-t1")
  config = Config(
    data_source="rescanned",
    pairs=(">".join(names),),
    shape=(12, 12),
    subject_pattern=r"(.)_\d",
    spacing=(2.0, 2.0, 5.0),
  )
  root = site(tmp_path / "one", 0, ("a_1", "a_2", "b_1", "c_1", "d_1", "e_1", "f_1"))
  setting = hospitals.load(config, [root], 0)
  (pair,) = setting.pairs
  bare = {part: {n.partition("/")[2] for n in people} for part, people in pair.parts.items()}
  assert bare["source test"] == bare["target test"] and len(bare["source test"]) == 2
  train = [bare["source train"], bare["target train"]]
  assert all(len(people) == 2 for people in train)
  assert len(set.union(*train, bare["source test"])) == 6
  here, there = (case[0].image for case in (pair.source_test, pair.target_test))
  assert np.abs(here - there).mean() > 0.01
  with pytest.raises(InputError, match="pairs of scanners"):
    hospitals.load(dataclasses.replace(config, pairs=()), [root], 0)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"network": "densenet"}, "--network densenet for --data_source chest"),
    ({"norm": "batch"}, "choose --network sum_unet"),
    ({"norm": "batch", "network": "sum_unet", "source_weights": "w"}, "running statistics"),
  ],
)
def test_networks_that_do_not_fit_are_refused(fields, message):
  with pytest.raises(InputError, match=message):
    Config(**ADAM, arms=("fine-tune",), **fields)


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["first-layers", pytest.param("spottune", marks=pytest.mark.slow)])
def test_the_released_network_keeps_its_running_statistics(tmp_path, arm):
  """Traced, not run: an update gives back the tree that it started with, statistics included."""
  config, setting = setting_of(tmp_path, network="sum_unet", norm="batch", widths=(2,))
  nothing: Any = None
  study = training.Study(config, setting, nothing)
  batch = jax.tree.map(lambda x: jnp.asarray(x[:2]), setting.pool)

  def update():
    params, model_state = study._fresh(0)
    donor = optimisers.source_tx(config, "adam", setting.heads, 0).init(params)
    source = training.Trained(params, model_state, donor, None, study._apply)
    step = study._step(arm, Run("adam", setting.pairs[0], 1, 0), source, donor)
    start = step.init(params, jax.random.key(0))
    state, _ = step.update(start, batch, jax.random.key(1))
    return start, state, study._apply((params, model_state), batch.image[0])

  start, state, logits = jax.eval_shape(update)
  assert jax.tree.structure(start) == jax.tree.structure(state)
  assert len(jax.tree.leaves(state.model_state)) == 2 * len(
    [path for path, _ in jax.tree_util.tree_leaves_with_path(start.params) if "scale" in str(path)]
  )
  assert logits.shape == (12, 12, 3)
  published = ("paper", "released_code", "cc359", "prostate")
  assert {site_transfer.PRESETS[name].norm for name in published} == {"batch"}


@pytest.mark.parametrize("pair", ["research-t1", "research-t1>", "a-t1>b-t1"])
def test_a_pair_of_no_sites_is_refused(pair):
  config = Config(pairs=(pair,), spacing=(2.0, 2.0, 4.0), num_people=4, shape=(16, 16))
  with pytest.raises(InputError):
    hospitals.load(config, (), 0)


def test_every_arm_has_a_meaning_and_every_preset_its_arms():
  assert set(report._MEANING) == set(ARMS)
  for preset in site_transfer.PRESETS.values():
    assert set(preset.arms) <= set(ARMS)
