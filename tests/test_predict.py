"""Files through a network and back: geometry to the bit, values, and what is refused."""

import dataclasses
import json

import jax.numpy as jnp
import nibabel
import numpy as np
import pytest
from PIL import Image

from medjax import loading, predict
from medjax.check import InputError
from medjax.data import Preprocessing, check_cases, find_cases
from medjax.inference import Member
from medjax.types import Model

VALUES = (0, 3, 7)


def threshold_logits(params, image, **options):
  """Class k where the first channel is about k: reads the intensity, so its input is its answer."""
  del options
  distance = image[..., :1] - jnp.arange(3.0).reshape((1,) * (image.ndim - 1) + (3,))
  return params - 50 * distance**2, {}


MODEL = Model(lambda key, image: (jnp.zeros(()), {}), threshold_logits)
PREPROCESS = Preprocessing(
  channel_names=("T1",),
  class_names=("background", "organ", "lesion"),
  label_values=VALUES,
  spacing=None,
  normalisation=({"name": "none"},),
  patch=(8, 6, 5),
)


def member(**changes):
  return Member(MODEL, jnp.zeros(()), dataclasses.replace(PREPROCESS, **changes), "reader")


def rotation(degrees):
  a = np.radians(degrees)
  return np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])


def affine(matrix, offset=(-3.5, 7.25, 11.0)):
  out = np.eye(4)
  out[:3, :3], out[:3, 3] = matrix, offset
  return out


GEOMETRIES = {
  "RAS": affine(np.eye(3)),
  "LPS": affine(np.diag([-1.0, -1.0, 1.0])),
  "permuted": affine(np.array([[0, 0, 1.0], [-1, 0, 0], [0, 1, 0]])),
  "oblique": affine(rotation(20) @ np.diag([-1.0, 1.0, 1.0])),
  "anisotropic": affine(rotation(-10) @ np.diag([0.8, -0.9, 4.0])),
}


def write(path, array, matrix, *, sform=2, qform=1, units=("mm", "sec")):
  image = nibabel.Nifti1Image(array, matrix)
  image.set_sform(matrix, sform)
  image.set_qform(matrix, qform)
  image.header.set_xyzt_units(*units)
  path.parent.mkdir(parents=True, exist_ok=True)
  nibabel.save(image, path)
  return path


def classes(*shape, seed=0):
  return np.random.default_rng(seed).integers(0, 3, shape)


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("codes", [(2, 1), (1, 0), (0, 3), (4, 2)])
def test_a_network_that_reads_its_answer_writes_it_on_the_grid_of_the_file(tmp_path, name, codes):
  truth = classes(11, 7, 6)
  path = tmp_path / "in" / "case_0000.nii.gz"
  write(path, truth.astype(np.float32), GEOMETRIES[name], sform=codes[0], qform=codes[1])
  (out,) = predict.predict([member()], path, tmp_path / "out", progress=False)
  got, given = nibabel.load(out), nibabel.load(path)
  np.testing.assert_array_equal(np.asarray(got.dataobj), np.asarray(VALUES)[truth])
  np.testing.assert_array_equal(got.affine, given.affine)
  for form in ("sform", "qform"):
    want, code = getattr(given, f"get_{form}")(coded=True)
    matrix, got_code = getattr(got, f"get_{form}")(coded=True)
    assert got_code == code
    if code:
      np.testing.assert_array_equal(matrix, want)
  np.testing.assert_array_equal(got.header.get_zooms(), given.header.get_zooms())
  assert got.header.get_xyzt_units() == given.header.get_xyzt_units()
  assert got.get_data_dtype() == np.uint8


@pytest.mark.parametrize("name", ["LPS", "anisotropic"])
def test_resampling_there_and_back_keeps_shape_affine_and_smooth_objects(tmp_path, name):
  grid = np.stack(np.meshgrid(*map(np.arange, (30, 28, 12)), indexing="ij"), -1)
  ball = ((grid - (15, 14, 6)) / (10, 9, 4)) ** 2
  truth = (ball.sum(-1) < 1).astype(np.float32)
  path = write(tmp_path / "in" / "ball.nii.gz", truth, GEOMETRIES[name])
  reader = member(spacing=(1.3, 1.1, 1.7))
  (out,) = predict.predict([reader], path, tmp_path / "out", progress=False)
  got = nibabel.load(out)
  np.testing.assert_array_equal(got.affine, nibabel.load(path).affine)
  label = np.asarray(got.dataobj) > 0
  assert label.shape == truth.shape
  assert 2 * (label & (truth > 0)).sum() / (label.sum() + truth.sum()) > 0.95


