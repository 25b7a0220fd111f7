"""What the check prints, asks for and says where it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import nets
from medjax.check import InputError
from medjax.privacy import check_sensitivity
from tests.privacy.sensitivity import test_accepted, test_refused
from tests.privacy.sensitivity.releases import (
  BATCH,
  KEY,
  PADDED,
  PARAMS,
  C,
  norms,
  scaled,
  total,
)


def test_a_coupled_vector_is_refused_unless_asked_for():
  with pytest.raises(InputError, match="depend on a sum"):
    check_sensitivity(test_accepted.repaired_cosines, PADDED, PARAMS)


def test_a_network_by_hand_has_one_joint_bound():
  model = nets.UNet(2, widths=(2, 4), norm="group", downsample="conv", upsample="transpose")
  image = jax.ShapeDtypeStruct((3, 4, 4, 1), jnp.float32)
  params = jax.eval_shape(lambda: model.init(KEY, jnp.zeros(image.shape[1:])))

  def release(images, params):
    found = jax.vmap(jax.grad(lambda p, x: (model.apply(p, x) ** 2).sum()), (None, 0))(
      params, images
    )
    return total(scaled(found, jnp.minimum(1, C / norms(found))))

  assert check_sensitivity(release, image, params).l2 == pytest.approx(2 * C)


def test_it_prints_the_steps_of_the_proof():
  text = str(check_sensitivity(test_accepted.clipped_sum, BATCH, PARAMS))
  assert text.startswith("replace one example: L2 at most 3\n")
  assert "clipped_sum, at most 1.5: jit -> f32[5] at" in text


def test_a_batch_of_one_example_or_uneven_leaves_is_refused():
  for batch in (np.ones((1, 3)), {"a": np.ones((2, 3)), "b": np.ones((3, 3))}):
    with pytest.raises(InputError, match="two or more examples"):
      check_sensitivity(lambda batch: 0.0, batch)


def test_the_error_names_output_operation_line_and_remedy():
  with pytest.raises(InputError) as error:
    check_sensitivity(test_refused.mean_over_kept, PADDED, PARAMS)
  for part in ("['b']", "div -> f32[5]", "test_refused.py:", "mean_over_kept", "public const"):
    assert part in str(error.value)
