"""Experience replay as a stream of rows: the current centre's cases with remembered ones.

  pooled     rows drawn from D_k and M together, as in the released code of the MS replay paper: the
             memory's share is |M| / (|D_k| + |M|), .33 at the second and .95 at its last centre
  weighted   L' = E_Dk[l] + E_M[l]  (its Eq. 2, up to the factor 1/2 of a mean): half of the weight
             belongs to the memory whatever its size

  rows = replayed(current, memory.indices, 8, seed=0)
  rows(1000).rows  # [8] positions in the source

The step is `supervised`, unchanged: replay costs what fine-tuning costs.
"""

from typing import Literal, NamedTuple

import numpy as np

from medjax import check
from medjax.data.seeds import Seed
from medjax.data.streams.epochs import visits
from medjax.types import Indices, Stream

ReplayForm = Literal["pooled", "weighted"]


class Drawn(NamedTuple):
  """Which cases a batch takes.

  Attributes:
    rows: [batch] int32 positions in the source.
    weight: [batch] float32 of each in the mean of the losses; their sum is the batch size.
    remembered: [batch] bool, whether the case comes from the memory.
  """

  rows: np.ndarray
  weight: np.ndarray
  remembered: np.ndarray


def replayed(
  current: Indices,
  memory: Indices,
  batch_size: int,
  seed: Seed,
  *,
  form: ReplayForm = "pooled",
  name: str = "",
) -> Stream:
  """An endless stream of `Drawn`; in every epoch of a pool each of its cases comes once.

  >>> stream = replayed([0, 1, 2], [7], 4, seed=0)
  >>> sorted(stream(5).rows.tolist())
  [0, 1, 2, 7]

  Hospitals one after the other, with two cases of each remembered; the Step is the supervised one,
  and a memory of patients protects nobody:

  >>> import flax.linen as nn, jax, optax
  >>> from medjax import data, losses, methods, nets, train
  >>> anatomy = data.ProceduralAnatomy(24, (32, 32), num_classes=3, seed=0, with_image=True)
  >>> store = data.stack(anatomy)
  >>> centres = {"north": range(0, 12), "east": range(12, 20), "west": range(20, 24)}  # yours
  >>> model = nets.from_linen(nn.Sequential([nn.Conv(8, (3, 3)), nn.silu, nn.Conv(3, (3, 3))]))
  >>> def loss(params, example, key):  # ONE example
  ...   return losses.cross_entropy(model.apply(params, example.image)[0], example.label)
  >>> params, _ = model.init(jax.random.key(0), store.image[0])
  >>> step, memory = methods.supervised(loss, optax.adam(1e-3)), data.Memory(per_centre=2)
  >>> for centre, cases in centres.items():
  ...   drawn = data.replayed(list(cases), memory.indices, 4, seed=0, name=centre)
  ...   stream = data.pooled(store, drawn)
  ...   fitted = train.fit(step, stream, params, jax.random.key(1), num_steps=2, progress=False)
  ...   params = fitted.state.params
  ...   kept = data.memory.random(len(cases), 2, seed=0, name=centre)  # or herding, diverse
  ...   memory = memory.store(centre, [cases[i] for i in kept])
  >>> len(memory.indices)
  6

  Args:
    current: positions of the centre's cases, at least one.
    memory: positions of remembered cases, of which none may be current; () is fine-tuning.
    batch_size: cases a batch; 2 or more where memory and centre take halves.
    seed: int; draws are functions of (seed, name, step).
    form: "pooled" or "weighted", see above. "weighted" gives the centre the larger half of an odd
      batch, and weights that make up for it.
    name: tells the streams of one seed apart.
  Raises:
    InputError: no current case, a case on both sides, or a batch too small to be halved.
  """
  here, there = np.asarray(current, np.int32), np.asarray(memory, np.int32)
  check.require(len(here) > 0, "a case of the current centre", "none", "check the split")
  check.one_of("form", form, ("pooled", "weighted"))
  is_halved = form == "weighted" and len(there) > 0
  check.require(
    batch_size >= 1 + is_halved,
    f"batch_size >= {1 + is_halved}",
    f"{batch_size=}",
    "each half needs a case",
  )
  shared = sorted(set(here.tolist()) & set(there.tolist()))
  check.require(
    not shared, "remembered cases of other centres", f"{shared[:5]}", "remove them from the memory"
  )
  pool = np.concatenate([here, there])
  num_here = -(-batch_size // 2) if is_halved else batch_size
  num_there = batch_size - num_here

  def together(step: int) -> Drawn:
    place = int(step) * batch_size + np.arange(batch_size)
    drawn = visits(place, len(pool), seed, name)
    return Drawn(pool[drawn], np.ones(batch_size, np.float32), drawn >= len(here))

  def halves(step: int) -> Drawn:
    ours = visits(int(step) * num_here + np.arange(num_here), len(here), seed, name)
    past = int(step) * num_there + np.arange(num_there)
    theirs = visits(past, len(there), seed, f"{name} memory")
    each = np.array([batch_size / (2 * num_here), batch_size / (2 * num_there)], np.float32)
    weight = np.repeat(each, [num_here, num_there])
    return Drawn(
      np.concatenate([here[ours], there[theirs]]), weight, np.arange(batch_size) >= num_here
    )

  return halves if is_halved else together