def test_probabilities_are_those_that_were_compared(tmp_path):
  truth = classes(9, 7, 6)
  path = write(
    tmp_path / "in" / "case_0000.nii.gz", truth.astype(np.float32), GEOMETRIES["oblique"]
  )
  (out,) = predict.predict([member()], path, tmp_path / "out", probabilities=True, progress=False)
  got = nibabel.load(tmp_path / "out" / "probabilities" / "case.nii.gz")
  values = np.asarray(got.dataobj)
  np.testing.assert_allclose(values.sum(-1), 1, atol=1e-6)
  labels = np.asarray(nibabel.load(out).dataobj)
  np.testing.assert_array_equal(np.asarray(VALUES)[values.argmax(-1)], labels)
  np.testing.assert_array_equal(got.affine, nibabel.load(path).affine)


def test_a_2d_network_labels_volumes_slice_by_slice(tmp_path):
  truth = classes(9, 7, 4)
  path = write(tmp_path / "in" / "case.nii.gz", truth.astype(np.float32), GEOMETRIES["LPS"])
  (out,) = predict.predict([member(patch=(6, 6), axis=2)], path, tmp_path / "out", progress=False)
  np.testing.assert_array_equal(np.asarray(nibabel.load(out).dataobj), np.asarray(VALUES)[truth])


def test_pictures_give_pictures(tmp_path):
  truth = classes(9, 7)
  (tmp_path / "in").mkdir()
  Image.fromarray(truth.astype(np.uint8)).save(tmp_path / "in" / "cell_0000.png")
  reader = member(file_ending=".png", patch=(6, 6))
  (out,) = predict.predict(
    [reader], tmp_path / "in", tmp_path / "out", probabilities=True, progress=False
  )
  np.testing.assert_array_equal(np.asarray(Image.open(out)), np.asarray(VALUES)[truth])
  saved = np.load(tmp_path / "out" / "probabilities" / "cell.npz")["probabilities"]
  np.testing.assert_array_equal(saved.argmax(-1), truth)


def two_channels(folder, names=("a", "b")):
  for name in names:
    for channel in range(2):
      array = classes(8, 6, 5, seed=channel).astype(np.float32)
      write(folder / f"{name}_{channel:04d}.nii.gz", array, np.eye(4))
  return folder


def test_cases_are_found_by_file_and_by_folder(tmp_path):
  both = dataclasses.replace(
    PREPROCESS, channel_names=("T1", "T2"), normalisation=({"name": "none"},) * 2
  )
  folder = two_channels(tmp_path / "in")
  assert [case.name for case in find_cases(folder, both)] == ["a", "b"]
  (case,) = find_cases(folder / "b_0001.nii.gz", both)
  assert [path.name for path in case.files] == ["b_0000.nii.gz", "b_0001.nii.gz"]
  four = write(tmp_path / "four" / "c.nii.gz", np.zeros((8, 6, 5, 2), np.float32), np.eye(4))
  (out,) = predict.predict(
    [member(channel_names=("T1", "T2"), normalisation=({"name": "none"},) * 2)],
    four,
    tmp_path / "out",
    progress=False,
  )
  assert nibabel.load(out).shape == (8, 6, 5)


@pytest.mark.parametrize(
  ("break_it", "message"),
  [
    (lambda folder: (folder / "a_0001.nii.gz").unlink(), r"2 channels \(T1, T2\) in a, got 1"),
    (lambda folder: write(folder / "a_0002.nii.gz", np.zeros((8, 6, 5)), np.eye(4)), "of case a"),
    (lambda folder: write(folder / "a_0001.nii.gz", np.zeros((8, 6, 4)), np.eye(4)), "one grid"),
    (
      lambda folder: write(folder / "a_0001.nii.gz", np.zeros((8, 6, 5)), 2 * np.eye(4)),
      "mm apart",
    ),
    (lambda folder: (folder / "a_0000.nii.gz").write_bytes(b"x"), "readable NIfTI"),
    (
      lambda folder: (folder / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "T2", "1": "T1"}})
      ),
      r"\['T2', 'T1'\]",
    ),
  ],
)
def test_channels_that_are_not_those_of_training_are_refused(tmp_path, break_it, message):
  folder = two_channels(tmp_path / "in")
  break_it(folder)
  reader = member(channel_names=("T1", "T2"), normalisation=({"name": "none"},) * 2)
  with pytest.raises(InputError, match=message):
    predict.predict([reader], folder, tmp_path / "out", progress=False)
  assert not list((tmp_path / "out").glob("a*"))


