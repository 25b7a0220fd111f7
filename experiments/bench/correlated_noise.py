"""Does correlated noise beat DP-SGD at equal epsilon? Softmax regression on two small sets.

  python -m experiments.bench.correlated_noise OUT digits            scikit-learn's digits, 8 x 8
  python -m experiments.bench.correlated_noise OUT pneumoniamnist.npz  two minutes a set

Arms: DP-SGD and `privacy.BandedNoise` of 4 and 16 bands, at epsilon 1, 2 and 8 and delta 1e-5, 192
steps of 64 expected pictures, clipping norm 1, plain gradient descent. The rate of each arm
and epsilon is the one of four with the best validation accuracy over two seeds that do not count
(choosing it is not paid for, in all arms alike). The verdict is paired over 6 seeds and the test
pictures, margin .01 of accuracy. Samples come from `plan.stream`, noise keys from the plan's vault
of a seed; sums and noise from `grads.clipped_sum` and `privacy.noise.added`, the pieces of which a
private Step is made, here with all seeds, rates and epsilons in one program.

PneumoniaMNIST is pooled to 14 x 14 pictures, and pictures of the test or validation part that stand
in the training part bit for bit are left out. OUT keeps every finished arm, so that a stopped run
goes on, and gets NAME.json.
"""

import functools
import importlib
import json
import pathlib
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.origins import origin
from medjax import grads, losses, metrics, privacy, study
from medjax.privacy import noise

ARMS = {"dp-sgd": 1, "banded-4": 4, "banded-16": 16}
EPSILONS, RATES, DELTA = (1.0, 2.0, 8.0), (0.125, 0.5, 2.0, 8.0), 1e-5
SIZE, STEPS, CHUNK, MARGIN = 64, 192, 128, 0.01
SEEDS, TRIALS = (0, 1, 2, 3, 4, 5), (1000, 1001)


class Part(NamedTuple):
  """Pictures [n, pixel] float32 in [0, 1] and their classes [n]."""

  image: Any
  label: Any


def load(source: str) -> dict[str, Part]:
  """{"train", "validation", "test"} of a set."""
  if source == "digits":
    datasets = importlib.import_module("sklearn.datasets")  # needs the extra `bench`
    images, labels = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    cuts = {"train": order[:1200], "validation": order[1200:1400], "test": order[1400:]}
    return {
      k: Part(np.float32(images[v] / 16), labels[v].astype(np.int32)) for k, v in cuts.items()
    }
  parts, seen = {}, set()
  with np.load(source) as stored:
    for name, key in (("train", "train"), ("validation", "val"), ("test", "test")):
      pixels, labels = stored[f"{key}_images"], stored[f"{key}_labels"].ravel()
      texts = [picture.tobytes() for picture in pixels]
      keep = np.array([name == "train" or text not in seen for text in texts])
      seen |= set(texts)
      pooled = pixels.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196) / 255
      parts[name] = Part(pooled[keep].astype(np.float32), labels.astype(np.int32)[keep])
  return parts


def loss_fn(params: Any, example: Any, key: Any) -> jax.Array:
  del key
  return losses.cross_entropy(logits(params, example["image"]), example["label"])


def logits(params: Any, image: jax.Array) -> jax.Array:
  return image @ params["weight"] + params["bias"]


def plan_of(num: int, bands: int, epsilon: float, seed: int) -> privacy.DPPlan:
  """The plan of one training."""
  return privacy.DPPlan(
    num_examples=num,
    expected_batch_size=SIZE,
    num_steps=STEPS,
    delta=DELTA,
    max_norm=1.0,
    unit="example",
    target_epsilon=epsilon,
    mechanism=None if bands == 1 else privacy.BandedNoise(bands),
    vault=privacy.Vault.from_seed(seed),
  )


