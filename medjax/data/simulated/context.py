"""Made-up classification problems, from which a network learns to read known samples."""

import numpy as np

from medjax import check
from medjax.data.seeds import generator


def context_problems(
  number: int, num_rows: int, num_features: int, num_classes: int, seed: int
) -> dict[str, np.ndarray]:
  """Problems of rows with a class each: a prior over what a classification problem can be.

  Each has 2 to `num_classes` classes of unequal size; a class is one or two normal clouds; the
  features are taken as they are, through a random layer, or through a softmax, as a classifier's
  outputs are. Up to a fifth of the labels is wrong. Features are standardised by their problem,
  those that a problem lacks are 0.

  >>> drawn = context_problems(3, 20, 4, 5, seed=0)
  >>> drawn["features"].shape, drawn["labels"].shape, bool(drawn["labels"].max() < 5)
  ((3, 20, 4), (3, 20), True)

  Args:
    number: problems.
    num_rows: samples of each.
    num_features, num_classes: the most that a problem has, 2 or more.
    seed: any int.
  Returns:
    "features" [problem, row, feature] float32 and "labels" [problem, row] int32, a store for
    `data.batches`.
  """
  check.require(
    num_features >= 2 and num_classes >= 2,
    "2 features and 2 classes or more",
    f"{num_features} and {num_classes}",
    "pass larger numbers",
  )
  random = generator(seed, "context problems")
  features = np.zeros((number, num_rows, num_features), np.float32)
  labels = np.zeros((number, num_rows), np.int32)
  for i in range(number):
    classes = int(random.integers(2, num_classes + 1))
    size = int(random.integers(2, num_features + 1))
    clouds = classes * int(random.integers(1, 3))
    share = random.dirichlet(np.full(clouds, random.uniform(0.5, 5)))
    cloud = random.choice(clouds, num_rows, p=share)
    centres = random.normal(0, random.uniform(0.5, 3), (clouds, size))
    x = centres[cloud] + random.normal(size=(num_rows, size)) * random.uniform(0.3, 1.5, size)
    kind = random.integers(3)
    if kind == 1:
      x = np.tanh(x @ random.normal(0, size**-0.5, (size, size)))
    elif kind == 2:
      weight = np.exp(random.uniform(0.5, 3) * (x - x.max(1, keepdims=True)))
      x = weight / weight.sum(1, keepdims=True)
    features[i, :, :size] = standardised(x, x)
    wrong = random.random(num_rows) < random.uniform(0, 0.2)
    labels[i] = np.where(wrong, random.integers(0, classes, num_rows), cloud % classes)
  return {"features": features, "labels": labels}


def standardised(x: np.ndarray, known: np.ndarray) -> np.ndarray:
  """Features less the mean of the known samples', over their deviation (at least .001).

  >>> standardised(np.array([[4.0]]), np.array([[0.0], [2.0]])).round(2).tolist()
  [[3.0]]
  """
  return (x - known.mean(0)) / np.maximum(known.std(0), 1e-3)