def test_one_channel_in_a_file_where_two_were_trained(tmp_path):
  path = write(tmp_path / "in" / "a.nii.gz", np.zeros((8, 6, 5)), np.eye(4))
  reader = member(channel_names=("T1", "T2"), normalisation=({"name": "none"},) * 2)
  with pytest.raises(InputError, match=r"2 channels \(T1, T2\) in a, got 1"):
    predict.predict([reader], path, tmp_path / "out", progress=False)


def test_finished_cases_are_kept_and_other_settings_refused(tmp_path):
  path = write(tmp_path / "in" / "a.nii.gz", classes(8, 6, 5).astype(np.float32), np.eye(4))
  out = tmp_path / "out"
  (label,) = predict.predict([member()], path, out, progress=False)
  first = label.stat().st_mtime_ns
  predict.predict([member()], path, out, progress=False)
  assert label.stat().st_mtime_ns == first
  with pytest.raises(InputError, match="--overwrite"):
    predict.predict([member()], path, out, overlap=0.25, progress=False)
  retrained = member()._replace(params=jnp.ones(()))  # another training of the same name
  with pytest.raises(InputError, match="networks"):
    predict.predict([retrained], path, out, progress=False)
  predict.predict([retrained], path, out, overwrite=True, progress=False)
  assert label.stat().st_mtime_ns > first
  with pytest.raises(InputError, match="folder of its own"):
    predict.predict([member()], path, path.parent, progress=False)


def test_another_image_of_the_same_name_is_predicted_anew(tmp_path):
  first, second = classes(8, 6, 5), classes(8, 6, 5, seed=1)
  for truth in (first, second):
    path = write(tmp_path / "in" / "a.nii.gz", truth.astype(np.float32), np.eye(4))
    (out,) = predict.predict([member()], path, tmp_path / "out", progress=False)
    np.testing.assert_array_equal(np.asarray(nibabel.load(out).dataobj), np.asarray(VALUES)[truth])


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_that_is_not_ours_is_never_touched(tmp_path, overwrite):
  path = write(tmp_path / "in" / "a_0000.nii.gz", classes(8, 6, 5).astype(np.float32), np.eye(4))
  truth = write(tmp_path / "labelsTr" / "a.nii.gz", np.ones((8, 6, 5), np.uint8), np.eye(4))
  before = truth.read_bytes()
  with pytest.raises(InputError, match="did not write"):
    predict.predict([member()], path, tmp_path / "labelsTr", overwrite=overwrite, progress=False)
  assert truth.read_bytes() == before


def test_overwriting_removes_the_old_maps_before_the_first_new_one(tmp_path):
  for name in "ab":
    write(tmp_path / "in" / f"{name}.nii.gz", classes(8, 6, 5).astype(np.float32), np.eye(4))
  out = tmp_path / "out"
  predict.predict([member()], tmp_path / "in", out, progress=False)
  one = tmp_path / "in" / "a.nii.gz"
  predict.predict([member()], one, out, overlap=0.25, overwrite=True, progress=False)
  assert sorted(p.name for p in out.glob("*.nii.gz")) == ["a.nii.gz"]


def test_networks_of_equal_names_are_told_apart(tmp_path):
  """Two runs hold networks of the same names; one run alone is another prediction."""
  path = write(tmp_path / "in" / "a.nii.gz", classes(8, 6, 5).astype(np.float32), np.eye(4))
  pair = [member(), member()._replace(params=jnp.ones(()))]
  predict.predict(pair, path, tmp_path / "out", progress=False)
  with pytest.raises(InputError, match="networks"):
    predict.predict(pair[1:], path, tmp_path / "out", progress=False)


def agree(out):
  values = np.asarray(nibabel.load(out / "probabilities" / "a.nii.gz").dataobj)
  labels = np.asarray(nibabel.load(out / "a.nii.gz").dataobj)
  return (np.asarray(VALUES)[values.argmax(-1)] == labels).all()


