"""A network as data: the class of medjax.nets and its fields, JSON both ways."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import linen

from medjax import check, files
from medjax.nets.densenet import DenseNet
from medjax.nets.efficientnet import EfficientNetLite0
from medjax.nets.mask_decoder import MaskDecoder
from medjax.nets.prompt_encoder import PromptEncoder
from medjax.nets.promptable import PromptableSegmenter
from medjax.nets.refining_decoder import RefiningDecoder
from medjax.nets.residual_unet import ResidualUNet
from medjax.nets.resnet import ResNet9
from medjax.nets.small_cnn import SmallCNN
from medjax.nets.sum_unet import SumUNet
from medjax.nets.tiny_vit import TinyViT
from medjax.nets.unet import UNet
from medjax.nets.vit import ViT
from medjax.types import Json

CLASSES: dict[str, type[linen.Module]] = {
  "DenseNet": DenseNet,
  "EfficientNetLite0": EfficientNetLite0,
  "MaskDecoder": MaskDecoder,
  "PromptEncoder": PromptEncoder,
  "PromptableSegmenter": PromptableSegmenter,
  "RefiningDecoder": RefiningDecoder,
  "ResNet9": ResNet9,
  "ResidualUNet": ResidualUNet,
  "SmallCNN": SmallCNN,
  "SumUNet": SumUNet,
  "TinyViT": TinyViT,
  "UNet": UNet,
  "ViT": ViT,
}


def describe(module: linen.Module) -> dict[str, Json]:
  """{"class": name, "fields": {field: value}} of a network of medjax.nets.

  >>> from medjax import nets
  >>> spec = describe(nets.UNet(num_outputs=3, widths=(4, 8)))
  >>> spec["class"], spec["fields"]["widths"]
  ('UNet', [4, 8])
  >>> build(spec) == nets.UNet(num_outputs=3, widths=(4, 8))
  True

  Raises:
    InputError: a class that medjax.nets does not have.
  """
  name = type(module).__name__
  check.require(
    CLASSES.get(name) is type(module),
    f"a network of medjax.nets: {sorted(CLASSES)}",
    name,
    "save its parameters alone and pass your own model when you load them",
  )
  fields = {
    field.name: getattr(module, field.name)
    for field in dataclasses.fields(module)
    if field.name not in ("parent", "name")
  }
  if fields.get("dtype") is not None:
    fields["dtype"] = jnp.dtype(fields["dtype"]).name
  parts = {k: describe(v) for k, v in fields.items() if isinstance(v, linen.Module)}
  return {"class": name, "fields": files.plain({**fields, **parts})}


def build(spec: Mapping[str, Json]) -> linen.Module:
  """The network that `describe` described; raises InputError for a class or field unknown here."""
  name, fields = spec.get("class"), dict(spec.get("fields", {}))
  check.one_of("network class", name, sorted(CLASSES))
  known = {field.name for field in dataclasses.fields(CLASSES[str(name)])}
  unknown = sorted(set(fields) - known)
  check.require(
    not unknown, f"fields of {name}: {sorted(known)}", f"{unknown}", "update medjax to load this"
  )
  if fields.get("dtype") is not None:
    fields["dtype"] = jnp.dtype(fields["dtype"])
  for key, value in fields.items():
    if isinstance(value, Mapping):  # a network that is made of others
      fields[key] = build(value)
  return CLASSES[str(name)](**{key: _tuples(value) for key, value in fields.items()})


def _tuples(value: Any) -> Any:
  return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
