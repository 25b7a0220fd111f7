"""What small_gicp's ICP makes of the clouds in `clouds`.

  python tests/oracles/make_registration_values.py

needs small_gicp 1.0, which is not needed otherwise and may live in an environment of its own.
Writes registration_values.json beside this file: cloud -> matrix [4, 4] that brings the moving
points to the fixed ones, and the version.

Its "ICP" pairs each point with the nearest one, as ours, but takes Gauss-Newton steps where ours
solves Procrustes' problem: other iterations with the same end. It knows 3D only, so layers of a
stack get a height of 0. It is started from centroids that coincide, as ours starts by itself.
Clouds that overlap in part are not here: they have several ends next to each other (.0003 apart
was seen), and which one is reached depends on the steps.
"""

import importlib.metadata
import json
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent


def clouds():
  """(moving, fixed) in float64 by name: a curved sheet and a layer of tissue."""
  random = np.random.default_rng(18)
  x, y = np.meshgrid(np.linspace(-1, 1, 15), np.linspace(-0.6, 0.6, 10))
  sheet = np.stack([x, y, 0.4 * x**2 + 0.3 * np.sin(3 * y) + 0.1 * x], -1).reshape(-1, 3)
  layer = random.normal(0, 0.12, (120, 2)) + random.uniform(-1, 1, (6, 2)).repeat(20, 0)
  found = {}
  for name, points in (("sheet", sheet), ("layer", layer)):
    angle, cos, sin = 0.12, np.cos(0.12), np.sin(0.12)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1.0]])
    if points.shape[1] == 3:
      tilt = np.array([[1, 0, 0], [0, np.cos(angle / 2), -np.sin(angle / 2)],
                       [0, np.sin(angle / 2), np.cos(angle / 2)]])  # fmt: skip
      turn = turn @ tilt
    axes = points.shape[1]
    noise = random.normal(0, 0.01, points.shape)
    fixed = points @ turn[:axes, :axes].T + np.array([0.7, -0.3, 0.2])[:axes] + noise
    found[name] = points.round(4), fixed.round(4)
  return found


def _raised(points):
  return np.pad(points, [(0, 0), (0, 3 - points.shape[1])])


def main():
  import small_gicp

  values = {}
  for name, (moving, fixed) in clouds().items():
    source, target = _raised(moving), _raised(fixed)
    start = np.eye(4)
    start[:3, 3] = target.mean(0) - source.mean(0)
    tight = {"rotation_epsilon": 1e-8, "translation_epsilon": 1e-8, "max_iterations": 300}
    found = small_gicp.align(
      small_gicp.PointCloud(target),
      small_gicp.PointCloud(source),
      init_T_target_source=start,
      registration_type="ICP",
      max_correspondence_distance=100.0,
      **tight,
    )
    assert found.converged and found.num_inliers == len(source), name
    values[name] = np.asarray(found.T_target_source).tolist()
  about = {"versions": {"small_gicp": importlib.metadata.version("small_gicp")}, "values": values}
  (HERE / "registration_values.json").write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
  main()
