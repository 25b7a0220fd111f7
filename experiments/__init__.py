"""One file a study; run with `python -m experiments.NAME PRESET`."""
