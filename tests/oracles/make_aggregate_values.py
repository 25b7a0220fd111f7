"""What ByzFL, torchjd, PyOD and Flower make of the rows in `tables`.

  python tests/oracles/make_aggregate_values.py

needs byzfl 0.0.11 and torchjd 0.18 with torch, pyod 3.6.7 with numba and scikit-learn, and flwr
1.42, which are not needed otherwise and may live in an environment of their own; they can be
installed without their dependencies. Writes aggregate_values.json beside this file: rule -> table
-> vector (of COPOD: scores; of "flower_multi_krum": the clients that are chosen), and the versions.

ByzFL's Krum sums over the n - f - 1 nearest, so its Krum(f + 1) is the paper's Krum(f). Its NumPy
path stays in float64. The packages of ByzFL that draw pictures are not imported, and of Flower two
functions are taken from their file, since the package wants a server's libraries.
"""

import ast
import importlib.metadata
import importlib.util
import json
import pathlib
import sys
import types
import typing

import numpy as np

HERE = pathlib.Path(__file__).parent
WRONG, CHOSEN, TAU, STEPS = 3, 4, 1.5, 3
"""Wrong clients, vectors of multi-Krum, radius and iterations of centred clipping."""


def tables():
  """Rows of 11 clients by name: a cloud, one with 3 far clients, one with two sizes."""
  base = np.random.default_rng(28).normal(1.0, 1.0, (11, 5)).round(3)
  far = base + np.array([[0.0]] * 8 + [[4.0]] * 3)
  return {"cloud": base, "far": far, "sizes": base * np.linspace(0.2, 3, 11)[:, None].round(3)}


def distances(rows):
  """Euclidean distances of all pairs of rows: what COPOD is given."""
  return np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(-1))


def package_folder(name):
  spec = importlib.util.find_spec(name)
  assert spec is not None and spec.submodule_search_locations, name
  return pathlib.Path(next(iter(spec.submodule_search_locations)))


def byzfl_rules():
  folder = package_folder("byzfl")
  package = types.ModuleType("byzfl")  # without its __init__, which wants torchvision
  package.__path__ = [str(folder)]
  sys.modules["byzfl"] = package
  from byzfl.aggregators import aggregators, preaggregators

  mixing = preaggregators.NNM(f=WRONG)
  return {
    "byzfl_median": aggregators.Median(),
    "byzfl_trimmed_mean": aggregators.TrMean(f=WRONG),
    "byzfl_krum": aggregators.Krum(f=WRONG + 1),
    "byzfl_geometric_median": aggregators.GeometricMedian(nu=1e-9, T=500),
    # Anew for every table: it would go on from the centre of the table before.
    "byzfl_centred_clipping": lambda rows: aggregators.CenteredClipping(L=STEPS, tau=TAU)(rows),
    "byzfl_mixing": lambda rows: aggregators.TrMean(f=WRONG)(mixing(rows)),
  }


def torchjd_trimmed_mean(rows):
  import torch
  from torchjd import aggregation

  return aggregation.TrimmedMean(WRONG)(torch.tensor(rows, dtype=torch.float64)).numpy()


def pyod_copod(rows):
  from pyod.models.copod import COPOD

  return COPOD().fit(distances(rows)).decision_scores_


def flower_multi_krum(rows):
  path = package_folder("flwr") / "serverapp" / "strategy" / "multikrum.py"
  wanted = ("compute_distances", "select_multikrum")
  functions = [n for n in ast.parse(path.read_text()).body if getattr(n, "name", "") in wanted]
  space = {"np": np, "cast": typing.cast, "ArrayRecord": list, "RecordDict": dict, "NDArray": list}
  exec(compile(ast.Module(functions, []), str(path), "exec"), space)

  class Reply(dict):
    array_records = {"rows": None}

  class Record:
    def __init__(self, row):
      self.row = row

    def to_numpy_ndarrays(self):
      return [self.row]

  replies = [Reply(rows=Record(row), client=i) for i, row in enumerate(rows)]
  return np.sort([one["client"] for one in space["select_multikrum"](replies, WRONG, CHOSEN)])


def main():
  rules = {
    **byzfl_rules(),
    "torchjd_trimmed_mean": torchjd_trimmed_mean,
    "pyod_copod": pyod_copod,
    "flower_multi_krum": flower_multi_krum,
  }
  values = {
    rule: {name: np.round(np.asarray(join(rows)), 9).tolist() for name, rows in tables().items()}
    for rule, join in rules.items()
  }
  packages = ("byzfl", "torchjd", "torch", "pyod", "flwr", "numpy")
  found = {
    "command": "python tests/oracles/make_aggregate_values.py",
    "versions": {name: importlib.metadata.version(name) for name in packages},
    "values": values,
  }
  (HERE / "aggregate_values.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
  main()
