"""Answers of prompted and of prompt-free networks on clean and on spoiled pictures.

Not a study: the scores of `surgical_sam`.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.prompt_free import PROMPTS, Problem, asked, filled, objects, widened
from medjax import cli, rng, study
from medjax.data.augmentation import CORRUPTIONS, Corrupted
from medjax.types import Array, Key, Params


def by_prompt(
  problem: Problem, params: Params, seen: np.ndarray, own: dict[str, np.ndarray], kind: str
) -> np.ndarray:
  """[object, side, side] answers to a prompt of each object, on embeddings of the pictures."""
  prompts = jax.vmap(functools.partial(asked, kind))(
    jnp.asarray(own["box"]), jnp.asarray(own["point"])
  )
  return problem.masks(params, (seen[own["picture"]], prompts))


def by_class(
  problem: Problem, params: Params, seen: np.ndarray, own: dict[str, np.ndarray]
) -> np.ndarray:
  """[object, side, side] the mask of each object's class, drawn without a prompt."""
  return problem.classes(params, seen)[own["picture"]] == own["class"][:, None, None]


def dice(found: np.ndarray, own: dict[str, np.ndarray], count: int) -> np.ndarray:
  """[picture] mean Dice over the objects of each picture."""
  truth = own["mask"]
  both, total = (found & truth).sum((1, 2)), found.sum((1, 2)) + truth.sum((1, 2))
  each = 2 * both / np.maximum(total, 1)
  sums = np.bincount(own["picture"], each, count)
  return sums / np.bincount(own["picture"], minlength=count)


def spoiled(image: np.ndarray, name: str, severities: Sequence[int], seed: int) -> np.ndarray:
  """[severity, n, side, side, 3] pictures under one corruption; one draw a picture for all."""

  @jax.jit
  def change(key: Key, one: Array) -> Array:
    drawn = CORRUPTIONS[name].draw(key, one.shape)
    return jnp.stack([Corrupted(name, s).apply(drawn, one) for s in severities])

  keys = [jax.random.fold_in(rng.stream(jax.random.key(seed), name), i) for i in range(len(image))]
  return np.stack(
    [np.asarray(change(k, jnp.asarray(x))) for k, x in zip(keys, image, strict=True)], 1
  )


def equal_width(problem: Problem, networks: Any, store: Any, seen: np.ndarray) -> float:
  """How far boxes are widened until their Dice on these pictures is nearest to that of classes."""
  if "classes" not in networks:
    return 0.0
  own, count, params = (
    objects(store["label"]),
    len(store["label"]),
    networks["prompted"],
  )
  adapted = problem.embed(networks["classes"], store["image"])
  found = by_class(problem, networks["classes"], adapted, own)
  aim = dice(found, own, count).mean()
  apart = {}
  for width in np.linspace(0, 0.5, 11):
    wide = {**own, "box": widened(own["box"], width, problem.side)}
    answer = by_prompt(problem, params, seen, wide, "box")
    apart[float(width)] = abs(dice(answer, own, count).mean() - aim)
  return min(apart, key=lambda width: apart[width])


def scored(
  config: Any, options: cli.RunOptions, directory: Any, problem: Problem, networks: Any,
  store: Any, names: list[str], width: float, seed: int,
) -> list[dict[str, Any]]:  # fmt: skip
  """Rows of every arm on clean pictures and in every cell of the suite."""
  own, count = objects(store["label"]), len(store["label"])
  wide = {**own, "box": widened(own["box"], width, problem.side)}
  prompted = networks["prompted"]
  answers = {
    **{kind: functools.partial(by_prompt, problem, prompted, own=own, kind=kind)
       for kind in PROMPTS},
    "equal": functools.partial(by_prompt, problem, prompted, own=wide, kind="box"),
    "fill": lambda seen: filled(own["box"], problem.side),
  }  # fmt: skip
  for arm in (arm for arm in ("head", "classes") if arm in networks):
    answers[arm] = functools.partial(by_class, problem, networks[arm], own=own)
  if "boxed" in networks:
    by_box = functools.partial(by_prompt, problem, own=own, kind="box")
    answers["boxed"] = functools.partial(by_box, networks["boxed"])
  answers = {arm: answer for arm, answer in answers.items() if arm in config.arms}
  # Arms whose encoder was not adapted look at the same embeddings.
  encoders = {arm: arm if arm in ("classes", "boxed") else "prompted" for arm in answers}

  def dice_of(images: np.ndarray) -> dict[str, np.ndarray]:
    seen = {name: problem.embed(networks[name], images) for name in set(encoders.values())}
    return {
      arm: dice(answer(seen=seen[encoders[arm]]), own, count) for arm, answer in answers.items()
    }

  def cell(name: str) -> study.Scored:
    if name == "none":
      return study.Scored([], more=dice_of(store["image"]))
    images = spoiled(store["image"], name, config.severities, options.seed)
    found = [dice_of(own) for own in images]
    return study.Scored([], more={arm: np.stack([f[arm] for f in found]) for arm in answers})

  looked = {**networks, "width": np.array(width)}
  kept = {
    name: study.kept(directory, f"{name}-{seed}", looked, functools.partial(cell, name)).more
    for name in ("none", *config.corruptions)
  }
  rows: list[dict[str, Any]] = []
  for arm, i in itertools.product(answers, range(count)):
    about = {"arm": arm, "seed": seed, "role": "test", "case": f"{names[i]} {i}"}
    clean = float(kept["none"][arm][i])
    rows.append(
      {
        **about,
        "subject": names[i],
        "domain": "",
        "dice/object": clean,
        "change/object": float("nan"),
      }
    )
    for name, (place, severity) in itertools.product(
      config.corruptions, enumerate(config.severities)
    ):
      value = float(kept[name][arm][place, i])
      own_row = {
        **about, "role": "corrupted", "case": f"{names[i]} {i} {name}-{severity}",
        "subject": names[i], "domain": name, "dice/object": value, "change/object": value - clean,
      }  # fmt: skip
      rows.append(own_row)
      if arm == "box" and f"box-{severity}" in config.arms:
        rows.append({**own_row, "arm": f"box-{severity}"})
  return rows


def tables(rows: list[dict[str, Any]]) -> dict[str, Any]:
  """Mean Dice in every cell, and the cells that are above the severity before."""
  held: dict[tuple[str, str, int], list[float]] = {}
  for row in rows:
    if row["role"] == "corrupted" and not row["arm"].startswith("box-"):
      severity = int(row["case"].rpartition("-")[2])
      held.setdefault((row["arm"], row["domain"], severity), []).append(row["dice/object"])
  means: dict[str, dict[str, dict[str, float]]] = {}
  for (arm, name, severity), values in held.items():
    means.setdefault(arm, {}).setdefault(name, {})[str(severity)] = float(np.mean(values))
  rises = {
    arm: [f"{name} {b}" for name, own in cells.items()
          for a, b in itertools.pairwise(own) if own[b] > own[a]]
    for arm, cells in means.items()
  }  # fmt: skip
  return {"robustness": means, "rises": rises}
