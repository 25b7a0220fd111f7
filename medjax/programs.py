"""What an update computes: a digest of its program, and how many operations it has.

Both come from the program before XLA optimises it, which takes a fraction of a second to write down
where its compilation takes minutes.
"""

import hashlib
import re
from typing import Any

import jax

from medjax.types import Params, PyTree, Step

_SYMBOL = re.compile(r'@[\w.$-]+|@"[^"]*"')
_LARGE = re.compile(r'dense<"0x[0-9A-F]*">')  # written so from 100 numbers on


def lowered(step: Step, params: Params, batch: PyTree) -> Any:
  """The program of `step.update` (`jax.stages.Lowered`); shapes of the arguments suffice."""
  key = jax.random.key(0)
  state = jax.eval_shape(step.init, params, key)
  return jax.jit(step.update).lower(state, batch, key)


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
