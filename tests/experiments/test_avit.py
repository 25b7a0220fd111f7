"""AViT: what the prompt network adds, and which leaves a rule trains."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import avit
from medjax import adapt, nets, tree
from medjax.nets.avit import AViT


def small(has_prompt):
  encoder = nets.ViT(patch=4, width=8, depth=1, num_heads=2, grid=(2, 2), adapter_width=2)
  return AViT(encoder, width=8, rates=(1,), has_prompt=has_prompt)


def test_without_a_prompt_its_network_changes_nothing_and_with_it_does():
  image = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8, 1)), jnp.float32)
  shapes = jax.eval_shape(small(True).init, jax.random.key(0), image)
  draw = np.random.default_rng(1).normal
  params = jax.tree.map(lambda x: jnp.asarray(draw(size=x.shape), jnp.float32), shapes)
  other = {
    "params": {
      **params["params"],
      "prompt": jax.tree.map(lambda x: 2 * x + 1, params["params"]["prompt"]),
    }
  }
  for has_prompt in (False, True):
    apply = jax.jit(small(has_prompt).apply)
    same = np.array_equal(apply(params, image), apply(other, image))
    assert same != has_prompt


def test_rules_of_the_arms_hold_what_their_names_say():
  shapes = jax.eval_shape(small(True).init, jax.random.key(0), jnp.zeros((8, 8, 1)))["params"]
  held = {
    arm: set(tree.named_leaves(tree.split(shapes, adapt.under(*row.make().trains))[0]))
    for arm, row in avit.ARMS.items()
  }
  every = set(tree.named_leaves(shapes))
  adapters = {name for name in every if "adapter" in name}
  prompts = {name for name in every if name.startswith("prompt/")}
  assert adapters and prompts
  assert held["all"] == held["scratch"] == every - adapters - prompts
  assert adapters < held["adapters"] and not held["adapters"] & prompts
  assert held["both"] == held["adapters"] | held["prompt"] and prompts < held["prompt"]
  assert held["private-both"] == held["both"] and held["private-all"] == held["all"]
