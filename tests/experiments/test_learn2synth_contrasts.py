"""Learn2Synth on other contrasts: what the views show, who is tested, and that every arm trains."""

import json

import jax
import numpy as np
import pytest

from experiments import learn2synth
from experiments.learn2synth import contrast_people, contrast_views, contrasts
from medjax import check, cli, study
from medjax.data.formats.nifti import write_nifti
from medjax.types import Batch
from tests.data.folders import write_json

CLASSES = ("background", "csf", "white_matter")
PEOPLE = tuple(f"person{i}_scan{j}" for i in range(6) for j in range(2))
SETTINGS = {"shape": (8, 8), "spacing": (2.0, 2.0, 2.0), "subject_pattern": r"(person\d+)_"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  root = tmp_path_factory.mktemp("heads")
  write_json(root, channels=("T1",), labels={name: i for i, name in enumerate(CLASSES)})
  random = np.random.default_rng(0)
  for kind in ("imagesTr", "labelsTr"):
    (root / kind).mkdir()
  for name in PEOPLE:
    image = random.random((8, 9, 2)).astype(np.float32)
    label = random.integers(3, size=image.shape)
    write_nifti(root / "imagesTr" / f"{name}_0000.nii.gz", image, np.diag([2, 2, 2, 1]))
    write_nifti(root / "labelsTr" / f"{name}.nii.gz", label, np.diag([2, 2, 2, 1]))
  return root


@pytest.fixture(scope="module")
def people(folder):
  return contrast_people.load(folder, num_people=0, seed=0, **SETTINGS)


def halves(num: int) -> Batch:
  """Slices of which one half is fluid and the other white matter."""
  label = np.zeros((num, 24, 24), np.int32)
  label[:, 2:12, 2:22], label[:, 12:22, 2:22] = 1, 2
  order = np.arange(num, dtype=np.int32)
  image = np.ones((*label.shape, 1), np.float32)
  return Batch(image, label, order, order, order, np.ones(num, np.float32))


@pytest.mark.parametrize("angle", [3, 30])
def test_a_contrast_orders_tissues_as_the_signal_equation_does(angle):
  # Spoiled gradient echo at 1.5 T: T1 of 4300 and 646 ms, T2* of 1000 and 66 ms, TR 20, TE 5 ms.
  def signal(density, t1, t2_star):
    e1, alpha = np.exp(-20 / t1), np.deg2rad(angle)
    return density * np.sin(alpha) * (1 - e1) / (1 - np.cos(alpha) * e1) * np.exp(-5 / t2_star)

  expected = signal(1.0, 4300.0, 1000.0) > signal(0.7, 646.0, 66.0)
  view = contrast_views.views(CLASSES, (2.0, 2.0))[f"flip {angle}"]
  cases = contrast_views.shown(view, jax.random.key(0), halves(1), np.zeros(1, int))
  fluid, white = (cases.image[..., 0][cases.label == k].mean() for k in (1, 2))
  assert (fluid > white) == expected
  assert expected == (angle == 3)


def test_slices_of_a_scan_move_alike_and_have_noise_of_their_own():
  view = contrast_views.views(CLASSES, (2.0, 2.0))["noisy"]
  cases = contrast_views.shown(view, jax.random.key(0), halves(3), np.array([0, 0, 1]))
  np.testing.assert_array_equal(cases.label[0], cases.label[1])
  assert (cases.label[0] != cases.label[2]).any()
  assert np.abs(cases.image[0] - cases.image[1]).mean() > 0.02


@pytest.mark.slow
def test_people_stand_in_one_part_and_every_view_has_the_classes_alone(people):
  assert sum(map(len, people.people.values())) == 6
  study.splits_of([study.Turn("", None, (), {}, people.people)], 0)
  roles = ("in domain", "flip 3", "flip 5", "flip 20", "flip 30", "noisy", "motion")
  assert tuple(people.test) == roles
  for cases in people.test.values():
    assert cases.label.max() < 3 and np.isfinite(cases.image).all()
  assert people.maps.label.max() >= 3  # clusters of unlabelled tissue, for synthesis alone


@pytest.mark.slow
def test_every_arm_makes_an_update_of_its_own(people):
  config = contrasts.Config(
    arms=tuple(contrasts.ARMS), shape=(8, 8), widths=(2, 4), batch_size=2, num_steps=4
  )
  task = contrasts.Task(config, people)
  params = task.training.first_params(jax.random.key(0), (8, 8))
  counts = {}
  for name, arm in contrasts.ARMS.items():
    recipe = arm.make(task)
    batch = recipe.stream(0)(0)
    counts[name] = study.flops(recipe.step, params, batch)
  # A hypergradient costs about two plain updates more; augmentation is more than none.
  assert 2.5 < counts["learn2synth"] / counts["naive"] < 4.5
  assert counts["augmented"] > counts["supervised"] == counts["fine-tuned"]
  assert contrasts.ARMS["fine-tuned"].make(task).num_steps == 1


@pytest.mark.slow
def test_a_run_answers_its_questions(folder, tmp_path):
  flags = "--shape 8 8 --widths 2 4 --num_steps 4 --batch_size 2 --eval_every 2 --log_every 2"
  cli.run(
    learn2synth.PRESETS,
    learn2synth.build,
    learn2synth.__doc__,
    args=(
      "cross_contrast",
      *flags.split(),
      "--data",
      str(folder),
      "--workdir",
      str(tmp_path / "r"),
    ),
  )
  results = json.loads((tmp_path / "r" / "results.json").read_text())
  assert set(results["arms"]) == {"label vote", *contrasts.ARMS}
  assert set(results["learned"]) == {"learn2synth", "ranged", "modulated", "network"}
  assert not results["not_asked"]


def test_bad_input_is_refused(folder, tmp_path):
  with pytest.raises(check.InputError, match="20 people to train on"):
    contrast_people.load(folder, num_people=20, seed=0, **SETTINGS)
  with pytest.raises(check.InputError, match="shape of two multiples of 4"):
    contrasts.Config(shape=(90, 104))
  with pytest.raises(check.InputError, match="naive before fine-tuned"):
    contrasts.Config(arms=("fine-tuned", "naive"))
  content = json.loads((folder / "dataset.json").read_text())
  content["labels"] = {"background": 0, "organ": 1, "white_matter": 2}
  other = tmp_path / "other"
  other.mkdir()
  for kind in ("imagesTr", "labelsTr"):
    (other / kind).symlink_to(folder / kind)
  (other / "dataset.json").write_text(json.dumps(content))
  with pytest.raises(check.InputError, match="signal is computed"):
    contrast_people.load(other, num_people=0, seed=0, **SETTINGS)
