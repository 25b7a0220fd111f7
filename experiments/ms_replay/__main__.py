"""Command line of `experiments.ms_replay`."""

from experiments import ms_replay
from medjax import cli

if __name__ == "__main__":
  cli.run(ms_replay.PRESETS, ms_replay.build, ms_replay.__doc__)
