"""What an update computes: a digest of its program, and how many operations it has.

Both come from the program before XLA optimises it, which takes a fraction of a second to write down
where its compilation takes minutes.
"""

import hashlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.extend
import numpy as np

from medjax import sweeps
from medjax.tree import named_leaves
from medjax.types import Key, Params, PyTree, Step

_SYMBOL = re.compile(r'@[\w.$-]+|@"[^"]*"')
_LARGE = re.compile(r'dense<"0x[0-9A-F]*">')  # written so from 100 numbers on


def lowered(step: Step, params: Params, batch: PyTree) -> Any:
  """The program of an update (`jax.stages.Lowered`); shapes of the arguments suffice."""
  key = jax.random.key(0)
  state = jax.eval_shape(step.init, params, key)
  return jax.jit(sweeps.whole(step)).lower(state, batch, key)


def digest(program: Any, *, all_constants: bool = False) -> str:
  """Digest of a lowered program: equal where the same operations are done with the same numbers.

  A learning rate, a schedule, a loss, an optimiser or a layer that differs gives another digest.
  Names of functions say nothing, and arrays of 100 numbers and more that the program holds say only
  their shape unless `all_constants` asks for their values: such tables are often computed when a
  program starts, and their last bits differ between machines.

  >>> import jax.numpy as jnp
  >>> of = lambda rate: digest(jax.jit(lambda x: x - rate * x).lower(jnp.ones(3)))
  >>> of(0.1) == of(0.1), of(0.1) == of(0.2)
  (True, False)
  """
  names: dict[str, str] = {}
  text = program.as_text()
  text = _SYMBOL.sub(lambda found: names.setdefault(found[0], f"@{len(names)}"), text)
  if not all_constants:
    text = _LARGE.sub("dense<...>", text)
  return hashlib.sha256(text.encode()).hexdigest()


def made_with() -> str:
  """What else a digest depends on; digests of other versions or devices cannot be compared."""
  return f"jax {jax.__version__}, {jax.default_backend()}"


def flops(program: Any) -> float:
  """Operations of a lowered program as XLA counts them before it optimises; NaN if it does not."""
  return float((program.cost_analysis() or {}).get("flops", float("nan")))


def parts(step: Step, params: Params, batch: PyTree, key: Key) -> dict[str, str]:
  """Part of a training -> digest of what it computes, before it is spread over devices.

  Parts are the initial parameters, the first state, and the functions of a Step in pieces (its
  update, where it has none): the "gradients" and the "noise and optimiser" of each sweep.
  The digest of a function is that of its StableHLO and of every array that it closes over, so that
  a learning rate, a loss, a layer and a table of numbers are all in it. Nothing is computed; every
  function is traced once.

  Args:
    params: initial parameters.
    batch: a batch as the stream gives it, or a chunk; only its shapes count.
    key: of `Step.init`.
  """
  params_like, batch_like, key_like = (jax.tree.map(_shape, x) for x in (params, batch, key))
  state = jax.eval_shape(step.init, params_like, key_like)
  found = {
    "initial parameters": of_arrays(params),
    "first state": of_function(step.init, params_like, key_like),
  }
  if step.chunked is None:
    return found | {"update": of_function(step.update, state, batch_like, key_like)}
  chunked = step.chunked
  found["gradients"] = of_function(chunked.begin, state)
  found["gradients"] += of_function(chunked.carry, batch_like, key_like)
  found["noise and optimiser"] = ""
  acc, carry = (
    jax.eval_shape(chunked.begin, state),
    jax.eval_shape(chunked.carry, batch_like, key_like),
  )
  for sweep in chunked.sweeps:
    arguments = (state, acc, batch_like, carry, key_like)
    found["gradients"] += of_function(sweep.accumulate, *arguments)
    acc, carry = jax.eval_shape(sweep.accumulate, *arguments)
    found["noise and optimiser"] += of_function(sweep.finish, state, acc, key_like)
    state, acc, _ = jax.eval_shape(sweep.finish, state, acc, key_like)
  return {name: _of_text(text) for name, text in found.items()}


def of_function(function: Callable[..., Any], *arguments: PyTree) -> str:
  """Digest of what `function` computes for arguments of these shapes, with all its numbers."""
  traced = jax.jit(function).trace(*arguments)
  constants = [_array(x) for x in _constants(traced.jaxpr)]
  return _of_text("\n".join([digest(traced.lower(), all_constants=True), *constants]))


def of_arrays(tree: PyTree) -> str:
  """Digest of arrays by name: values, types and shapes."""
  return _of_text("\n".join(f"{name} {_array(x)}" for name, x in named_leaves(tree).items()))


def _constants(jaxpr: Any) -> list[Any]:
  """Arrays that a closed jaxpr and those inside it close over."""
  found = list(jaxpr.consts)
  for equation in jaxpr.jaxpr.eqns:
    for value in jax.tree.leaves(
      list(equation.params.values()), is_leaf=lambda x: isinstance(x, jax.extend.core.ClosedJaxpr)
    ):
      if isinstance(value, jax.extend.core.ClosedJaxpr):
        found += _constants(value)
  return found


def _array(x: Any) -> str:
  if isinstance(x, jax.Array) and jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
    x = jax.random.key_data(x)
  x = np.asarray(x)
  return f"{x.dtype}{list(x.shape)} {hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest()}"


def _shape(x: Any) -> Any:
  return jax.ShapeDtypeStruct(np.shape(x), jax.numpy.asarray(x).dtype)


def _of_text(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()[:32]


def peak_bytes(compiled: Any) -> int:
  """Memory that a compiled program needs: arguments, results, and the block of its temporaries.

  XLA reserves temporaries as one block of the size of their fullest moment. The peak that it names
  by itself is not used: on a CPU it leaves that block out.

  >>> import jax.numpy as jnp
  >>> peak_bytes(jax.jit(lambda x: x + 1).lower(jnp.ones(1000)).compile())
  8000

  Args:
    compiled: `jax.stages.Compiled`.
  """
  memory = compiled.memory_analysis()
  moved = memory.argument_size_in_bytes + memory.output_size_in_bytes
  return moved + memory.temp_size_in_bytes - memory.alias_size_in_bytes