@pytest.mark.parametrize("changed", ["the input", "the settings"])
def test_probabilities_never_outlive_their_label_map(tmp_path, changed):
  path, out = tmp_path / "in" / "a.nii.gz", tmp_path / "out"
  write(path, classes(8, 6, 5).astype(np.float32), np.eye(4))
  predict.predict([member()], path, out, probabilities=True, progress=False)
  options = {"overlap": 0.25, "overwrite": True} if changed == "the settings" else {}
  write(path, classes(8, 6, 5, seed=1).astype(np.float32), np.eye(4))
  predict.predict([member()], path, out, progress=False, **options)
  assert not (out / "probabilities" / "a.nii.gz").exists()
  options.pop("overwrite", None)
  predict.predict([member()], path, out, probabilities=True, progress=False, **options)
  assert agree(out)


@pytest.mark.parametrize("killed_at", ["_write_label", "_write_probabilities", "add"])
def test_a_prediction_killed_anywhere_goes_on(tmp_path, monkeypatch, killed_at):
  path, out = tmp_path / "in" / "a.nii.gz", tmp_path / "out"
  for seed in range(2):  # on an empty folder, then over the map of another input
    truth = classes(8, 6, 5, seed=seed)
    write(path, truth.astype(np.float32), np.eye(4))
    owner = predict._Record if killed_at == "add" else predict
    real = getattr(owner, killed_at)

    def dies(*args, real=real):
      real(*args)
      if args[-1] != []:  # `begin` adds an empty list
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
      patched.setattr(owner, killed_at, dies)
      predict.predict([member()], path, out, probabilities=True, progress=False)
    predict.predict([member()], path, out, probabilities=True, progress=False)
    got = np.asarray(nibabel.load(out / "a.nii.gz").dataobj)
    np.testing.assert_array_equal(got, np.asarray(VALUES)[truth])
    assert agree(out)


def test_members_may_differ_in_their_normalisation(tmp_path):
  """Folds trained apart have their own CT statistics; the mean is that of both predictions."""
  scaled = {"name": "ct", "low": -5.0, "high": 5.0, "mean": 0.0, "std": 2.0}
  pair = [member(), member(normalisation=(scaled,))]
  truth = classes(8, 6, 5).astype(np.float32)
  path = write(tmp_path / "in" / "a.nii.gz", truth, np.eye(4))
  values = []
  for n, members in enumerate([pair[:1], pair[1:], pair]):
    out = tmp_path / f"out{n}"
    predict.predict(members, path, out, probabilities=True, progress=False)
    values.append(nibabel.load(out / "probabilities" / "a.nii.gz").get_fdata())
  np.testing.assert_allclose(values[2], (values[0] + values[1]) / 2, atol=1e-6)


def test_the_command_line(tmp_path, capsys):
  """Trains nothing: saves a network of medjax.nets and predicts with all its names."""
  import jax

  from medjax import cli, nets

  network = nets.UNet(num_outputs=3, widths=(2, 2))
  params, _ = nets.from_linen(network).init(jax.random.key(0), jnp.zeros((8, 6, 5, 1)))
  for seed in range(2):
    path = tmp_path / "run" / "weights" / f"arm-{seed}.safetensors"
    loading.save_member(path, params, PREPROCESS, network=network)
  write(tmp_path / "in" / "a_0000.nii.gz", np.zeros((9, 6, 5)), np.eye(4))

  def call(*args):
    cli.command(predict.Config, predict.run, predict.__doc__, args=args)

  files = ("--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"))
  call("--run", str(tmp_path / "run"), *files, "--mirror", "--overlap", "0.2")
  assert "1 label maps" in capsys.readouterr().out
  settings = json.loads((tmp_path / "out" / "prediction.json").read_text())
  settings = settings["settings"]
  assert [name for name, _ in settings["networks"]] == ["arm-0", "arm-1"]
  assert settings["labels"] == {"background": 0, "organ": 3, "lesion": 7}
  with pytest.raises(SystemExit) as stop:
    call("--run", str(tmp_path / "nowhere"), *files)
  assert stop.value.code == 2
  error = capsys.readouterr().err
  assert error.startswith("error: expected trained networks")
  assert error.count("\n") == 1


def test_one_bad_file_does_not_end_a_batch(tmp_path):
  for name in "abc":
    truth = classes(8, 6, 5).astype(np.float32)
    write(tmp_path / "in" / f"{name}.nii.gz", truth, np.eye(4))
  bad = tmp_path / "in" / "b.nii.gz"
  predict.predict([member()], tmp_path / "in", tmp_path / "out", progress=False)
  whole = bad.read_bytes()
  bad.write_bytes(whole[:-20])
  out = tmp_path / "out"
  (out / "c.nii.gz").unlink()
  with pytest.raises(InputError, match=r"got 1 that cannot: b \(expected a readable NIfTI .*2 are"):
    predict.predict([member()], tmp_path / "in", out, progress=False)
  assert sorted(p.name for p in out.glob("*.nii.gz")) == ["a.nii.gz", "c.nii.gz"]  # no stale map
  bad.write_bytes(whole)
  assert len(predict.predict([member()], tmp_path / "in", out, progress=False)) == 3
  assert (out / "b.nii.gz").exists()


