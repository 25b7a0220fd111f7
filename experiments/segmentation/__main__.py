"""Command line of `experiments.segmentation`."""

from experiments import segmentation
from medjax import cli

if __name__ == "__main__":
  cli.run(segmentation.PRESETS, segmentation.build, segmentation.__doc__)
