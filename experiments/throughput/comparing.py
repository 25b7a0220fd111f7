"""Which rows of a benchmark became slower or larger than a kept record says."""

import pathlib
from collections.abc import Mapping
from typing import Any

from medjax import files
from medjax.check import InputError, existing_file, require

_MORE_FLOPS = 1.01  # the compiler's counts move by rounding only
_MORE_BYTES = 1.05


def read_record(path: pathlib.Path, devices: Mapping[str, Any]) -> dict[str, Any]:
  """A record.json of this benchmark, made on a device of the same kind.

  Raises:
    InputError: no such file, another kind of file, or another kind of device.
  """
  record = files.read_json(existing_file(path))
  is_ours = isinstance(record, dict) and {"timing", "results", "devices"} <= set(record)
  require(is_ours, f"a record.json of this benchmark in {path}", "another file", "pass such a file")
  if record["devices"]["kind"] != devices["kind"]:
    raise InputError(
      f"a record made on {devices['kind']}",
      f"one made on {record['devices']['kind']}",
      "compare runs of one kind of device",
    )
  return record


def regressions(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
  """A line for each row that is worse than before beyond the spread.

  Times are compared as ratios to the first row of their group, which a busy machine does not move;
  those of the first rows as seconds. A row is slower if the 10th percentile of now lies above the
  90th percentile of before. Rows that only one of the two has are passed over.

  >>> row = {"ratio": 2.0, "ratio_low": 1.9, "ratio_high": 2.1, "median_s": 1, "low_s": 1,
  ...        "high_s": 1}
  >>> slow = row | {"ratio": 2.6, "ratio_low": 2.5, "ratio_high": 2.7}
  >>> counts = {"a: b": {"flops": 10.0, "temporary_bytes": 100.0}}
  >>> regressions({"timing": {"a: b": slow}, "results": counts},
  ...             {"timing": {"a: b": row}, "results": counts})
  ['a: b: ratio 2.6 (2.5 to 2.7), before 2 (1.9 to 2.1)']
  """
  lines = []
  for name, own in now["timing"].items():
    old = before["timing"].get(name)
    if old is not None:
      what = "median_s" if own["ratio"] == own["ratio_low"] == 1 else "ratio"
      low, high = ("low_s", "high_s") if what == "median_s" else ("ratio_low", "ratio_high")
      if high in old and own[low] > old[high]:
        shown = (f"{x[what]:.3g} ({x[low]:.3g} to {x[high]:.3g})" for x in (own, old))
        unit = "seconds" if what == "median_s" else "ratio"
        lines.append(f"{name}: {unit} {', before '.join(shown)}")
    for what, most in (("flops", _MORE_FLOPS), ("temporary_bytes", _MORE_BYTES)):
      new, kept = (x["results"].get(name, {}).get(what) for x in (now, before))
      if new and kept and new > most * kept:
        lines.append(f"{name}: {what} {new:.4g}, before {kept:.4g}")
  return lines
