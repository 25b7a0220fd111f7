"""Transfer of findings between hospitals: heads, running statistics, areas instead of Dice."""

import csv
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from experiments import site_transfer
from experiments.site_transfer import chest, optimisers
from experiments.site_transfer.config import ARMS, Config
from experiments.site_transfer.scorers import FindingScorer
from experiments.site_transfer.setting import Pair
from experiments.site_transfer.training import Run, Study, Trained
from medjax import cli, losses
from medjax.check import InputError
from medjax.data.sets.chest import CHEXPERT_CLASSES
from medjax.metrics import auroc
from medjax.types import IGNORE
from tests.experiments.test_site_transfer import ADAM

TINY: dict[str, Any] = {
  "data_source": "chest",
  "network": "densenet",
  "norm": "batch",
  "shape": (16, 16),
  "dense_layers": (1,),
  "growth": 2,
  "widths": (4,),
  "batch_size": 4,
  "test_fraction": 0.5,
}
COMMAND = [
  *("--shape", "16", "16", "--dense_layers", "1", "--growth", "2", "--widths", "4"),
  *("--batch_size", "4", "--num_epochs", "2", "--source_epochs", "1", "--steps_per_epoch", "2"),
  *("--target_sizes", "4", "--num_seeds", "1", "--test_fraction", "0.5"),
]
SEEN = ("Edema", "Cardiomegaly")


def picture(path, random):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(random.integers(0, 255, (20, 24)).astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory):
  """12 patients a site with two pictures each; two findings come and go, all others are absent."""
  root, random = tmp_path_factory.mktemp("chest"), np.random.default_rng(0)
  columns = ["Path", "Frontal/Lateral", "AP/PA", *CHEXPERT_CLASSES]
  table = [",".join(columns)]
  entries = ["Image Index,Finding Labels,Patient ID,View Position"]
  for number in range(24):
    person, present = number // 2, [number % 2, number // 2 % 2]
    place = f"train/patient{person:05d}/study{number % 2 + 1}/view1_frontal.jpg"
    picture(root / "old" / place, random)
    marks = {name: str(value) for name, value in zip(SEEN, present, strict=True)}
    cells = [f"CheXpert-v1.0-small/{place}", "Frontal", "AP"]
    table.append(",".join(cells + [marks.get(name, "") for name in CHEXPERT_CLASSES]))
    image = f"{person:08d}_{number % 2:03d}.png"
    picture(root / "new" / "images" / image, random)
    found = [name for name, value in zip(SEEN, present, strict=True) if value]
    entries.append(f"{image},{'|'.join(found) or 'No Finding'},{person},PA")
  (root / "old" / "train.csv").write_text("\n".join(table) + "\n")
  (root / "new" / "Data_Entry_2017_v2020.csv").write_text("\n".join(entries) + "\n")
  return [root / "old", root / "new"]