def trained(train: Part, bands: int) -> tuple[Any, list[float]]:
  """Parameters [seed, epsilon, rate, ...] after all steps, and the noise multipliers."""
  num, num_classes = len(train.label), int(train.label.max()) + 1
  plans = [plan_of(num, bands, epsilon, 0) for epsilon in EPSILONS]
  sigmas, factor = [plan.multipliers[0] for plan in plans], plans[0].factor
  window = None if factor is None else factor.window
  rows, keys = [], []
  for seed in (*SEEDS, *TRIALS):
    vault = privacy.Vault.from_seed(seed)
    people = {"subject": np.arange(num)}
    plan = plans[0] if seed == 0 else plan_of(num, bands, EPSILONS[0], seed)
    stream = plan.stream(people, chunk=CHUNK)
    samples = [stream(t) for t in range(STEPS)]
    assert all(len(sample) == 1 for sample in samples), "a sample of more than one chunk"
    rows.append(np.stack([sample[0]["index"] for sample in samples]))
    of_seed = [jax.random.key_data(vault.noise_key(t, window)) for t in range(STEPS)]
    keys.append(np.stack([np.asarray(k) for k in of_seed]))
  clipped = grads.clipped_sum(loss_fn, 1.0)
  image, label = jnp.asarray(train.image), jnp.asarray(train.label)

  @jax.jit
  @functools.partial(jax.vmap, in_axes=(0, 0, None, None))  # seeds
  @functools.partial(jax.vmap, in_axes=(None, None, 0, None))  # epsilons
  @functools.partial(jax.vmap, in_axes=(None, None, None, 0))  # rates
  def run(rows: jax.Array, keys: jax.Array, sigma: jax.Array, rate: jax.Array) -> Any:
    def one(params: Any, given: Any) -> Any:
      row, key = given[0], jax.random.wrap_key_data(given[1])
      chunk = {"image": image[row], "label": label[row], "index": row}
      weight = (row >= 0).astype(jnp.float32)
      total = clipped(params, chunk, jax.random.key(0), weights=weight).grads
      size = dict(multiplier=sigma, sensitivity=1.0, magnitude=32.0 * SIZE)
      noisy = noise.added(key, total, factor=factor, **size)
      return jax.tree.map(lambda p, g: p - rate * g / SIZE, params, noisy), None

    start = {"weight": jnp.zeros((image.shape[1], num_classes)), "bias": jnp.zeros(num_classes)}
    return jax.lax.scan(one, start, (rows, keys))[0]

  params = run(
    np.stack(rows), np.stack(keys), np.asarray(sigmas, np.float32), np.asarray(RATES, np.float32)
  )
  return jax.device_get(params), sigmas


def correct(params: Any, part: Part) -> np.ndarray:
  """[seed, epsilon, rate, picture] whether the class is right."""
  scores = np.einsum("np,serpc->sernc", part.image, params["weight"]) + params["bias"][..., None, :]
  return scores.argmax(-1) == part.label


def arm(out: pathlib.Path, name: str, parts: dict[str, Part], bands: int) -> dict[str, Any]:
  """{"validation", "test", "sigma", "seconds"} of an arm, from the disk where it is done."""
  path = out / f"{name}-{bands}.npz"
  if not path.exists():
    start = time.process_time()
    params, sigmas = trained(parts["train"], bands)
    right = {part: correct(params, parts[part]) for part in ("validation", "test")}
    seconds = time.process_time() - start
    np.savez(
      path, sigma=sigmas, seconds=seconds, validation=right["validation"], test=right["test"]
    )
  with np.load(path) as stored:
    return {key: stored[key] for key in stored.files}


def main(out: pathlib.Path, source: str) -> None:
  out.mkdir(parents=True, exist_ok=True)
  name, parts = pathlib.Path(source).stem, load(source)
  members = {"seed": len(SEEDS), "subject": len(parts["test"].label)}
  spread = {"seed": 0.01, "subject": 0.25}
  planned = study.smallest_detectable(members, spread, margin=MARGIN, num_arms=len(ARMS) - 1)
  print(f"smallest detectable difference of accuracy, planned: {planned:.4f}", flush=True)
  done = {key: arm(out, name, parts, bands) for key, bands in ARMS.items()}
  rows: dict[str, Any] = {}
  for i, epsilon in enumerate(EPSILONS):
    scores, chosen = {}, {}
    for key, one in done.items():
      best = int(one["validation"][len(SEEDS) :, i].mean((0, 2)).argmax())
      chosen[key] = {"rate": RATES[best], "noise_multiplier": float(one["sigma"][i])}
      scores[key] = one["test"][: len(SEEDS), i, best].astype(float)
    found = metrics.compare(scores, reference="dp-sgd", margin=MARGIN)
    rows[f"{epsilon:g}"] = {
      "accuracy": {key: float(value.mean()) for key, value in scores.items()},
      "chosen": chosen,
      "comparison": {key: value._asdict() for key, value in found.items()},
    }
    for key, value in found.items():
      print(f"epsilon {epsilon:g} {key}: {value.reference_mean:.4f} -> {value.mean:.4f}, "
            f"{value.verdict}", flush=True)  # fmt: skip
  record = origin("correlated_noise", "OUT", pathlib.Path(source).name) | {
    "pictures": {key: len(part.label) for key, part in parts.items()},
    "delta": DELTA,
    "planned_smallest_detectable": planned,
    "assumed_spread": spread,
    "cpu_seconds": {key: float(one["seconds"]) for key, one in done.items()},
    "epsilons": rows,
  }
  (out / f"{name}.json").write_text(json.dumps(record, indent=1, default=float) + "\n")


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]), sys.argv[2])
