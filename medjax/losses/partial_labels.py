"""Sets that label some of the classes: the marginal loss and conditional distillation.

Wang et al., "ConDistFL: conditional distillation for federated learning from partially annotated
data" (2023); the marginal loss is Shi et al.'s (2020). A set labels the foreground classes F. All
others, its background B, are told apart by other sets, and by a teacher that learnt from them.

  marginal:  a loss of (p_B = sum_{j in B} p_j, p_i for i in F)                          (Eq. 1, 2)
  ConDist:   Dice(M p(O | B), M q(O | B)),   p(G_i | B) = sum_{j in G_i, B} p_j / (1 - p_F)  (Eq. 8)

p and q are softmaxes of logits over a temperature. The groups G_i part the classes: the true
background, and each organ with its lesions. M leaves out voxels that the label or the teacher gives
to F.

Which classes are labelled is a mask [class] that may be traced, so that the clients of a federation
or the sets of a pool share one program:

  labelled = labelled_classes([(1, 2), (3,)], num_classes=4)      # a row a set
  def loss_fn(params, example, key):
    logits, label = merge_unlabelled(apply(params, example.image), example.label,
                                     jnp.asarray(labelled)[example.domain])
    return cross_entropy(logits, label)
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from medjax import check, labels
from medjax.tree import at_least_float32
from medjax.types import IGNORE

Mask = Bool[Array | np.ndarray, " labelled"]


def labelled_classes(sets: Sequence[Sequence[int]], num_classes: int) -> np.ndarray:
  """[set, class] bool: which foreground classes each set labels; False for class 0.

  >>> labelled_classes([(1, 2), (3,)], num_classes=4).astype(int).tolist()
  [[0, 1, 1, 0], [0, 0, 0, 1]]

  Args:
    sets: foreground classes of each set, or client.
    num_classes: K, background included.
  Raises:
    InputError: a set without a class, with one twice, with class 0 or one beyond K - 1; or a class
      that no set labels, which nobody could learn.
  """
  found = np.zeros((len(sets), num_classes), bool)
  for number, own in enumerate(sets):
    is_right = len(set(own)) == len(own) > 0 and all(0 < k < num_classes for k in own)
    check.require(
      is_right,
      f"one or more different classes in 1..{num_classes - 1} labelled by set {number}",
      f"{tuple(own)}",
      "class 0 is everybody's background; leave out a set that labels nothing",
    )
    found[number, list(own)] = True
  missing = np.flatnonzero(~found[:, 1:].any(0)) + 1
  check.require(
    not len(missing),
    "each foreground class labelled by some set",
    f"classes {missing.tolist()} labelled by none",
    "renumber the classes without them",
  )
  return found


def keep_labelled(
  label: Integer[Array | np.ndarray, "*space"], labelled: Mask
) -> Integer[Array, "*space"]:
  """A full label map as a set would hold it that labels some classes: the others are background.

  >>> keep_labelled(np.array([0, 1, 2, -1]), np.array([False, False, True])).tolist()
  [0, 0, 2, -1]

  Args:
    label: class ids or `IGNORE`, which stays.
    labelled: a row of `labelled_classes`.
  """
  ids = labels.of_classes("label", label, labelled.shape[0]).ids
  is_kept = _among(ids, labelled) | (ids == IGNORE)
  return jnp.where(is_kept, ids, 0)


def merge_unlabelled(
  logits: Float[Array, "*space classes"],
  label: Integer[Array | np.ndarray, "*label_space"],
  labelled: Mask,
) -> tuple[Float[Array, "*space classes"], Integer[Array, "*label_space"]]:
  """Logits in which class 0 stands for all that is not labelled; any loss may follow.

  The softmax of what comes is p_B for class 0, p_i for i in F, and 0 for the other classes, since
  the logarithm of summed exponentials is the logit of a sum of probabilities.

  >>> import jax, jax.numpy as jnp
  >>> p, labelled = jnp.array([0.1, 0.2, 0.3, 0.4]), jnp.array([False, False, True, False])
  >>> merged, _ = merge_unlabelled(jnp.log(p), jnp.int32(2), labelled)
  >>> [round(float(x), 3) for x in jax.nn.softmax(merged)]
  [0.7, 0.0, 0.3, 0.0]

  Args:
    logits: [*space, class].
    label: [*space], 0 for all that is not labelled; see `keep_labelled`.
    labelled: [class], a row of `labelled_classes`; what it has for class 0 is not read.
  Returns:
    Logits and labels for `cross_entropy`, or for `soft_dice` with `counted=labelled` and the
    background left out, or with class 0 set in `counted`.
  Raises:
    InputError: shapes that do not fit, or, unless traced, a label of a class that is not labelled:
      such a voxel would be learnt as background, silently. Traced, the logits become NaN.
  Guarantees: where all classes are labelled logits and labels come back as they are.
  """
  num_classes = logits.shape[-1]
  check.same_shape("labelled", labelled.shape, "the classes of the logits", (num_classes,))
  known = labels.of_classes("label", label, num_classes, shape=logits.shape[:-1])
  is_right = ((known.ids <= 0) | _among(known.ids, labelled)).all()
  if not isinstance(is_right, jax.core.Tracer):
    check.require(
      bool(is_right),
      f"labels among 0 and the labelled classes {np.flatnonzero(labelled).tolist()}",
      f"classes {np.unique(known.ids).tolist()}",
      "call losses.keep_labelled on full label maps",
    )
    is_right = True
  foreground = _foreground(labelled)
  logits = at_least_float32(logits)
  lowest = jnp.finfo(logits.dtype).min / 2  # exp(lowest) is 0, and finite numbers give no 0 * inf
  background = jax.nn.logsumexp(logits, axis=-1, where=~foreground)
  merged = jnp.where(foreground, logits, lowest).at[..., 0].set(background)
  checked = labels.Labels(known.ids, known.is_known, is_right).checked(known.checked(merged))
  return checked, jnp.asarray(known.ids)


def labelled_dice(
  logits: Float[Array, "*space structure"],
  label: Integer[Array | np.ndarray, "*label_space"],
  labelled: Mask,
  *,
  smooth: float | int = 1.0,
) -> Float[Array, ""]:
  """Soft Dice loss of independent structures, mean over those that the set labels, in [0, 1].

    loss = 1 / sum_k w_k  sum_k w_k (1 - (2 sum_x p_k r_k + s) / (sum_x p_k + sum_x r_k + s))

  with p the sigmoid of the logits and w the mask (Silva-Rodriguez et al., "Towards Foundation
  Models and Few-Shot Parameter-Efficient Fine-Tuning for Volumetric Organ Segmentation", 2023, Eq.
  1). A network with sigmoids says nothing of a structure by saying another, so what a set does not
  label simply stays out; one with a softmax needs `merge_unlabelled`.

  >>> labelled = labelled_classes([(1,), (2,)], num_classes=3)
  >>> logits = jnp.array([[20.0, 20.0], [-20.0, 20.0]])  # structure 1 in voxel 0, 2 in both
  >>> labelled_dice(logits, np.array([1, 0]), labelled[0], smooth=0).round(4).item()
  0.0

  Args:
    logits: [*space, structure]; channel k is class k + 1.
    label: [*space] class ids of the set; `IGNORE` is left out.
    labelled: [class], a row of `labelled_classes`; it may be traced.
    smooth: s, 0 or more, in voxels.
  Raises:
    InputError: shapes that do not fit.
  """
  num_classes = logits.shape[-1] + 1
  check.same_shape("labelled", labelled.shape, "structures and background", (num_classes,))
  check.non_negative("smooth", smooth)
  known = labels.of_classes("label", label, num_classes, shape=logits.shape[:-1])
  p = jax.nn.sigmoid(at_least_float32(logits)) * known.is_known[..., None]
  r = jax.nn.one_hot(known.ids, num_classes, dtype=p.dtype)[..., 1:]
  axes = tuple(range(p.ndim - 1))
  total = p.sum(axes) + r.sum(axes) + smooth
  score = jnp.where(total > 0, (2 * (p * r).sum(axes) + smooth) / jnp.where(total > 0, total, 1), 1)
  share = jnp.asarray(labelled)[1:].astype(p.dtype)
  return known.checked((share * (1 - score)).sum() / jnp.maximum(share.sum(), 1))


def conditional_distillation(
  logits: Float[Array, "*space classes"],
  teacher_logits: Float[Array, "*space classes"],
  label: Integer[Array | np.ndarray, "*label_space"],
  *,
  labelled: Mask,
  groups: Sequence[Sequence[int]],
  temperature: float | int = 0.5,
  smooth: float | int = 1e-5,
) -> Float[Array, ""]:
  """Soft Dice loss in [0, 1] between what student and teacher make of a set's background.

  Args:
    logits: [*space, class] of the network in training.
    teacher_logits: the same of the teacher, in a federation the broadcast model; no gradient goes
      through them.
    label: [*space] the set's labels; `IGNORE` is left out.
    labelled: [class], a row of `labelled_classes`.
    groups: each class in one of them: (0,), and each organ with its lesions. Of a group whose
      classes are labelled in part the others are counted, and a group that is labelled whole is
      not.
    temperature: above 0; 0.5 in the paper's text, where it makes both networks surer. Its released
      configuration has 2.0.
    smooth: added to numerator and denominator of each group.
  Raises:
    InputError: groups that do not part the classes, a temperature that is not above 0.
  """
  num_classes = logits.shape[-1]
  check.same_shape("labelled", labelled.shape, "the classes of the logits", (num_classes,))
  check.positive("temperature", temperature)
  check.require(
    sorted(k for group in groups for k in group) == list(range(num_classes)),
    f"groups that hold each of the classes 0..{num_classes - 1} once",
    f"{[list(group) for group in groups]}",
    "an organ forms a group with its lesions, and the background one by itself",
  )
  known = labels.of_classes("label", label, num_classes, shape=logits.shape[:-1])
  foreground = _foreground(labelled)
  member = np.zeros((num_classes, len(groups)), np.float32)
  for number, group in enumerate(groups):
    member[list(group), number] = 1

  def conditional(x: jax.Array) -> jax.Array:
    """p(G_i | B) [*space, group]: a softmax over B alone, so nothing is divided by 1 - p_F."""
    x = at_least_float32(x) / temperature
    inside = jax.nn.softmax(jnp.where(foreground, jnp.finfo(x.dtype).min / 2, x), axis=-1)
    return jnp.where(foreground, 0, inside) @ member

  teacher_logits = jax.lax.stop_gradient(teacher_logits)
  is_foreground = _among(known.ids, labelled) | _among(teacher_logits.argmax(-1), labelled)
  mask = (~is_foreground & known.is_known)[..., None]
  mine, theirs = (jnp.where(mask, conditional(x), 0) for x in (logits, teacher_logits))
  axes = tuple(range(mine.ndim - 1))
  overlap, total = (mine * theirs).sum(axes), mine.sum(axes) + theirs.sum(axes)
  score = (2 * overlap + smooth) / (total + smooth)
  is_counted = ((~foreground).astype(score.dtype) @ member) > 0
  loss = jnp.where(is_counted, 1 - score, 0).sum() / is_counted.sum()  # the background always is
  return known.checked(loss)


def _foreground(labelled: Mask) -> jax.Array:
  """The mask without class 0."""
  return jnp.asarray(labelled) & (jnp.arange(labelled.shape[0]) > 0)


def _among(ids: jax.Array | np.ndarray, labelled: Mask) -> jax.Array:
  """Whether each voxel has a labelled foreground class; `IGNORE` has none."""
  ids = jnp.asarray(ids)
  return _foreground(labelled)[jnp.maximum(ids, 0)] & (ids > 0)
