"""Serial sections: does registering a band of points cost no accuracy and a tenth of the time?

Wu, Shen and Ke, "A General Computationally-Efficient 3D Reconstruction Pipeline for Multiple Images
with Point Clouds" (2023): each layer of a tissue block is registered to the one below by iterated
closest points (ICP) of a band, a third of the points. Claims: smaller errors than with all points,
in 10.94 % of the time. The control that the paper lacks is a random third.

  python -m experiments.serial_sections demo        simulated blocks of 8 layers; about 1 minute
  python -m experiments.serial_sections evidence    20 blocks of 12 layers; about 6 minutes
  python -m experiments.serial_sections sections --data FOLDER
                                                    landmarks of real sections; under a minute

Times are for 2 CPU cores. FOLDER holds BLOCK/ANNOTATOR/SECTION.csv as the CIMA and BIRL landmark
sets do (columns X and Y; row i of every section of a block is the same place of the tissue). The
annotator with most sections is taken, and sections stand in the order of their names. Landmarks are
registered as clouds, without use of their correspondence, which then says how wrong the result is.

Arms match all points, a cross (the union of two bands, as the text and Figure 3 have it), a square
(their intersection, as Algorithm 1 prints it), a random third; "centroids" only lays the centroids
on one another. Errors are in percent of the diagonal of the fixed layer: rmse, over ALL points,
between where a registration puts a point and where it belongs (role "pair": neighbours; role
"stack": the last layer in the frame of the first, through all layers between); nearest, the paper's
own measure, over all points to the closest one, which falls with any wrong match.

DEVIATIONS: points come from label maps or landmarks, there is no segmentation network; rotation in
the plane (the paper fits one in 3D to two flat layers and resets the height); a band holds a fixed
number of points; neighbours are registered in their own frames and composed, not one after another.

results.json: the common schema of `study.results`; flops_an_update: of one iteration of one pair.
cases.csv: a row a pair or stack. timing.json: seconds_a_pair.<arm>.
"""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import tissue_blocks
from experiments.tissue_blocks import Block, diagonal
from medjax import check, cli, programs, study
from medjax.data import manifest, sets
from medjax.ops import rigid
from medjax.train import Report

# --- settings


@dataclasses.dataclass(frozen=True)
class Config(study.Settings):
  """Registration of layers by some of their points."""

  num_blocks: int = 8  # simulated blocks of tissue
  num_layers: int = 8  # sections of a block
  num_points: int = 400  # points of a simulated layer
  arms: tuple[str, ...] = ("full", "cross", "square", "random", "centroids")  # what is compared
  share: float = 1 / 3  # of the points, in a band or at random
  angle: float = 8.0  # standard deviation in degrees of the turn of each layer
  shift: float = 5.0  # standard deviation in percent of a layer's diagonal, along each axis
  furthest: float = 0.0  # of a pair that counts, in percent of the diagonal; 0: all count
  num_iterations: int = 20  # of ICP
  margin: float = 0.1  # percent of the diagonal, that a difference has to exceed to be called one

  def __post_init__(self):
    super().__post_init__()
    study.chosen("arms", self.arms, ARMS)
    check.in_interval("share", self.share, 0.01, 1.0)
    check.require(self.num_layers >= 2, "num_layers >= 2", f"{self.num_layers}", "pass more")


# --- arms: which points of the moving layer look for a partner

Choice = Callable[[jax.Array, jax.Array], jax.Array]
"""`choice(points, key)` -> [point], of which the least are taken."""


def _random(points: jax.Array, key: jax.Array) -> jax.Array:
  return jax.random.uniform(key, (len(points),))


def _by(choice: Choice | None) -> Callable[[Config], tuple[Choice | None, int]]:
  return lambda config: (choice, config.num_iterations)


ARMS = study.arms(
  study.Arm("full", "all points", _by(None)),
  study.Arm(
    "cross",
    "a third: the union of two bands, as the text has it",
    _by(lambda points, key: rigid.cross_distance(points)),
  ),
  study.Arm(
    "square",
    "a third: their intersection, as the algorithm is printed",
    _by(lambda points, key: rigid.square_distance(points)),
  ),
  study.Arm("random", "a third at random: the control", _by(_random)),
  study.Arm("centroids", "no match at all: centroids alone", lambda config: (None, 0)),
)


def registration(
  config: Config, arm: str
) -> Callable[[jax.Array, jax.Array, jax.Array, jax.Array], rigid.Rigid]:
  """`register(moving, fixed, diagonals, keys)` for all pairs of a block, four at a time."""
  choice, num_steps = ARMS[arm].make(config)

  def one(pair: tuple[jax.Array, jax.Array, jax.Array, jax.Array]) -> rigid.Rigid:
    moving, fixed, extent, key = pair
    if choice is not None:
      number = max(round(config.share * len(moving)), 3)
      moving, _ = rigid.subset(moving, choice(moving, key), number)
    if num_steps == 0:
      return rigid.Rigid(jnp.eye(2), jnp.mean(fixed, 0) - jnp.mean(moving, 0))
    # Distances are compared in units of the diagonal, so the bound is one number for all pairs.
    most = config.furthest / 100 if config.furthest else None
    found = rigid.icp(moving / extent, fixed / extent, max_distance=most, num_steps=num_steps)
    return rigid.Rigid(found.rotation, found.shift * extent)

  return jax.jit(lambda *pairs: jax.lax.map(one, pairs, batch_size=4))


# --- scores


