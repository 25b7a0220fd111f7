"""A trained network as one compiled artefact that needs none of its Python code (`jax.export`).

The file is a zip of `network.bin`, StableHLO with the weights inside, for batches of any size of
patches [batch, *patch, channel] -> logits [batch, *patch, class], and `settings.json`, the
preprocessing. jax keeps such programs loadable for at least six months after the release that
wrote them.
"""

import io
import json
import os
import zipfile
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import export

from medjax.check import InputError, existing_file, require
from medjax.data.grid.preprocess import Preprocessing
from medjax.data.manifest import file_digest
from medjax.inference.predictor import Member
from medjax.types import Model

SUFFIX = ".zip"
_PROGRAM, _SETTINGS = "network.bin", "settings.json"


def export_member(member: Member, *, platforms: Sequence[str] | None = None) -> bytes:
  """The artefact as bytes.

  Args:
    member: a trained network whose preprocessing names the patch that it works on.
    platforms: of "cpu", "cuda", "rocm", "tpu"; None: the one this process runs on.
  Raises:
    InputError: a preprocessing without patch, or `flatbuffers` is not installed.
  """
  patch = member.preprocess.patch
  if patch is None:
    raise InputError(
      "a patch size in the preprocessing", "None", "set Preprocessing.patch before you export"
    )
  sizes = ", ".join(map(str, ("batch", *patch, len(member.preprocess.channel_names))))
  shape = jax.ShapeDtypeStruct(export.symbolic_shape(sizes), jnp.float32)
  state = dict(member.model_state)
  network = jax.jit(
    jax.vmap(lambda image: member.model.apply(member.params, image, model_state=state)[0])
  )
  program = export.export(network, platforms=platforms)(shape)
  content = io.BytesIO()
  with zipfile.ZipFile(content, "w") as file:
    file.writestr(_PROGRAM, _serialised(program))
    file.writestr(_SETTINGS, json.dumps(member.preprocess.to_dict(), indent=2, sort_keys=True))
  return content.getvalue()


def load_exported(path: str | os.PathLike) -> Member:
  """A Member that predicts and does nothing else: its model has no parameters and cannot train.

  Raises:
    InputError: not such a file, or exported for other platforms than this process runs on.
  """
  path = existing_file(path)
  try:
    with zipfile.ZipFile(path) as file:
      content, settings = file.read(_PROGRAM), json.loads(file.read(_SETTINGS))
  except (zipfile.BadZipFile, KeyError, ValueError) as error:
    raise InputError(
      f"a network exported by medjax in {path}", f"another file ({error})", "export it again"
    ) from error
  program = _deserialised(content)
  platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
  require(
    platform in program.platforms,
    f"a network exported for {platform}",
    f"{path} for {', '.join(program.platforms)}",
    f"export it with platforms=[..., {platform!r}]",
  )

  @jax.custom_batching.custom_vmap
  def network(image: jax.Array) -> jax.Array:
    return program.call(image[None])[0]

  @network.def_vmap
  def _(axis_size, is_batched, images):  # the program takes batches, jax cannot vmap into it
    del axis_size, is_batched
    return program.call(images), True

  def apply(params, image, *, model_state=None, key=None, train=False):
    del params, key
    require(not train, "prediction", "train=True", "load the run itself to go on training")
    return network(image), model_state or {}

  model = Model(lambda key, image: ({}, {}), apply)
  name = f"{path.name.removesuffix(SUFFIX)}-{file_digest(path)}"  # the weights are in the file
  return Member(model, {}, Preprocessing.from_dict(settings), name)


def _serialised(program: export.Exported) -> bytes:
  try:
    return bytes(program.serialize())
  except ImportError as error:
    raise _no_flatbuffers() from error


def _deserialised(content: bytes) -> export.Exported:
  try:
    return export.deserialize(bytearray(content))
  except ImportError as error:
    raise _no_flatbuffers() from error


def _no_flatbuffers() -> InputError:
  return InputError("the library flatbuffers", "none installed", "pip install 'medjax[export]'")
