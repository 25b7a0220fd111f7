"""Clicks that are drawn into the mask prompt as well: what a small network can learn from.

Not a study: how `click_sam` asks the small segmenter that is trained here. SAM tells its decoder
of clicks by tokens alone. Where only a click tells what is asked for,
`nets.mini_promptable` did not learn in 1,500 updates of 8 pictures to read them: the loss stood at
that of a constant answer (1.26), and no click changed the answer. Drawn into the mask prompt, as
RITM draws clicks as discs beside the picture, they reach every place of the embedding without an
attention that has to be learnt first. Tokens are given all the same.
"""

from collections.abc import Callable

import jax.numpy as jnp

from medjax import nets
from medjax.nets.mask_decoder import MaskOutput
from medjax.nets.prompt_encoder import BACKGROUND, FOREGROUND
from medjax.types import Array, Params

_BOLD = 8.0  # logit of what a person says: the network's own answers are held to half of it
_REACH = 5.0  # pixels of the picture from a click to the end of its disc


def refined(net: nets.Promptable, side: int) -> Callable[[Params, Array, nets.Prompts], MaskOutput]:
  """`decode` of a network whose answer is added to a quarter of the painted prompt.

  So an answer goes on from the one before and from what a person said, not from nothing.

  Args:
    net: whose decoder answers.
    side: of the square picture, in pixels.
  """

  def decode(params: Params, embedding: Array, prompts: nets.Prompts) -> MaskOutput:
    asked = painted(nets.Prompts(*prompts), side, 4 * embedding.shape[0])
    found = net.decode(params, embedding, asked)
    assert asked.mask is not None
    return found._replace(logits=found.logits + asked.mask / 4)

  return decode


def painted(prompts: nets.Prompts, side: int, grid: int) -> nets.Prompts:
  """The prompts with a mask prompt: the last answer, if any, with the clicks drawn over it.

  >>> click = nets.Prompts(jnp.array([[32.0, 8.0]]), jnp.array([0]), None)  # beside the object
  >>> mask = painted(click, 64, 32).mask
  >>> float(mask[4, 16, 0]), float(mask[20, 16, 0])
  (-8.0, 0.0)

  Args:
    prompts: coordinates in pixels of the picture; `mask` [grid, grid, 1] the logits of the answer
      before, or None.
    side: of the square picture, in pixels.
    grid: of the mask prompt, four times the embedding's.
  """
  scale = side / grid
  y, x = (scale * (values + 0.5) - 0.5 for values in jnp.mgrid[:grid, :grid])  # picture's pixels
  labels, places = prompts.labels, prompts.coordinates
  mask = jnp.zeros((grid, grid)) if prompts.mask is None else prompts.mask[..., 0]
  held = jnp.clip(mask, -_BOLD, _BOLD) / 2
  apart = jnp.hypot(x[None] - places[:, 0, None, None], y[None] - places[:, 1, None, None])
  told = (labels == FOREGROUND) * 1.0 - (labels == BACKGROUND)
  near = (apart <= _REACH) * told[:, None, None]
  said = near.sum(0)  # where discs of both kinds meet, neither is known
  held = jnp.where((near != 0).any(0), _BOLD * jnp.sign(said), held)
  return prompts._replace(mask=held[..., None])


def local(params: Params) -> Params:
  """First parameters whose attention between tokens and image prefers equal places from the start.

  A query reads by <W_q a, W_k b>. Where W_q is a multiple of W_k, the expected value is that of
  <a, b>, which the codes of equal places make large; two matrices that are drawn apart give no
  preference, and many updates go by until they have one.
  """
  decoder = dict(params["decoder"])
  transformer = dict(decoder["transformer"])
  for name, own in transformer.items():
    if name.endswith(("to_image", "to_tokens")):
      transformer[name] = {**own, "query": {**own["query"], "kernel": 3 * own["key"]["kernel"]}}
  return {**params, "decoder": {**decoder, "transformer": transformer}}
