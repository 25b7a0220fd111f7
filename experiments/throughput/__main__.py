"""What steps and operations of all rooms cost here: times, first steps, memory, distance to floors.

  python -m experiments.throughput demo      small shapes; starts no group after 4 minutes
  python -m experiments.throughput rooms     small shapes, every group; about half an hour
  python -m experiments.throughput evidence  the shapes of the record
  python -m experiments.throughput device    the shapes of an accelerator, for its record; starts no
                                             group after 7 minutes; it has run on a CPU alone
  python -m experiments.throughput demo --only Methods Federated
  python -m experiments.throughput demo --compare KEPT/record.json
  python -m experiments.throughput demo --only Inference --profile

All programs of a group run in turn in one process, warm; times are medians with the 10th and 90th
percentile. Ratios are medians over rounds of (this program / the group's first), which cancels
what a shared machine does to both. The floor of a ratio comes from counting passes over the
network: a plain step is three (forward, input, weights), a hypergradient step ten, so 10/3 of a
plain step. The floor in milliseconds is that of `peaks.Peaks`: the operations at the speed of a
matrix product here, or arguments and results at the speed of a copy, whichever is longer.

results.json holds what is exact, by row: flops, temporary_bytes, peak_bytes. timing.json holds the
times: median_s, low_s, high_s, ratio with ratio_low and ratio_high (to the first row),
ratio_to_second, cold_s and cached_s (until the first call is done, with nothing compiled and with
compiled programs on the disk), examples_per_s, voxels_per_s, busy, floor_s, utilisation (where the
maker's figure for the device is known). record.json holds both with device, versions, commit and
peaks: the file to keep, and the one that --compare reads. A run that was ended early goes on after
the last group that it had measured. A further method adds a row to `groups`.
"""

import math
import pathlib
import time
from typing import Any, TypedDict

import jax
import numpy as np

from experiments.throughput.comparing import read_record, regressions
from experiments.throughput.config import PRESETS, Config
from experiments.throughput.groups import Group, groups
from experiments.throughput.measuring import Measured, Program, measure
from experiments.throughput.peaks import Peaks, peaks_of
from medjax import cli, files
from medjax.train.report import Report


class Row(TypedDict):
  """A program that was measured: what is exact and what is timed, see the module."""

  name: str
  exact: dict[str, float]
  timed: dict[str, float]


_HEADER = ["program", "ms", "10-90 %", "ratio", "floor of ratio", "floor, ms", "examples/s",
           "voxels/s", "first, s", "cached, s", "MiB beside", "MiB at most", "busy",
           "utilisation"]  # fmt: skip


def build(config: Config, options: cli.RunOptions) -> None:
  with options.directory(config) as directory:
    before = config.compare and read_record(config.compare, directory.config["devices"])
    if directory.finished:
      return
    began, peaks = time.perf_counter(), peaks_of(jax.devices()[0])
    report = Report("What a step costs", _lead(peaks))
    done = _kept(directory.path / "groups.json")
    left_out = []
    for title, group in groups(config).items():
      if title not in done and config.minutes and time.perf_counter() - began > 60 * config.minutes:
        left_out.append(title)
        continue
      if title not in done:
        trace = directory.path / "trace" / title if config.profile else None
        done[title] = _measured(title, group, config, peaks, trace)
        directory.write_json("groups", done)
        jax.clear_caches()  # the programs of a group are not needed again
      _section(report, title, done[title])
    results, timing = (
      {f"{title}: {row['name']}": row[kind] for title, rows in done.items() for row in rows}
      for kind in ("exact", "timed")
    )
    if left_out:
      text = f"Not measured within {config.minutes:g} minutes: {', '.join(left_out)}."
      print(text, flush=True)
      report.section("Left out").note(text)
    about = {name: directory.config[name] for name in ("versions", "commit", "devices")}
    record = {**about, "peaks": peaks._asdict(), "results": results, "timing": timing}
    worse = []
    if before:
      worse = regressions(record, before)
      report.section("Worse than the kept record").items(worse or ["nothing beyond the spread"])
      print("\n".join(f"worse: {line}" for line in worse) or "nothing is worse", flush=True)
    directory.write_json("timing", timing)
    report.what_ran(directory.config).write(directory.path / "report.html")
    directory.write_json("record", record)
    directory.write_json("results", results)
    if worse:
      raise SystemExit(1)


