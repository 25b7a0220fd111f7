"""What medpy, MONAI and DeepMind's surface-distance make of the pairs of `masks`.

  python tests/oracles/make_surface_values.py

needs medpy 0.5.2, monai 1.6.1 (torch) and surface-distance 0.1, which are not needed otherwise and
may live in an environment of their own. Writes surface_values.json beside this file:
pair -> peer -> figure, and the versions.
"""

import importlib.metadata
import json
import pathlib
import sys
import warnings

import numpy as np

HERE = pathlib.Path(__file__).parent


def medpy_values(pair):
  from medpy.metric import binary

  first, second, spacing = pair
  return {
    "dice": binary.dc(first, second),
    "jaccard": binary.jc(first, second),
    "hausdorff": binary.hd(first, second, spacing),
    "hd95_pooled": binary.hd95(first, second, spacing),
    "assd": binary.assd(first, second, spacing),
  }


def monai_values(pair, tolerance_mm):
  import torch
  from monai import metrics

  first, second = (torch.tensor(mask)[None, None] for mask in pair[:2])
  settings = {"include_background": True, "spacing": pair.spacing}
  both = first, second

  def surface_dice(use_subvoxels):
    return metrics.compute_surface_dice(
      *both, class_thresholds=[tolerance_mm], use_subvoxels=use_subvoxels, **settings
    )

  return {
    "hausdorff": metrics.compute_hausdorff_distance(*both, **settings),
    "hd95_max_directed": metrics.compute_hausdorff_distance(*both, percentile=95, **settings),
    "assd": metrics.compute_average_surface_distance(*both, symmetric=True, **settings),
    "surface_dice_voxel": surface_dice(False),
    "surface_dice_surfel": surface_dice(True),
  }


def deepmind_values(pair, tolerance_mm):
  import surface_distance

  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scipy's old names
    found = surface_distance.compute_surface_distances(pair.target, pair.prediction, pair.spacing)
  return {
    "hd95_surfel": surface_distance.compute_robust_hausdorff(found, 95),
    "surface_dice_surfel": surface_distance.compute_surface_dice_at_tolerance(found, tolerance_mm),
  }


def main():
  sys.path.insert(0, str(HERE))
  import masks

  values = {}
  for name, pair in masks.pairs().items():
    peers = {
      "medpy": medpy_values(pair),
      "monai": monai_values(pair, masks.TOLERANCE_MM),
      "deepmind": deepmind_values(pair, masks.TOLERANCE_MM),
    }
    values[name] = {
      peer: {figure: round(float(value), 7) for figure, value in figures.items()}
      for peer, figures in peers.items()
    }
    values[name]["voxels"] = [int(np.count_nonzero(mask)) for mask in pair[:2]]
  versions = {n: importlib.metadata.version(n) for n in ("medpy", "monai", "surface-distance")}
  content = {"versions": versions, "tolerance_mm": masks.TOLERANCE_MM, "pairs": values}
  (HERE / "surface_values.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
  main()
