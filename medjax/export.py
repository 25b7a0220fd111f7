"""One trained network as a program without Python code.

  python -m medjax.export --run RUN --output network.zip

See `inference.exported` for the file. `python -m medjax.predict --run network.zip` predicts.
"""

import dataclasses
import pathlib

from medjax import cli, files
from medjax.check import require
from medjax.inference import exported
from medjax.loading import load_members


@dataclasses.dataclass(frozen=True)
class Config:
  run: pathlib.Path
  """Run directory or .safetensors file."""
  output: pathlib.Path
  """File to write, ending in .zip."""
  member: str = ""
  """Name of the network, as in RUN/weights; not needed if there is one."""
  platforms: tuple[str, ...] = ()
  """Of cpu, cuda, rocm, tpu; none: the one that this machine has."""


def run(config: Config) -> None:
  require(
    config.output.name.endswith(exported.SUFFIX),
    f"an output file ending in {exported.SUFFIX}",
    f"{config.output}",
    "rename it",
  )
  members = load_members(config.run, names=[config.member] if config.member else None)
  require(
    len(members) == 1,
    f"one network in {config.run}",
    f"{len(members)}: {', '.join(member.name for member in members)}",
    "pass --member NAME",
  )
  content = exported.export_member(members[0], platforms=config.platforms or None)
  files.write_bytes(config.output, content)
  print(f"{config.output}: {len(content) / 1000:,.0f} kB")


if __name__ == "__main__":
  cli.command(Config, run, __doc__, prog="python -m medjax.export")