def score(block: Block, found: rigid.Rigid, about: dict[str, Any]) -> list[dict[str, Any]]:
  """A row a pair of neighbours, and one for the last layer in the frame of the first."""
  composed, last = rigid.compose(found), len(block.home) - 1
  asked = [("pair", f"{block.name} {k + 1}", found, block.below, k, k) for k in range(last + 1)]
  asked.append(("stack", block.name, composed, block.home, last, 0))
  return [
    {**about, "role": role, "case": case, "subject": block.name, "domain": ""}
    | _figures(block.layers[k + 1], _entry(stack, k), right[k], block.layers[fixed])
    for role, case, stack, right, k, fixed in asked
  ]


def _figures(
  moving: np.ndarray, found: rigid.Rigid, right: np.ndarray, fixed: np.ndarray
) -> dict[str, float]:
  extent = diagonal(fixed)
  put = moving @ np.asarray(found.rotation, float).T + np.asarray(found.shift, float)
  x, y, there = (jnp.asarray(points / extent, jnp.float32) for points in (moving, right, put))
  squares = rigid.nearest(there, jnp.asarray(fixed / extent, jnp.float32))[1]
  return {
    "rmse/all": float(np.sqrt(((put - right) ** 2).sum(-1).mean())) / extent * 100,
    "nearest/all": float(jnp.sqrt(jnp.mean(squares))) * 100,
    "angle/all": abs(_degrees(found.rotation @ rigid.procrustes(x, y).rotation.T)),
  }


def _entry(stack: rigid.Rigid, k: int) -> rigid.Rigid:
  return rigid.Rigid(stack.rotation[k], stack.shift[k])


def _degrees(rotation: jax.Array) -> float:
  return float(np.rad2deg(np.arctan2(rotation[1, 0], rotation[0, 0])))


# --- questions, written down before the run

_SPREAD = (("subject", 0.3), ("seed", 0.1))  # percent of the diagonal
QUESTIONS = (
  study.Question(
    "Does a band cost accuracy?", "full", ("cross", "square"), "rmse", "pair",
    expects="equivalent", spread=_SPREAD,
  ),
  study.Question(
    "Is a band better than a random third?", "random", ("cross", "square"), "rmse", "pair",
    spread=_SPREAD,
  ),
  study.Question(
    "Does a band drift more through the stack?", "full", ("cross", "square", "random"), "rmse",
    "stack", expects="open",
  ),
  study.Question(
    "Does matching help at all?", "centroids", ("full",), "rmse", "pair", spread=_SPREAD,
  ),
)  # fmt: skip

PRESETS = {
  "demo": Config(),
  "evidence": Config(num_blocks=20, num_layers=12, num_points=800, num_iterations=30),
  "sections": Config(),
}

# --- the run and its page


def build(config: Config, options: cli.RunOptions) -> None:
  is_real = options.preset == "sections"
  paths = study.paths_of(options.data, 1 if is_real else 0)
  blocks = (
    sets.section_landmarks(paths[0]) if is_real else tissue_blocks.simulated(config, options.seed)
  )
  design = study.design(
    config,
    options.seed,
    QUESTIONS,
    config.arms,
    {"test": [name for name, _ in blocks]},
    tested=("pair", "stack"),
    kind="blocks; none trains",
  )
  about = {"blocks": {name: manifest.array_digest(points) for name, points in blocks}}
  with options.directory(config, about) as directory:
    if directory.finished:
      return
    design.begin(directory)
    register = {arm: registration(config, arm) for arm in config.arms}
    rows: list[dict[str, Any]] = []
    seconds: dict[str, list[float]] = {arm: [] for arm in config.arms}
    for seed in design.seeds:
      for number, (name, tissue) in enumerate(blocks):
        block = tissue_blocks.cut(config, name, tissue, is_real, seed)
        pairs = _pairs(block, jax.random.fold_in(jax.random.key(seed), number))
        for arm in config.arms:
          register[arm](*pairs)  # compiled now, not when it is timed
          began = time.perf_counter()
          found = jax.block_until_ready(register[arm](*pairs))
          seconds[arm].append((time.perf_counter() - began) / len(block.below))
          rows += score(block, found, {"arm": arm, "seed": seed})
    shapes = _pairs(tissue_blocks.cut(config, *blocks[0], is_real, options.seed), jax.random.key(0))
    flops = {arm: programs.flops(jax.jit(f).lower(*shapes)) / 4 for arm, f in register.items()}
    found = design.results(
      rows,
      ("rmse", "nearest", "angle"),
      costs=flops,
      flops=flops,
      is_simulated=not is_real,
    )
    times = {"seconds_a_pair": {arm: float(np.median(own)) for arm, own in seconds.items()}}
    report = page(config, found, times["seconds_a_pair"], is_real)
    study.finish(directory, found, report, rows=rows, times=times)


def _pairs(block: Block, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  layers = jnp.asarray(block.layers, jnp.float32)
  extents = jnp.asarray([diagonal(points) for points in block.layers[:-1]], jnp.float32)
  return layers[1:], layers[:-1], extents, jax.random.split(key, len(extents))


def page(config: Config, found: dict[str, Any], seconds: dict[str, float], is_real: bool) -> Report:
  """The answers, errors, verdicts and what an arm costs."""
  title = "landmarks of real sections" if is_real else "simulated tissue"
  report = study.page.start(f"Registering {title}", found)
  study.page.scores(report, found, ARMS, text="Errors in percent of a layer's diagonal.")
  study.page.verdicts(report, found["questions"], not_asked=found["not_asked"])
  report.table(
    ["arm", "milliseconds a pair", "of the full one's"],
    [[arm, 1000 * own, own / seconds.get("full", np.nan)] for arm, own in seconds.items()],
    f"Median over blocks of {config.num_iterations} iterations. Distances are formed between the"
    " chosen points and ALL points of the fixed layer, so a third of the points is a third of the"
    " work, not a ninth.",
  )
  return report


if __name__ == "__main__":
  cli.run(PRESETS, build, __doc__)
