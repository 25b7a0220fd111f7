"""Command line of `experiments.site_transfer`."""

from experiments import site_transfer
from medjax import cli

if __name__ == "__main__":
  cli.run(site_transfer.PRESETS, site_transfer.build, site_transfer.__doc__)