def test_broken_files_are_found_without_a_network(tmp_path):
  for name in "abc":
    write(tmp_path / "in" / f"{name}.nii.gz", classes(8, 6, 5).astype(np.float32), np.eye(4))
  found = find_cases(tmp_path / "in", PREPROCESS)
  check_cases(found, PREPROCESS)
  for name in "ac":
    path = tmp_path / "in" / f"{name}.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(InputError, match=r"got 2 that cannot: a \(.*a.nii.gz.*; c \(.*c.nii.gz"):
    check_cases(found, PREPROCESS)


def test_small_components_are_removed_on_request(tmp_path):
  truth = np.zeros((12, 6, 5), np.float32)
  truth[:6] = 1
  truth[9, 2, 2] = 1
  path = write(tmp_path / "in" / "a.nii.gz", truth, np.eye(4))
  for fraction, count in ((0.0, 181), (0.1, 180)):
    out = tmp_path / f"out{fraction}"
    (label,) = predict.predict([member()], path, out, smallest_component=fraction, progress=False)
    assert np.count_nonzero(np.asarray(nibabel.load(label).dataobj) == 3) == count
  with pytest.raises(InputError, match="smallest_component"):
    predict.predict([member()], path, tmp_path / "out0.1", progress=False)


def test_other_batch_statistics_are_another_network(tmp_path):
  path = write(tmp_path / "in" / "a.nii.gz", classes(8, 6, 5).astype(np.float32), np.eye(4))
  first = member()._replace(model_state={"mean": jnp.zeros(3)})
  predict.predict([first], path, tmp_path / "out", progress=False)
  second = first._replace(model_state={"mean": jnp.ones(3)})
  with pytest.raises(InputError, match="networks"):
    predict.predict([second], path, tmp_path / "out", progress=False)


def two_arms(run, data=None):
  import jax

  from medjax import nets

  network = nets.UNet(num_outputs=3, widths=(2, 2))
  params, _ = nets.from_linen(network).init(jax.random.key(0), jnp.zeros((8, 6, 5, 1)))
  for name in ("augmented-fold0-0", "augmented-fold1-0", "plain-fold0-0"):
    path = run / "weights" / f"{name}.safetensors"
    loading.save_member(path, params, PREPROCESS, network=network)
  (run / "config.json").write_text(json.dumps({"data": data or {}}))
  return run


def names_used(out):
  return [
    name for name, _ in json.loads((out / "prediction.json").read_text())["settings"]["networks"]
  ]


def test_arms_of_a_comparison_are_never_averaged(tmp_path):
  run = two_arms(tmp_path / "run")
  path = write(tmp_path / "in" / "a.nii.gz", np.zeros((9, 6, 5)), np.eye(4))

  def call(**options):
    predict.run(predict.Config((run,), path, tmp_path / "out", **options))

  with pytest.raises(InputError, match="one arm in .*run, got augmented, plain; pass --arm"):
    call()
  call(arm="augmented")
  assert names_used(tmp_path / "out") == ["augmented-fold0-0", "augmented-fold1-0"]
  call(members=("augmented-fold0-0", "plain-fold0-0"), overwrite=True)  # asked for by name
  with pytest.raises(InputError, match="arm to be one of"):
    call(arm="other")


def test_cases_of_the_training_are_named(tmp_path, capsys):
  from medjax.data import manifest

  for name, seed in (("a", 0), ("new", 1)):
    array = classes(9, 6, 5, seed=seed).astype(np.float32)
    write(tmp_path / "in" / f"{name}.nii.gz", array, np.eye(4))
  digest = manifest.file_digest(tmp_path / "in" / "a.nii.gz")
  run = two_arms(tmp_path / "run", {"sites": {"x": {"files": {"imagesTr/p_0000.nii.gz": digest}}}})
  predict.run(predict.Config((run,), tmp_path / "in", tmp_path / "out", arm="plain"))
  assert "1 of these cases belong to the data set of the training (a)" in capsys.readouterr().out
  assert json.loads((tmp_path / "out" / "prediction.json").read_text())["of_the_training"] == ["a"]
