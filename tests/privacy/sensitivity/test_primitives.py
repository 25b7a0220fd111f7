"""The table of primitives against the JAX that is installed: seen here before a user meets it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.interpreters import mlir
from jax.extend.core import primitives as public

from medjax.check import InputError
from medjax.privacy import check_sensitivity
from medjax.privacy.sensitivity import primitives
from medjax.privacy.sensitivity.kinds import Kind

PUBLIC = {p.name for p in vars(public).values() if hasattr(p, "bind") and hasattr(p, "name")}
WITH_PROGRAMS = {p.name for p in mlir._lowerings}  # those that are not listed in public, too

# What JAX has and the check refuses on private values, each for a reason.
REFUSED = {
  "collectives": "all_gather all_to_all axis_index pmax pmin ppermute psum ragged_all_to_all",
  "state and tokens": "after_all create_token empty2 get swap",
  "order of floats as bits": "eq_to le_to lt_to",
  "approximate, or random by the host": "approx_top_k rng_bit_generator rng_uniform",
  "rounds": "reduce_precision",
  "programs that are not followed": "call custom_lin custom_linear_solve reduce reduce_window "
  "select_and_scatter",
  "rare": "device_put eig hessenberg igamma_grad_a schur tridiagonal tridiagonal_solve zeta",
  "no operand": "iota",
}


def test_every_row_is_of_a_primitive_that_jax_has():
  """A renamed primitive would be refused from one version to the next."""
  assert set(primitives.TABLE) - PUBLIC - WITH_PROGRAMS == set()


def test_what_jax_has_and_the_table_has_not_is_known():
  """A new primitive is refused until somebody has thought of it; this is where that is noticed."""
  expected = {name for names in REFUSED.values() for name in names.split()}
  assert PUBLIC - set(primitives.TABLE) == expected


@pytest.mark.parametrize("name", primitives.TABLE)
def test_every_row_has_a_way(name):
  row = primitives.TABLE[name]
  has_rule = row.rule is not None
  assert has_rule == (row.kind in (Kind.LOOP, Kind.WHOLE))
  if row.kind is not Kind.ELEMENTWISE:
    assert not (row.range or row.facts or row.spreads or row.zero_at_zero or row.is_alias)
  with pytest.raises(dataclasses.FrozenInstanceError):
    row.kind = Kind.PASS


@pytest.mark.parametrize("name", ["reduce_sum", "dot_general", "broadcast_in_dim", "integer_pow"])
def test_a_parameter_that_another_jax_renames_ends_in_a_refusal(name, monkeypatch):
  """As if the rule looked for a parameter that the equation has not."""

  def looks_for_it(ledger, eqn, ins):
    return eqn.params["a name of another version"]

  row = primitives.TABLE[name]
  asked = {"range": lambda asked: asked.params["a name of another version"]}
  changed = asked if row.kind is Kind.ELEMENTWISE else {"rule": looks_for_it}
  table = {**primitives.TABLE, name: dataclasses.replace(row, **changed)}
  monkeypatch.setattr(primitives, "TABLE", table)

  def release(batch):
    n = jnp.sqrt((batch["x"] ** 2).sum(1, keepdims=True))
    return jnp.ones(4) @ (batch["x"] / jnp.maximum(1, n)), jnp.tanh(batch["x"]).sum(0)

  with pytest.raises(InputError, match="has not the parameters|unbounded"):
    check_sensitivity(release, {"x": np.ones((4, 3), np.float32)})


ZERO = [name for name, row in primitives.TABLE.items() if row.zero_at_zero]
SPREADS = [name for name, row in primitives.TABLE.items() if row.spreads and name != "integer_pow"]


def function_of(name):
  return getattr(jax.lax, {"add_any": "add"}.get(name, name))


@pytest.mark.parametrize("name", ZERO)
def test_functions_that_are_said_to_be_0_at_0_are(name):
  assert function_of(name)(jnp.zeros(1)) == 0


@pytest.mark.parametrize("name", SPREADS)
def test_functions_that_are_said_to_spread_what_is_not_finite_do(name):
  for bad in (np.inf, -np.inf, np.nan):
    operands = [jnp.float32(bad)] + [jnp.float32(2.0)] * (name in ("add", "add_any", "sub", "mul"))
    assert not jnp.isfinite(function_of(name)(*operands))
