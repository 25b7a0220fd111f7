"""AViT: what the prompt network adds, and which leaves a rule trains."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments import adapted_lesions, avit, prompted_sets
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


def test_folds_test_every_person_once_and_train_on_all_others():
  image, mask = np.zeros((9, 4, 4, 1), np.float32), np.zeros((9, 4, 4), bool)
  subjects = tuple(f"p{i // 2}" for i in range(9))  # five people, four of them with two pictures
  sets = prompted_sets.Pictures(image, mask, np.zeros(9, np.int32), ("",), subjects, {}, "")
  config = avit.Config(num_folds=5)
  turns = adapted_lesions.turns_of(config, sets, 0)
  assert sorted(i for turn in turns for i in turn.test["test"]["row"]) == list(range(9))
  for turn in turns:
    rows = [set(part["row"].tolist()) for part in (turn.train, turn.test["test"])]
    assert rows[0] | rows[1] == set(range(9)) and not rows[0] & rows[1]
    assert not set(turn.people["train"]) & set(turn.people["test"])
  (one,) = adapted_lesions.turns_of(avit.Config(train_fraction=0.4), sets, 0)
  assert len(one.people["train"]) == 2 and len(one.people["test"]) == 3


def test_the_start_of_lite0_hands_on_what_the_whole_network_does_there():
  image = jnp.asarray(np.random.default_rng(0).random((16, 16, 3)), jnp.float32)
  whole, start = nets.EfficientNetLite0(num_outputs=0), nets.LiteStart()
  shapes = jax.eval_shape(whole.init, jax.random.key(0), image)["params"]
  draw = np.random.default_rng(1).normal
  params = jax.tree.map(lambda x: jnp.asarray(0.3 * draw(size=x.shape), jnp.float32), shapes)
  own = {name: params[name] for name in nets.LiteStart.PARTS}
  found = jax.jit(start.apply)({"params": own}, image)
  wanted = jax.jit(nets.features(whole, "block2"))(params, image)
  assert found.shape == (4, 4, 24)
  np.testing.assert_allclose(found, np.asarray(wanted).reshape(4, 4, 24), rtol=1e-4, atol=1e-5)
