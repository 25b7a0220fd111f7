"""What can be run here, and what came of it.

python -m experiments                             the studies: paper, presets, minutes, verdicts
python -m experiments claims --output FOLDER      writes claims.md and claims.html: the claims, and
                                                  how many trainings fit an hour
"""

import dataclasses
import pathlib
from typing import Literal

from experiments import catalogue, claims, run_costs
from medjax import cli


@dataclasses.dataclass(frozen=True)
class Options:
  """A word, and where to write to."""

  what: cli.Positional[Literal["list", "claims"]] = "list"
  """list: the studies; claims: the table of claims from the records."""
  output: pathlib.Path = pathlib.Path("runs")
  """Folder of claims.md and claims.html; made if absent."""


def main(options: Options) -> None:
  if options.what == "list":
    print(catalogue.text(catalogue.studies()))
    return
  found = claims.judged(claims.CLAIMS, catalogue.RECORDS) + claims.registered(catalogue.RECORDS)
  options.output.mkdir(parents=True, exist_ok=True)
  took = run_costs.costs(catalogue.RECORDS)
  text = claims.markdown(found) + "\n" + run_costs.markdown(took)
  (options.output / "claims.md").write_text(text, encoding="utf-8")
  run_costs.section(claims.page(found), took).write(options.output / "claims.html")
  print(f"written: {options.output / 'claims.md'} and {options.output / 'claims.html'}")


if __name__ == "__main__":
  cli.command(Options, main, __doc__, prog="python -m experiments")
