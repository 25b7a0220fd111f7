"""Clients that label some of the classes: the marginal loss and conditional distillation.

Wang et al., "ConDistFL: conditional distillation for federated learning from partially annotated
data" (2023). Client k labels the foreground classes F; all others, its background B, are told apart
by other clients, and by the global model.

  marginal:  a loss of (p_B = sum_{j in B} p_j, p_i for i in F)                          (Eq. 1, 2)
  ConDist:   Dice(M p_k(O | B), M p_g(O | B)), p(G_i | B) = sum_{j in G_i} p_j / (1 - p_F)  (Eq. 8)

p is a softmax of logits over a temperature. The groups G_i part B: the true background, and each
organ that is not labelled with its lesions. M leaves out voxels that the label or the global model
gives to F. In a federation the teacher is the broadcast model: `local(lambda broadcast: ...)`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from medjax import check
from medjax.types import IGNORE


def merged_logits(logits: jax.Array, known: Sequence[int]) -> jax.Array:
  """Logits of the classes that a client labels, all others together as class 0.

  The softmax of what comes is (p_B, p_i for i in F): a logarithm of summed exponentials is the
  logit of a sum of probabilities. Any loss may follow, with `merged_label`.

  >>> import jax.numpy as jnp
  >>> p = jnp.array([0.1, 0.2, 0.3, 0.4])
  >>> [round(float(x), 3) for x in jax.nn.softmax(merged_logits(jnp.log(p), (2,)))]
  [0.7, 0.3]

  Args:
    logits: [*space, class].
    known: F, foreground classes that the client labels, in the order wanted.
  Raises:
    InputError: no class, a repeated one, class 0, or one beyond the logits.
  """
  known = _checked(known, logits.shape[-1])
  others = [k for k in range(logits.shape[-1]) if k not in known]
  background = jax.nn.logsumexp(logits[..., np.array(others)], axis=-1, keepdims=True)
  return jnp.concatenate([background, logits[..., np.array(known)]], axis=-1)


def merged_label(label: jax.Array, known: Sequence[int]) -> jax.Array:
  """[*space] positions in `merged_logits`: 1 for the first of `known`; `IGNORE` stays.

  A class that the client does not label is background, whoever wrote it there.
  """
  found = jnp.where(label == IGNORE, IGNORE, 0)
  for position, k in enumerate(known):
    found = jnp.where(label == k, position + 1, found)
  return found


def conditional_distillation(
  logits: jax.Array,
  teacher_logits: jax.Array,
  label: jax.Array,
  *,
  known: Sequence[int],
  groups: Sequence[Sequence[int]],
  temperature: float | int = 0.5,
  smooth: float | int = 1e-5,
) -> jax.Array:
  """Soft Dice loss in [0, 1] between what client and global model make of a client's background.

  Args:
    logits: [*space, class] of the client's model.
    teacher_logits: the same of the global model; no gradient goes through them.
    label: [*space] the client's labels; `IGNORE` is left out.
    known: F, classes that the client labels.
    groups: classes of each G_i; every class that is not in F stands in one of them. G_0 is (0,).
    temperature: 0.5 in the paper's text; its released configuration has 2.0, which was worse in
      every setting of a small experiment of ours.
    smooth: added to numerator and denominator of each group.
  Raises:
    InputError: groups that do not part the classes outside F.
  """
  known = _checked(known, logits.shape[-1])
  check.positive("temperature", temperature)
  others = [k for k in range(logits.shape[-1]) if k not in known]
  check.require(
    sorted(k for group in groups for k in group) == others,
    f"groups that hold each of the classes {others} once",
    f"{[list(group) for group in groups]}",
    "an organ that is not labelled forms a group with its lesions",
  )
  teacher_logits = jax.lax.stop_gradient(teacher_logits)
  is_foreground = _among(label, known) | _among(teacher_logits.argmax(-1), known)
  mask = (~is_foreground & (label != IGNORE)).astype(logits.dtype)[..., None]
  mine, theirs = (
    mask * _conditional(x / temperature, others, groups) for x in (logits, teacher_logits)
  )
  axes = tuple(range(mine.ndim - 1))
  overlap, total = (mine * theirs).sum(axes), mine.sum(axes) + theirs.sum(axes)
  return 1 - ((2 * overlap + smooth) / (total + smooth)).mean()


def _conditional(
  logits: jax.Array, others: Sequence[int], groups: Sequence[Sequence[int]]
) -> jax.Array:
  """[*space, group] p(G_i | B): the softmax over B alone, so nothing is divided by 1 - p_F."""
  inside = jax.nn.softmax(logits[..., np.array(others)], axis=-1)
  place = [np.array([others.index(k) for k in group]) for group in groups]
  return jnp.stack([inside[..., rows].sum(-1) for rows in place], axis=-1)


def _among(label: jax.Array, known: Sequence[int]) -> jax.Array:
  return jnp.isin(label, np.array(known))


def _checked(known: Sequence[int], num_classes: int) -> tuple[int, ...]:
  known = tuple(known)
  is_right = len(set(known)) == len(known) > 0 and all(0 < k < num_classes for k in known)
  check.require(
    is_right,
    f"different foreground classes in 1..{num_classes - 1}",
    f"{known}",
    "class 0 is nobody's foreground",
  )
  return known
