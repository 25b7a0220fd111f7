"""A damaged file of weights is refused before the studies of prompts make a run directory."""

import pytest

from experiments import avit, cemb_sam, prompt_free, prompted_sets, sam_path, samaug, sampot
from experiments import surgical_sam as surgical
from medjax import check, cli


def _scenes(*_):
  return prompt_free.drawn(12, 32, 0)


def _pictures(*_):
  return prompted_sets.drawn(12, 32, 0)


@pytest.mark.parametrize("module, preset, fields, load", [
  (cemb_sam, "lite", ("weights",), _pictures),
  (avit, "lesions", ("weights",), lambda *_: (_pictures(), None)),
  (surgical, "lite", ("weights",), _scenes),
  (sampot, "lite", ("weights",), _scenes),
  (samaug, "nuclei", ("weights",), None),  # these two read the weights before the pictures
  (sam_path, "nuclei", ("segmenter", "tissue"), None),
])  # fmt: skip
def test_damaged_weights_leave_nothing(tmp_path, monkeypatch, module, preset, fields, load):
  file, folder = tmp_path / "cut.safetensors", tmp_path / "pictures"
  file.write_bytes(b"\x00\x01 cut off")
  folder.mkdir()
  if load is not None:
    monkeypatch.setattr(module, "load", load)
  config = module.Config(**dict.fromkeys(fields, str(file)))
  options = cli.RunOptions(tmp_path / "run", 0, (folder,), preset, module.__name__)
  with pytest.raises(check.InputError, match=r"cut\.safetensors"):
    module.build(config, options)
  assert not (tmp_path / "run").exists()
