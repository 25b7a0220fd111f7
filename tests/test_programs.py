"""Digests of programs: whatever changes the result changes them, and nothing else does."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import optax

from medjax import methods, programs, train

X = jax.ShapeDtypeStruct((3,), jnp.float32)
KEY = jax.random.key(0)


def looped(table, rate):
  inner = jax.jit(lambda p: p * table.sum() + table[:3].reshape(p.shape))

  def function(p):
    return jax.lax.scan(lambda a, _: (inner(a) * rate, None), p, None, length=3)[0]

  return function


def test_constants_inside_are_part_of_it():
  table = jnp.arange(300.0)
  first = programs.of_function(looped(table, 0.1), X)
  assert first == programs.of_function(looped(jnp.array(table), 0.1), X)
  others = {
    programs.of_function(looped(table.at[200].add(1e-3), 0.1), X),
    programs.of_function(looped(table, 0.1000001), X),
    programs.of_function(looped(table, 0.1), jax.ShapeDtypeStruct((1, 3), X.dtype)),
  }
  assert len(others | {first}) == 4


def test_arrays_are_told_apart_by_name_value_and_type():
  tree = {"a": jnp.zeros(2), "b": jnp.zeros((2, 1))}
  others = [
    {"a": jnp.zeros(2), "c": jnp.zeros((2, 1))},
    {"a": jnp.zeros(2), "b": jnp.zeros((1, 2))},
    {"a": jnp.zeros(2, jnp.bfloat16), "b": jnp.zeros((2, 1))},
    {"a": jnp.array([0.0, 1e-30]), "b": jnp.zeros((2, 1))},
  ]
  found = [programs.of_arrays(t) for t in (tree, *others)]
  assert len(set(found)) == 5 and programs.of_arrays(dict(tree)) == found[0]


def supervised():
  return methods.supervised(lambda p, e, k: jnp.square(e["x"] @ p["w"] - e["y"]), optax.adam(1e-2))


def whole(mesh=None):
  params = {"w": jnp.ones(3)}
  batch = {"x": jnp.ones((4, 3)), "y": jnp.ones(4)}
  if mesh is not None:
    params, batch = train.mesh.replicate(params, mesh), train.mesh.shard_batch(batch, mesh)
  return programs.parts(supervised(), params, batch, KEY)


def test_devices_and_processes_do_not_matter():
  here = whole()
  assert set(here) == {"initial parameters", "first state", "update"}
  assert whole(train.data_mesh(jax.devices()[:2])) == here
  code = "from tests.test_programs import whole; print(sorted(whole().items()))"
  environment = {**os.environ, "PYTHONHASHSEED": "7", "XLA_FLAGS": ""}
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
  )
  assert done.stdout.strip() == str(sorted(here.items()))
