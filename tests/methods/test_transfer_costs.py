"""What transfer costs beside fine-tuning, from programs that are never run.

The released network on 256 x 256 pixels in batches of 16 before XLA optimises; with one block a
stage instead of three also compiled, for bytes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import data, losses, methods, nets
from medjax.methods.spottune import blocks, spottune
from medjax.nets.sum_unet import SumUNet

BATCH, SIZE = 16, 256
EXAMPLES = {
  "image": jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, 1), jnp.float32),
  "label": jax.ShapeDtypeStruct((BATCH, SIZE, SIZE), jnp.int32),
}
TX = optax.adam(1e-3, b1=0.99)


@functools.lru_cache
def network(num_blocks):
  model = nets.from_linen(SumUNet(norm="group", num_blocks=num_blocks))
  params, _ = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((SIZE, SIZE, 1)))

  def loss(params, example, key):
    del key
    logits = model.apply(params, example["image"])[0]
    both = jnp.concatenate([jnp.zeros_like(logits), logits], -1)
    return losses.cross_entropy(both, example["label"])

  return loss, params


@functools.lru_cache
def lowered(name, num_blocks=3):
  loss, params = network(num_blocks)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), params)
  match name:
    case "fine-tune":
      step = methods.supervised(loss, TX)
    case "octl":
      step = methods.supervised(loss, TX, opt_state=methods.octl(TX.init(zeros), TX, zeros))
    case "l2-sp":
      step = methods.l2sp(loss, TX)
    case "spottune":
      widths = (16, 32, 64, 64)
      policy = nets.from_linen(nets.ResNet9(num_outputs=len(blocks(params)), widths=widths))
      shapes, _ = jax.eval_shape(policy.init, jax.random.key(0), jnp.zeros((32, 32, 1)))
      start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

      def policy_fn(policy_params, example):
        return policy.apply(policy_params, example["image"][::8, ::8])[0]

      step = spottune(loss, TX, policy_fn, start, optax.adam(1e-2))
  state = jax.eval_shape(step.init, params, jax.random.key(0))
  return jax.jit(step.update).lower(state, EXAMPLES, jax.random.key(0))


@functools.lru_cache
def compiled(name):
  return lowered(name, 1).compile()


def ratio(program, reference, what):
  return program.cost_analysis()[what] / reference.cost_analysis()[what]


def test_the_released_network_has_32_blocks_to_choose_from():
  assert len(blocks(network(3)[1])) == 32


@pytest.mark.slow
def test_octl_is_the_very_program_of_fine_tuning():
  assert lowered("octl").as_text() == lowered("fine-tune").as_text()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("l2-sp", 1.05), ("spottune", 2.2)])
def test_operations_beside_fine_tuning(name, most):
  assert ratio(lowered(name), lowered("fine-tune"), "flops") <= most


@pytest.mark.slow
@pytest.mark.parametrize("what", ["flops", "bytes accessed"])
def test_compiled_l2sp_beside_fine_tuning(what):
  assert ratio(compiled("l2-sp"), compiled("fine-tune"), what) <= 1.05


def test_a_mixed_batch_is_one_gather_of_a_batch():
  """MMTL's stream asks the pool for as many rows as fine-tuning's, whatever the mix."""
  pool = {"x": jnp.arange(40.0)}
  source, target = data.rows(30, 8, 0, name="s"), data.rows(10, 8, 0, name="t", first=30)
  for share in (0, 3, 8):
    mixed = data.mix(source, target, lambda step, share=share: share)
    rows = mixed(5)
    assert rows.shape == (8,) and (rows >= 30).sum() == share
    np.testing.assert_array_equal(data.pooled(pool, mixed)(5)["x"], rows)
