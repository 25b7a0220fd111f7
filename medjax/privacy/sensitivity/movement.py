"""Where the elements of an array go: operations that only move elements, on arrays of labels."""

import numpy as np

from medjax.privacy.sensitivity.equations import Equation


def identity(eqn: Equation, x: np.ndarray) -> list[np.ndarray]:
  return [x]


def slice_(eqn: Equation, x: np.ndarray) -> list[np.ndarray]:
  p = eqn.params
  strides = p["strides"] or (1,) * x.ndim
  spans = zip(p["start_indices"], p["limit_indices"], strides, strict=True)
  return [x[tuple(slice(*span) for span in spans)]]


def split(eqn: Equation, x: np.ndarray) -> list[np.ndarray]:
  return np.split(x, np.cumsum(eqn.params["sizes"])[:-1], eqn.params["axis"])


def reshape(eqn: Equation, x: np.ndarray) -> list[np.ndarray]:
  order = eqn.params["dimensions"]
  return [(x if order is None else x.transpose(order)).reshape(eqn.outvars[0].aval.shape)]


def broadcast(eqn: Equation, x: np.ndarray) -> list[np.ndarray]:
  shape = eqn.outvars[0].aval.shape
  sizes = [1] * len(shape)
  for axis, target in enumerate(eqn.params["broadcast_dimensions"]):
    sizes[target] = x.shape[axis]
  return [np.broadcast_to(x.reshape(sizes), shape)]


def squeeze(eqn: Equation, x: np.ndarray) -> list[np.ndarray]:
  return [x.squeeze(tuple(d % x.ndim for d in eqn.params["dimensions"]))]


def transpose(eqn: Equation, x: np.ndarray) -> list[np.ndarray]:
  return [x.transpose(eqn.params["permutation"])]


def rev(eqn: Equation, x: np.ndarray) -> list[np.ndarray]:
  return [np.flip(x, eqn.params["dimensions"])]


def unstack(eqn: Equation, x: np.ndarray) -> list[np.ndarray]:
  return list(np.moveaxis(x, eqn.params["axis"], 0))


def tile(eqn: Equation, x: np.ndarray) -> list[np.ndarray]:
  return [np.tile(x, eqn.params["reps"])]
