"""What torchjd makes of the tables of gradients in `tables`, and of losses that change.

  python tests/oracles/make_combine_values.py

needs torchjd 0.18 with torch, cvxpy, clarabel, ecos, quadprog and qpsolvers, which are not needed
otherwise and may live in an environment of their own. Writes combine_values.json beside this file:
rule -> table -> direction, losses -> weights, and the versions.
"""

import importlib.metadata
import json
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent
LOSSES = [[2.0, 2.0, 1.0], [1.0, 1.9, 1.5], [0.8, 1.9, 0.5], [0.7, 1.0, 0.5]]
"""Mean losses of three tasks in four epochs."""
DRAWS = 4000
"""Random directions of a table whose mean is kept."""


def tables():
  """Rows of tasks by name; two tasks stand first in "pair"."""
  base = np.random.default_rng(6).standard_normal((3, 4)).round(3)
  return {
    "random": base,
    "opposed": np.array([[3.0, 1, 0, 0], [-2, 0.5, 1, 0], [0.1, -1, 0.2, 2]]),
    "sizes": base * np.array([[10.0], [1.0], [0.1]]),
    "pair": np.array([[4.0, 0, 0, 1], [-1, 2, 0, 0]]),
  }


def directions():
  import torch
  from torchjd import aggregation
  from torchjd.linalg import QuadprogProjector

  rules = {
    "mean": aggregation.Mean,
    "cagrad": lambda: aggregation.CAGrad(c=0.5, norm_eps=1e-12),
    "mgda": lambda: aggregation.MGDA(epsilon=1e-12, max_iters=20_000),
    "imtl_g": aggregation.IMTLG,
    "aligned_mtl": aggregation.AlignedMTL,
    "upgrad": lambda: aggregation.UPGrad(projector=QuadprogProjector(norm_eps=0.0, reg_eps=1e-10)),
    "config": aggregation.ConFIG,
  }
  found = {name: {} for name in (*rules, "nash_mtl", "pcgrad", "graddrop")}
  for name, table in tables().items():
    rows = torch.tensor(table, dtype=torch.float64)
    if len(rows) == 2:  # with more rows the order is drawn
      found["pcgrad"][name] = aggregation.PCGrad()(rows).tolist()
      continue
    for rule, make in rules.items():
      found[rule][name] = make()(rows).tolist()
    nash = aggregation.NashMTL(n_tasks=len(rows), max_norm=0.0, optim_niter=100)
    d = nash(rows)
    found["nash_mtl"][name] = (d / d.norm()).tolist()  # its length has a scale of its own
    torch.manual_seed(0)
    drawn = [aggregation.GradDrop()(rows) for _ in range(DRAWS)]
    found["graddrop"][name] = torch.stack(drawn).mean(0).tolist()
  return found


def weights():
  import torch
  from torchjd import scalarization

  rule, found = scalarization.DWA(), []
  for losses in LOSSES:
    values = torch.tensor(losses, dtype=torch.float64, requires_grad=True)
    rule(values).backward()
    found.append(values.grad.tolist())
    rule.step()
  return found


def uncertainties():
  import torch
  from torchjd import scalarization

  rule, found = scalarization.UW(3).double(), []
  tx = torch.optim.SGD(rule.parameters(), lr=0.3)
  for losses in LOSSES:
    values = torch.tensor(losses, dtype=torch.float64, requires_grad=True)
    tx.zero_grad()
    rule(values).backward()
    found.append(values.grad.tolist())
    tx.step()
  return found


def rounded(value):
  if isinstance(value, dict):
    return {name: rounded(own) for name, own in value.items()}
  if isinstance(value, list):
    return [rounded(own) for own in value]
  return round(value, 9) if isinstance(value, float) else value


def main():
  packages = ("torchjd", "torch", "cvxpy", "clarabel", "ecos", "quadprog")
  found = {
    "command": "python tests/oracles/make_combine_values.py",
    "versions": {name: importlib.metadata.version(name) for name in packages},
    "directions": directions(),
    "dwa": weights(),
    "uncertainty": uncertainties(),
  }
  text = json.dumps(rounded(found), indent=1)
  (HERE / "combine_values.json").write_text(text + "\n")


if __name__ == "__main__":
  main()
