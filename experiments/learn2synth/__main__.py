"""Command line of `experiments.learn2synth`."""

from experiments import learn2synth
from medjax import cli

if __name__ == "__main__":
  cli.run(learn2synth.PRESETS, learn2synth.build, learn2synth.__doc__)
