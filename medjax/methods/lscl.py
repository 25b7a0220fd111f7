"""LSCL: a curriculum of styles, harder from update to update, by local gradient signs.

Liu et al., "Style Curriculum Learning for Robust Medical Image Segmentation", MICCAI 2021,
arXiv:2108.00402. Algorithm 1, for a batch (x, y):

  z = S(x, x_style), Gamma_0 = 0                                  line 2, once a pair
  for i = 0 .. n:
    z_i = Gamma_i * z + (1 - Gamma_i) * x                         line 4
    Phi = J(f(z_i; phi), y)                                       line 5
    Gamma_{i+1} = Gamma_i + US(ReLU(eps sign(AP(grad_{z_i} Phi))))  line 6, Eq. 2
    phi <- phi + U(grad_phi Phi, s, phi)                          line 7

The first update is a plain one. Published: supervised pre-training with Adam, 1e-3 to 1e-5, then 10
epochs of this with momentum and 1e-5; 0.6 cross-entropy + 0.4 Dice.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import optax

from medjax.methods.adversarial import adversarial
from medjax.methods.adversaries.fusion import FusionDirection, lgs_fusion
from medjax.ops.local_gradient_sign import Order, Upsample
from medjax.types import Key, LossFn, Step

PAPER: Mapping[str, Any] = MappingProxyType({})
"""Options of `lscl` that are the paper's: the defaults."""

RELEASED: Mapping[str, Any] = MappingProxyType(
  {"order": "mean_of_sign", "upsample": "bilinear", "interval": (0.0, 1.0)}
)
"""Options of `lscl` that are the authors' code's, for images in [0, 1]."""


def lscl(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  style_fn: Callable[[Key, jax.Array], jax.Array],
  *,
  num_updates: int = 4,
  eps: float | int = 0.25,
  pool: int | tuple[int, ...] = 4,
  order: Order = "sign_of_mean",
  direction: FusionDirection = "paper",
  upsample: Upsample = "nearest",
  interval: tuple[float | int, float | int] | None = None,
) -> Step:
  """Step of the local style curriculum: `adversarial` with `adversaries.lgs_fusion`.

  Args:
    loss_fn: `loss_fn(params, example, key) -> scalar` of ONE example; see `adversarial`. The
      authors standardise each image after fusing: do it in the loss.
    tx: any optax transformation; it makes `num_updates` updates a batch.
    style_fn: `style_fn(key, image)`, the image of ONE example in some style; see `synth.StyleBank`.
    num_updates: n + 1 of Algorithm 1 with n = 3; the paper's text and Fig. 3 speak of 3.
    eps, pool, order, direction, upsample, interval: see `adversaries.lgs_fusion`. "paper" as
      direction is published; "chain" is the one that raises the loss; "random" is the control.
  Returns:
    Step over plain batches. Metrics: "loss", "loss_0" ... by sample, "grad_norm", "fusion_weight"
    (mean Gamma of the last sample) and "wrong_way" (see `adversaries.lgs_fusion`).
  Raises:
    InputError: settings outside their range; on tracing, images smaller than one cell.
  Under privacy: private(loss_fn, tx, plan, filter=private_curriculum(adversaries.lgs_fusion(...))).

  The samples stay yours, their appearance gets harder:

  >>> import flax.linen as nn
  >>> from medjax import data, losses, methods, nets, synth, train
  >>> anatomy = data.ProceduralAnatomy(16, (32, 32), num_classes=4, seed=0, with_image=True)
  >>> store = data.stack(anatomy)  # NnUNetFolder("...") reads yours
  >>> model = nets.from_linen(nn.Sequential([nn.Conv(8, (3, 3)), nn.silu, nn.Conv(4, (3, 3))]))
  >>> def loss(params, example, key):  # ONE example
  ...   return losses.cross_entropy(model.apply(params, example.image)[0], example.label)
  >>> styles = synth.style_bank(list(store.image))  # images of other sites make wider styles
  >>> step = methods.lscl(loss, optax.sgd(1e-2, momentum=0.9), styles, direction="chain")
  >>> params, _ = model.init(jax.random.key(0), store.image[0])
  >>> stream = data.batches(store, 4, seed=0)
  >>> fitted = train.fit(step, stream, params, jax.random.key(1), num_steps=2, progress=False)
  >>> sorted(fitted.history[-1])[:3]
  ['fusion_weight', 'grad_norm', 'loss']
  """
  adversary = lgs_fusion(
    style_fn,
    eps=eps,
    pool=pool,
    order=order,
    direction=direction,
    upsample=upsample,
    interval=interval,
  )
  return adversarial(loss_fn, tx, adversary, num_updates=num_updates)
