"""Predictors, ensembles and exported networks against the networks they are made of."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import inference, loading, nets, train
from medjax.check import InputError
from medjax.data import Preprocessing
from medjax.inference import Ensemble, Member, Predictor
from medjax.types import Model

PREPROCESS = Preprocessing(
  channel_names=("T1",),
  class_names=("background", "organ"),
  label_values=(0, 1),
  spacing=None,
  normalisation=({"name": "none"},),
  patch=(6, 6, 6),
)


def logits_of(params, image, **options):
  """Pointwise, so that windows and symmetries commute with it."""
  del options
  return jnp.concatenate([image * params, -image * params], axis=-1), {}


POINTWISE = Model(lambda key, image: (jnp.ones(()), {}), logits_of)


def image(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("symmetries", [(inference.IDENTITY,), inference.mirrorings(3)])
def test_an_equivariant_network_does_not_mind_windows_and_symmetries(symmetries):
  x = image(9, 7, 5, 1)
  predictor = Predictor(POINTWISE, (6, 6, 6), symmetries=symmetries, batch_size=2)
  want = jax.nn.softmax(logits_of(2.0, x)[0])
  np.testing.assert_allclose(predictor(jnp.float32(2), x), want, rtol=1e-5, atol=1e-6)


def test_a_2d_network_goes_slice_by_slice():
  x = image(9, 7, 5, 1)
  predictor = Predictor(POINTWISE, (6, 6), axis=1)
  want = jax.nn.softmax(logits_of(2.0, x)[0])
  np.testing.assert_allclose(predictor(jnp.float32(2), x), want, rtol=1e-5, atol=1e-6)


def test_an_ensemble_is_the_mean_of_its_members():
  x = image(6, 7, 8, 1)
  members = [Member(POINTWISE, jnp.float32(p), PREPROCESS, str(p)) for p in (0.5, 1.0, 3.0)]
  alone = [Ensemble([member])(x) for member in members]
  np.testing.assert_allclose(Ensemble(members)(x), np.mean(alone, axis=0), rtol=1e-6)


def test_members_of_one_model_compile_once():
  traces = []

  def apply(params, image, **options):
    traces.append(image.shape)
    return logits_of(params, image)

  model = Model(POINTWISE.init, apply)
  members = [Member(model, jnp.float32(p), PREPROCESS, "") for p in range(3)]
  ensemble = Ensemble(members)
  for shape in [(6, 6, 6, 1), (9, 7, 12, 1)]:
    ensemble(image(*shape))
  assert traces == [(6, 6, 6, 1)]


def test_members_that_saw_other_images_are_refused():
  other = dataclasses.replace(PREPROCESS, spacing=(1.0, 1.0, 2.0))
  with pytest.raises(InputError, match="spacing"):
    Ensemble([Member(POINTWISE, 1.0, PREPROCESS, "a"), Member(POINTWISE, 1.0, other, "b")])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
  network = nets.UNet(num_outputs=2, widths=(2, 3))
  params, _ = nets.from_linen(network).init(jax.random.key(0), jnp.zeros((6, 6, 6, 1)))
  run = tmp_path_factory.mktemp("run")
  for name in ("arm-0", "arm-1"):
    path = run / "weights" / f"{name}.safetensors"
    loading.save_member(path, params, PREPROCESS, network=network)
  return run, network, params


def test_a_run_comes_back_as_it_was_saved(saved):
  run, network, params = saved
  model, loaded, preprocess = loading.load_run(run, name="arm-1")
  assert preprocess == PREPROCESS
  jax.tree.map(np.testing.assert_array_equal, loaded, params)
  x = jnp.asarray(image(6, 6, 6, 1))
  want = jax.jit(network.apply)({"params": params}, x)
  np.testing.assert_array_equal(jax.jit(model.apply)(loaded, x)[0], want)
  assert [member.name for member in loading.load_members(run)] == ["arm-0", "arm-1"]


def test_what_cannot_be_loaded_is_said(saved, tmp_path):
  run, _, params = saved
  with pytest.raises(InputError, match="arm-0, arm-1; pass name="):
    loading.load_run(run)
  with pytest.raises(InputError, match="arm-2"):
    loading.load_run(run, name="arm-2")
  with pytest.raises(InputError, match="finished training"):
    loading.load_run(tmp_path)
  path = tmp_path / "own.safetensors"
  loading.save_member(path, {"scale": jnp.float32(2)}, PREPROCESS)
  with pytest.raises(InputError, match="pass the Model"):
    loading.load_run(path)
  own = Model(lambda key, image: ({"scale": jnp.ones(())}, {}), logits_of)
  assert float(loading.load_run(path, model=own)[1]["scale"]) == 2.0
  with pytest.raises(InputError, match="leaf by leaf"):
    loading.load_run(path, model=nets.from_linen(nets.UNet(num_outputs=2)))


def test_batch_statistics_travel_with_the_model(tmp_path):
  def apply(params, image, *, model_state=None, key=None, train=False):
    del key, train
    return image * params + model_state["mean"], model_state

  model = Model(lambda key, image: (jnp.ones(()), {"mean": jnp.zeros(())}), apply)
  path = tmp_path / "a.safetensors"
  state = {"mean": jnp.float32(5)}
  loading.save_member(path, jnp.float32(2), PREPROCESS, model_state=state)
  loaded, params, _ = loading.load_run(path, model=model)
  assert float(loaded.apply(params, jnp.ones(()))[0]) == 7.0


def test_an_exported_network_needs_no_code_and_gives_the_same(saved, tmp_path):
  run, _, _ = saved
  (member, _) = loading.load_members(run)
  path = tmp_path / "network.zip"
  path.write_bytes(inference.export_member(member))
  (loaded,) = loading.load_members(path)
  assert loaded.preprocess == PREPROCESS
  x = image(8, 6, 9, 1)
  want = Ensemble([member], batch_size=3)(x)
  np.testing.assert_allclose(Ensemble([loaded], batch_size=3)(x), want, rtol=1e-5, atol=1e-6)
  with pytest.raises(InputError, match="go on training"):
    loaded.model.apply({}, jnp.asarray(x), train=True)


def test_a_network_for_another_platform_is_refused(saved, tmp_path):
  (member, _) = loading.load_members(saved[0])
  path = tmp_path / "network.zip"
  path.write_bytes(inference.export_member(member, platforms=["tpu"]))
  with pytest.raises(InputError, match="exported for cpu"):
    loading.load_members(path)
  path.write_bytes(b"not a zip")
  with pytest.raises(InputError, match="export it again"):
    loading.load_members(path)


def test_windows_spread_over_devices_are_those_of_one():
  x = image(9, 7, 5, 1)
  one, two = (
    Predictor(POINTWISE, (6, 6, 6), batch_size=2, mesh=mesh) for mesh in (None, train.data_mesh())
  )
  assert len(jax.devices()) == 2  # conftest simulates two
  np.testing.assert_array_equal(one(jnp.float32(2), x), two(jnp.float32(2), x))
  spread = Predictor(POINTWISE, (6, 6, 6), mesh=train.data_mesh())
  np.testing.assert_array_equal(spread(jnp.float32(2), x), two(jnp.float32(2), x))
  with pytest.raises(InputError, match="2 devices divide"):
    Predictor(POINTWISE, (6, 6, 6), batch_size=3, mesh=train.data_mesh())