@pytest.fixture(scope="module")
def finished(downloads, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("transfer") / "run"
  flags = ["--pairs", "chexpert>chest-xray14", "--arms", "fine-tune", "mmtl", "octl-rebuilt"]
  paths = ["--data", *map(str, downloads), "--workdir", str(workdir)]
  arguments = ["chest", *COMMAND, *flags, *paths]
  cli.run(site_transfer.PRESETS, site_transfer.build, site_transfer.__doc__, args=arguments)
  return workdir


def test_tables_hold_areas_and_name_what_is_left_out(finished):
  results = json.loads((finished / "results.json").read_text())
  assert results["sizes"] == [{"images": 4, "least_slices": 4, "most_slices": 4}]
  assert results["findings"]["chexpert"]["scored"] == ["chexpert: Cardiomegaly", "chexpert: Edema"]
  assert len(results["findings"]["chest-xray14"]["left_out"]) == 12
  found = results["optimisers"]["adam"]
  (pair,) = found["pairs"].values()
  assert pair["in_table"] and pair["no transfer"] is None and 0 <= pair["oracle"] <= 1
  assert set(found["sizes"]["4"]["mmtl"]["target"]) == {"auroc"}
  with open(finished / "cases.csv") as file:
    rows = [row for row in csv.DictReader(file) if (row["arm"], row["role"]) == ("mmtl", "target")]
  assert len(rows) == 6  # people, of two pictures each
  each = [np.mean([float(row[f"auroc/chest-xray14: {name}"]) for row in rows]) for name in SEEN]
  np.testing.assert_allclose(found["sizes"]["4"]["mmtl"]["target"]["auroc"]["mean"], np.mean(each))
  assert results["test_people"]["chexpert>chest-xray14"] == {"target": 6, "source": 6}


def test_the_page_shows_areas_and_no_dice(finished):
  text = (finished / "report.html").read_text()
  assert "mean AUROC" in text and "4 images" in text and "chexpert: Fracture" in text
  assert "Dice" not in text and "Tint" not in text


def test_people_and_columns_stay_apart(downloads):
  setting = chest.load(Config(**TINY), downloads, 0)
  assert [pair.name for pair in setting.pairs] == [
    "chexpert>chest-xray14",
    "chest-xray14>chexpert",
  ]
  assert setting.heads == (14, 14) and setting.pool.image.dtype == np.uint8
  one, back = setting.pairs
  assert (one.source_head, one.target_head) == (0, 1) == (back.target_head, back.source_head)
  label, domain = setting.pool.label, setting.pool.domain
  assert (label[domain == 0, 14:] == IGNORE).all() and (label[domain == 0, :14] >= 0).all()
  assert (label[domain == 1, :14] == IGNORE).all() and (label[domain == 1, 14:] >= 0).all()
  for pair in setting.pairs:
    people = [set(names) for names in pair.parts.values()]
    assert sum(map(len, people)) == len(set.union(*people)) == 24
  assert len(one.target_rows(5, 0)) == 5
  with pytest.raises(InputError, match="1..12 images"):
    one.target_rows(0.5, 0)
  shared = chest.load(Config(**TINY, classes="shared"), downloads, 0)
  assert shared.heads == (7,) and set(SEEN) <= set(shared.class_names)
  assert not any(pair.has_new_head for pair in shared.pairs)
  with pytest.raises(InputError, match="CHEXPERT --data CHESTXRAY14"):
    chest.load(Config(**TINY), downloads[:1], 0)


def test_a_picture_on_both_sides_is_refused(downloads):
  setting = chest.load(Config(**TINY), downloads, 0)
  (films,) = setting.pairs[0].source_test
  with pytest.raises(InputError, match="identical ones"):
    chest._check_pictures({"chexpert": chest._Site(films, films)})


def test_both_sites_share_the_loss_of_a_mixed_batch_by_their_slots():
  """Of 4 slots 1 is of the target: its 2 classes weigh a quarter, the source's 3 the rest."""
  logits = jnp.linspace(-1, 2, 5)
  source, target = jnp.array([1, 0, 1, -1, -1]), jnp.array([-1, -1, -1, 0, 1])
  labels = jnp.stack([target, source, source, source])
  found = jax.vmap(losses.binary_cross_entropy, (None, 0))(logits, labels).mean()
  own = [
    optax.sigmoid_binary_cross_entropy(logits[a], labels[i][a]).mean()
    for i, a in ((0, slice(3, 5)), (1, slice(0, 3)))
  ]
  np.testing.assert_allclose(found, own[0] / 4 + own[1] * 3 / 4, rtol=1e-6)


def study_of(downloads, **fields):
  config = Config(**TINY, optimisers=("adam",), **fields)
  nothing: Any = None
  study = Study(config, chest.load(config, downloads, 0), nothing)
  params, model_state = study._fresh(0)
  tx = optimisers.source_tx(config, "adam", study.setting.heads, 0)
  history = jax.tree.map(lambda x: x + jnp.ones((), x.dtype), tx.init(params))
  model_state = jax.tree.map(lambda x: x + 0.5, model_state)
  return study, Trained(params, model_state, history, None, study._apply)


@pytest.fixture(scope="module")
def moved(downloads):
  """Start and state after an update on target pictures, by arm."""
  study, source = study_of(downloads)
  run = Run("adam", study.setting.pairs[0], 4, 0)
  batch = jax.tree.map(lambda x: jnp.asarray(x[12:16]), study.setting.pool)
  found = {}
  for arm in ("first-layers", "spottune", "octl"):
    step = study._step(arm, run, source)
    start = step.init(source.params, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, start.model_state, source.model_state)
    found[arm], _ = jax.jit(step.update)(start, batch, jax.random.key(1))
  return source, found


def change(source, state, name):
  pairs = zip(*(jax.tree.leaves(p[name]) for p in (source.params, state.params)), strict=True)
  return max(float(jnp.abs(a - b).max()) for a, b in pairs)


@pytest.mark.parametrize("arm", ["first-layers", "spottune", "octl"])
def test_statistics_go_on_from_the_source_whatever_is_frozen(moved, arm):
  source, states = moved
  for old, new in zip(*map(jax.tree.leaves, (source.model_state, states[arm].model_state)),
                      strict=True):  # fmt: skip
    assert jnp.abs(new - old).max() > 0
    # A tenth of the way from the source's to those of the batch.
    assert jnp.abs(new - 0.9 * old).max() < 1


def test_a_new_head_is_trained_in_every_arm_and_the_old_one_rests(moved):
  source, states = moved
  rate = Config(**TINY).adam_rate
  for arm in ("first-layers", "spottune", "octl"):
    np.testing.assert_allclose(change(source, states[arm], "head1"), rate, rtol=1e-3)
    assert change(source, states[arm], "head0") == 0
  assert change(source, states["first-layers"], "block0_layer0_conv0") > 0
  assert (
    change(source, states["first-layers"], "norm") == 0 < change(source, states["octl"], "norm")
  )


def test_a_new_head_has_no_history_and_no_penalty():
  """On gradients of 1: OCTL's body takes its shortened step, its head a whole one."""
  config, pair = Config(**ADAM), Pair("a>b", np.zeros(0), (), (), (), {}, 0, 1, "images")
  params = {"body": {"w": jnp.ones(2)}, "head0": {"w": jnp.ones(2)}, "head1": {"w": jnp.ones(2)}}
  ones = jax.tree.map(jnp.ones_like, params)
  source_tx = optimisers.source_tx(config, "adam", (3, 2), 0)
  donor = jax.tree.map(
    lambda s: (
      s._replace(mu=jax.tree.map(jnp.ones_like, s.mu), nu=jax.tree.map(jnp.ones_like, s.nu))
      if isinstance(s, optax.ScaleByAdamState)
      else s
    ),
    source_tx.init(params),
    is_leaf=lambda s: isinstance(s, optax.ScaleByAdamState),
  )
  plain = optimisers.plain_tx(config, "adam", config.num_epochs)
  task: Any = type("Task", (), {"first_layers": ("body",)})
  steps = {}
  for arm in ARMS:
    if arm == "spottune":
      continue
    tx = optimisers.tx_of(config, "adam", arm, donor, task)
    tx = optimisers.at_target(tx, plain, pair, arm)
    state = optimisers.opt_state_of(config, arm, tx, params, donor)
    updates, _ = tx.update(ones, state, params)
    steps[arm] = {name: float(-one["w"][0]) / config.adam_rate for name, one in updates.items()}
  for arm, found in steps.items():
    np.testing.assert_allclose(found["head1"], 1, rtol=1e-4)
    np.testing.assert_allclose(found["head0"], arm == "mmtl", rtol=1e-4)
  late = np.sqrt(1 - 0.999**101) / (1 - 0.99**101)
  for arm in ("octl", "octl-first", "octl-second", "octl-none", "equal-rate", "octl-rebuilt"):
    np.testing.assert_allclose(steps[arm]["body"], late, rtol=1e-3)
  for arm in ("fine-tune", "first-layers", "l2-sp", "mmtl"):
    np.testing.assert_allclose(steps[arm]["body"], 1, rtol=1e-4)


def test_rows_of_people_have_the_area_as_their_mean(downloads):
  study, source = study_of(downloads, classes="shared")
  pair = study.setting.pairs[0]
  scored = FindingScorer(study.setting)(source, pair.target_test, {})
  (films,) = pair.target_test
  logits = jax.vmap(lambda x: study._apply(source.network, x))(films.image)
  column = study.setting.class_names.index("Edema")
  want = auroc(logits[:, column], films.label[:, column])
  np.testing.assert_allclose(np.mean([row["auroc/Edema"] for row in scored.rows]), want, rtol=1e-5)
  assert all(np.isnan(r["auroc/Pneumonia"]) for r in scored.rows)