def _kept(path: pathlib.Path) -> dict[str, list[Row]]:
  """Title -> rows of the groups that an earlier part of this run has measured."""
  if not path.exists():
    return {}
  numbers = lambda own: {name: files.number(value) for name, value in own.items()}  # noqa: E731
  return {
    title: [
      {"name": row["name"], "exact": numbers(row["exact"]), "timed": numbers(row["timed"])}
      for row in rows
    ]
    for title, rows in files.read_json(path).items()
  }


def _measured(
  title: str, group: Group, config: Config, peaks: Peaks, trace: pathlib.Path | None
) -> list[Row]:
  """Rows of a group, the first first."""
  programs = group.make()
  found = measure(programs, config.num_rounds, peaks, cached=config.cached, trace=trace)
  second = found[programs[min(1, len(programs) - 1)].name].times
  rows: list[Row] = []
  for program in programs:
    own = found[program.name]
    exact, timed = _exact(own), _times(program, own, second, group.voxels)
    rows.append({"name": program.name, "exact": exact, "timed": timed})
    print(f"{title}: {program.name}: {_line(timed, exact)}", flush=True)
  return rows


def _lead(peaks: Peaks) -> str:
  known = "" if math.isnan(peaks.nominal) else f", {peaks.nominal / 1e12:g} by its maker"
  return (
    f"Measured on {jax.devices()[0].device_kind}. A matrix product reaches {peaks.flops / 1e12:.3g}"
    f" x 10^12 operations a second here{known}, a copy {peaks.bandwidth / 1e9:.3g} GB a second."
  )


def _exact(own: Measured) -> dict[str, float]:
  counts = own.counts
  return {
    "flops": counts.flops,
    "temporary_bytes": counts.temporary_bytes,
    "peak_bytes": counts.peak_bytes,
  }


def _times(program: Program, own: Measured, second: np.ndarray, voxels: int) -> dict[str, float]:
  low, median, high = np.percentile(own.times, [10, 50, 90]).tolist()
  ratio_low, ratio, ratio_high = np.percentile(own.ratios, [10, 50, 90]).tolist()
  return {
    "median_s": median,
    "low_s": low,
    "high_s": high,
    "ratio": ratio,
    "ratio_low": ratio_low,
    "ratio_high": ratio_high,
    "ratio_to_second": float(np.median(own.times / second)),
    "floor_ratio": math.nan if program.floor is None else program.floor,
    "floor_s": own.floor_s,
    "cold_s": own.cold_s,
    "cached_s": own.cached_s,
    "examples_per_s": program.num_examples / median,
    "voxels_per_s": voxels * program.num_examples / median if voxels else math.nan,
    "busy": own.busy,
    "utilisation": own.utilisation,
  }


def _line(times: dict[str, float], exact: dict[str, float]) -> str:
  return (
    f"{1e3 * times['median_s']:.2f} ms, {times['ratio']:.2f}x, first {times['cold_s']:.1f} s,"
    f" {exact['temporary_bytes'] / 2**20:.1f} MiB, {times['examples_per_s']:.1f} examples/s"
  )


def _section(report: Report, title: str, measured: list[Row]) -> None:
  """A table and bars of one group."""
  rows: list[list[Any]] = []
  for own in measured:
    exact, times = own["exact"], own["timed"]
    rows.append([
      own["name"], 1e3 * times["median_s"],
      f"{1e3 * times['low_s']:.3g} to {1e3 * times['high_s']:.3g}", times["ratio"],
      times["floor_ratio"], 1e3 * times["floor_s"], times["examples_per_s"],
      times["voxels_per_s"], times["cold_s"], times["cached_s"],
      exact["temporary_bytes"] / 2**20, exact["peak_bytes"] / 2**20, times["busy"],
      times["utilisation"],
    ])  # fmt: skip
  filled = [i for i in range(len(_HEADER)) if i < 4 or any(not _is_nan(row[i]) for row in rows)]
  report.section(title).table(
    [_HEADER[i] for i in filled],
    [[row[i] for i in filled] for row in rows],
    "Ratios are to the first row. Memory as the compiler counts it: beside arguments and results,"
    " and all of it at the fullest moment.",
  )
  first = measured[0]["timed"]["median_s"]
  floors = [
    max((x for x in (row[5], 1e3 * first * row[4]) if not _is_nan(x)), default=math.nan)
    for row in rows
  ]
  report.bars(
    [row[0] for row in rows],
    [row[1] for row in rows],
    "ms a call",
    marks=floors,
    caption="Bars: medians. Marks: the higher of the two floors, that of the ratio in times of the"
    " first row.",
  )


def _is_nan(value: Any) -> bool:
  return isinstance(value, float) and math.isnan(value)


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
