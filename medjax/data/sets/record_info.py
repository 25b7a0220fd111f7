"""medjax.json beside the ArrayRecord files of a prepared set: what they were made of."""

import json
import pathlib
from collections.abc import Mapping

from medjax.check import InputError, require
from medjax.types import Json

INFO = "medjax.json"
FORMAT = 1


def read_info(path: pathlib.Path) -> dict[str, Json]:
  try:
    info = json.loads(path.read_text(encoding="utf-8"))
    found = info["format"]
  except (ValueError, KeyError, TypeError) as error:
    raise InputError(f"a readable {path}", "a damaged one", "prepare the set anew") from error
  require(found == FORMAT, f"format {FORMAT} in {path}", f"{found}", "prepare the set anew")
  return info


def write_info(path: pathlib.Path, content: Mapping[str, Json]) -> None:
  path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
