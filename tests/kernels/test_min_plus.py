"""The min-plus product: every implementation is the definition, exactly."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from kernels.min_plus import min_plus, reference

IMPLEMENTATIONS = ("xla", "interpret")


def arrays(rows, size, columns, batch=()):
  random = np.random.default_rng(0)
  values = random.normal(size=(*batch, size, columns))
  values[random.random(values.shape) < 0.2] = np.inf
  table = random.normal(size=(rows, size))
  return jnp.asarray(table, jnp.float32), jnp.asarray(values, jnp.float32)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
  ("rows", "size", "columns", "batch"),
  [(1, 1, 1, ()), (5, 15, 3, (2,)), (33, 16, 65, ()), (7, 35, 70, (2, 3))],
)
def test_equals_the_definition(implementation, rows, size, columns, batch):
  table, values = arrays(rows, size, columns, batch)
  found = jax.jit(functools.partial(min_plus, implementation=implementation))(table, values)
  np.testing.assert_array_equal(found, reference.min_plus(table, values))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_vmap_over_tables_and_values(implementation):
  table, values = arrays(6, 17, 5, (3,))
  tables = table[None] + jnp.arange(3.0)[:, None, None]
  product = functools.partial(min_plus, implementation=implementation)
  found = jax.jit(jax.vmap(product))(tables, values)
  want = [reference.min_plus(t, v) for t, v in zip(tables, values, strict=True)]
  np.testing.assert_array_equal(found, jnp.stack(want))


def test_it_is_a_matrix_product():
  """Associative, with 0 on the diagonal and infinity elsewhere as the one."""
  random = np.random.default_rng(0)
  a, b, c = (jnp.asarray(random.integers(0, 99, (20, 20)), jnp.float32) for _ in range(3))
  np.testing.assert_array_equal(min_plus(min_plus(a, b), c), min_plus(a, min_plus(b, c)))
  one = jnp.where(jnp.eye(20) > 0, 0, jnp.inf)
  np.testing.assert_array_equal(min_plus(one, a), a)


def test_no_temporary_holds_all_terms():
  table, values = arrays(40, 48, 64, (8,))
  memory = jax.jit(min_plus).lower(table, values).compile().memory_analysis()
  assert memory is not None
  assert memory.temp_size_in_bytes < 2 * values.nbytes  # all terms: 40 times as much


def test_the_kernel_compiles_down_to_triton():
  table, values = arrays(40, 48, 64, (8,))
  product = jax.jit(functools.partial(min_plus, implementation="pallas_gpu"))
  text = product.trace(table, values).lower(lowering_platforms=("cuda",)).as_text()
  assert "triton" in text


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
def test_the_kernel_on_a_gpu():
  table, values = arrays(40, 48, 70, (8,))
  found = min_plus(table, values, implementation="pallas_gpu")
  np.testing.assert_array_equal(found, reference.min_plus(table, values))


def test_differentiation_is_refused():
  table, values = arrays(4, 4, 4)
  with pytest.raises(NotImplementedError, match="stop_gradient"):
    jax.grad(lambda v: min_plus(table, v).sum())(values)


def test_arguments_that_do_not_fit(monkeypatch):
  monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would object first
  table, values = arrays(4, 5, 6)
  with pytest.raises(ValueError, match="contract the second axis"):
    min_plus(table, values[1:])
  with pytest.raises(ValueError, match="contract the second axis"):
    min_plus(table[:, :0], values[:0])
  with pytest.raises(ValueError, match="choose one of these"):
    min_plus(table, values, implementation="triton")  # pyrefly: ignore
