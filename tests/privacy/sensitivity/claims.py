"""Random programs on rows of examples, and what the sensitivity check says of them in numbers."""

import jax
import jax.numpy as jnp
import numpy as np

from medjax.check import InputError
from medjax.privacy.sensitivity import check_sensitivity, forms, ledger, primitives, walker
from medjax.privacy.sensitivity.kinds import Kind
from medjax.privacy.sensitivity.values import Public, Row, Sum

SHAPES = (3,), (2, 3)
COUNT = 4
TOLERANCE = 1e-3


def within(x):
  return tuple(range(1, x.ndim))


def norm(x):
  return jnp.sqrt((x**2).sum(within(x)))


def up(factor, x):
  return factor.reshape(factor.shape + (1,) * (x.ndim - factor.ndim))


def level(x, y):
  """Both with the same number of axes."""
  rank = max(x.ndim, y.ndim)
  return (v.reshape(v.shape + (1,) * (rank - v.ndim)) for v in (x, y))


def pair(function):
  return lambda x, y, c: function(*level(x, y))


def whole(x):
  """A whole number that depends on an example."""
  return (3 * x.sum()).astype(jnp.int32)


def zeros(x):
  return (0,) * (x.ndim - 1)


def ones(x):
  return (1,) * x.ndim


def last_two(x):
  return (*ones(x)[1:], 2)


OPERATIONS = [
  lambda x, y, c: jnp.tanh(x),
  lambda x, y, c: -x * np.float32(2 * c),
  lambda x, y, c: jnp.abs(x) + np.float32(c - 0.5),
  lambda x, y, c: x**2,
  lambda x, y, c: jnp.sqrt(jnp.abs(x)),
  lambda x, y, c: jax.nn.relu(x),
  lambda x, y, c: jnp.clip(x, -c, 1.0),
  lambda x, y, c: (x > c).astype(jnp.float32),
  lambda x, y, c: jnp.where(jnp.isfinite(x), x, 0.0),
  pair(jnp.add),
  pair(jnp.subtract),
  pair(jnp.multiply),
  pair(jnp.maximum),
  pair(jnp.minimum),
  pair(lambda x, y: x / (1 + y**2)),
  pair(lambda x, y: jnp.where(y > 0, x, -x)),
  lambda x, y, c: x * up(jnp.minimum(1, c / norm(x)), x),
  lambda x, y, c: x / up(jnp.maximum(1, norm(x) / (c + 0.1)), x),
  lambda x, y, c: y * up(c / (jnp.sqrt(norm(x) ** 2 + norm(y) ** 2) + 0.01), y),
  lambda x, y, c: jnp.where(up(norm(x) > c, x), x * up(c / norm(x), x), x),
  lambda x, y, c: y * up(jnp.where(norm(x) <= c, 1.0, c / norm(x)), y),
  lambda x, y, c: x * up(jax.lax.rsqrt(norm(x) ** 2 + c + 0.1), x),
  lambda x, y, c: up(norm(x), y) * y,
  lambda x, y, c: x / up(jnp.minimum(norm(x), norm(y)) + c + 0.1, x),
  lambda x, y, c: x.sum(-1) if x.ndim > 1 else None,
  lambda x, y, c: x.max(-1) if x.ndim > 1 else None,
  lambda x, y, c: x.reshape(x.shape[0], -1),
  lambda x, y, c: x.reshape(-1),
  lambda x, y, c: jnp.moveaxis(x, 0, -1),
  lambda x, y, c: jnp.flip(x, -1),
  lambda x, y, c: x[..., :2],
  lambda x, y, c: jnp.concatenate([x, 2 * x], int(c * x.ndim)),
  lambda x, y, c: jnp.stack([x, y], 1) if x.shape == y.shape else None,
  lambda x, y, c: jnp.repeat(x, 2, int(c * x.ndim)),
  lambda x, y, c: jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(1, 0)]),
  lambda x, y, c: jnp.take_along_axis(x, jnp.argsort(x, -1), -1),
  lambda x, y, c: jnp.cumsum(x, -1),
  lambda x, y, c: x @ jnp.cos(jnp.arange(x.shape[-1] * 2.0)).reshape(-1, 2),
  lambda x, y, c: jnp.einsum("ia,ib->iab", *(v.reshape(v.shape[0], -1) for v in (x, y))),
  lambda x, y, c: jnp.einsum("i...,i...->i", x, x),
  lambda x, y, c: jax.vmap(jax.grad(lambda p, v: jnp.tanh(p * v).sum(), 1), (None, 0))(c, x),
  lambda x, y, c: x - x.mean(0),
  lambda x, y, c: jnp.roll(x, 1, 0) * x,
]
# Places that are cut, written and padded, windows, transforms, branches, long loops.
OPERATIONS += [
  lambda x, y, c: jax.lax.dynamic_slice_in_dim(x, 1, 2, x.ndim - 1),
  lambda x, y, c: jax.vmap(lambda v: jax.lax.dynamic_slice(v.ravel(), (whole(v),), (2,)))(x),
  lambda x, y, c: jax.lax.dynamic_update_slice(x, jnp.tanh(x[..., :1]), (*zeros(x), int(c * 3))),
  lambda x, y, c: jax.lax.dynamic_update_slice(x, x[:1] * 2, (int(c * 4), *zeros(x))),
  lambda x, y, c: jax.lax.pad(x, 0.0, [(0, 0, 0)] * (x.ndim - 1) + [(1, 0, 1)]),
  lambda x, y, c: jax.lax.pad(x, np.float32(c), [(0, 0, 0)] * (x.ndim - 1) + [(-1, 1, 0)]),
  lambda x, y, c: jax.lax.pad(x, 0.0, [(1, 1, 1)] + [(0, 0, 0)] * (x.ndim - 1)),
  lambda x, y, c: jax.lax.reduce_window(x, -np.inf, jax.lax.max, last_two(x), ones(x), "VALID"),
  lambda x, y, c: jax.lax.reduce_window(x, 0.0, jax.lax.add, last_two(x), ones(x), "SAME"),
  lambda x, y, c: jnp.tile(x, last_two(x)),
  lambda x, y, c: x * up(jnp.where(jnp.logical_not(norm(x) > c), 1.0, c / norm(x)), x),
  lambda x, y, c: x * up(jnp.clip(c / norm(x), 0.0, 1.0), x),
  lambda x, y, c: x * up(c * (norm(x) + c) ** -1, x),
  lambda x, y, c: jnp.where((x > c) | (x < -c), x, 0.0),
  lambda x, y, c: jnp.abs(jnp.fft.fft(x)),
  lambda x, y, c: jax.lax.cond(jnp.float32(c) > 0.5, lambda a: a * 2, jnp.tanh, x),
  lambda x, y, c: jax.lax.scan(lambda a, _: (jnp.tanh(a) + a, a), x, None, length=70)[0],
  lambda x, y, c: x[jnp.arange(x.shape[0])[::-1]],
]
ENDS = [
  lambda x, y, c: (x * up(jnp.minimum(1, c / norm(x)), x)).sum(0),
  lambda x, y, c: jnp.einsum("i,i...->...", jnp.minimum(c, c / norm(x)), x),
  lambda x, y, c: jnp.clip(x, -c, 1.0).sum(0),
  lambda x, y, c: x.sum(0),
]


def program(random, ends=False):
  """A function of the arrays of a batch; with `ends` the result is a sum over examples."""
  plan = [[random.random() for _ in range(4)] for _ in range(random.randint(2, 9))]
  last = random.choice(ENDS), random.random()

  def run(*arrays):
    pool = list(arrays)
    for which, other, operation, constant in plan:
      x, y = (pool[int(place * len(pool))] for place in (which, other))
      try:
        found = OPERATIONS[int(operation * len(OPERATIONS))](x, y, constant)
      except (TypeError, ValueError):  # shapes that do not fit
        continue
      if found is not None and found.size < 2000 and found.ndim < 6:
        pool.append(found)
    return last[0](pool[-1], None, last[1]) if ends else pool

  return run


def batches(seed):
  """A batch, then the same with one example changed: (arrays, its number)."""
  draw = np.random.default_rng(seed)
  base = [draw.standard_normal((COUNT, *shape)).astype(np.float32) for shape in SHAPES]
  out = [(base, None)]
  for number in range(COUNT):
    arrays = [x.copy() for x in base]
    for x in arrays:
      x[number] = draw.choice([0.01, 50.0]) * draw.standard_normal(x.shape[1:])
    out.append((arrays, number))
  return out


def largest_move(release, seed):
  """Largest move over the proven bound, when an example is replaced; None if it is refused."""
  draw = np.random.default_rng(seed)
  empty = [jax.ShapeDtypeStruct((COUNT, *shape), jnp.float32) for shape in SHAPES]
  try:
    bound = check_sensitivity(lambda batch: release(*batch), empty).l2
  except InputError:
    return None
  run, moves = jax.jit(release), [0.0]
  for trial in range(6):
    arrays = [
      (x * draw.choice([0.1, 1.0, 50.0])).astype(np.float32)
      for x in (draw.standard_normal((COUNT, *shape)) for shape in SHAPES)
    ]
    if trial % 2:  # alike, so that nothing cancels
      arrays = [np.abs(x[:1]).repeat(COUNT, 0) for x in arrays]
    others = [x.copy() for x in arrays]
    for x in others:
      x[1] = -x[1] if trial < 4 else 50 * draw.standard_normal(x.shape[1:])
    moved = run(*arrays) - run(*others)
    moves.append(float(np.linalg.norm(np.ravel(moved))))
  return np.nanmax(moves) / bound if bound else 0.0


def check(function, seed):
  """Runs a program in numbers beside the check and compares after every operation."""
  inputs = batches(seed)
  closed = jax.make_jaxpr(function)(*inputs[0][0])
  log = ledger.Ledger(COUNT, primitives.TABLE)
  log.where = "the batch"
  beside = _Beside(log, [number for _, number in inputs])
  arguments = []
  for place, x in enumerate(inputs[0][0]):
    whose = np.arange(COUNT, dtype=np.int32).reshape(-1, *[1] * (x.ndim - 1))
    row = log.fresh(jax.core.ShapedArray(x.shape, x.dtype), whose)
    beside.note(row, [arrays[place] for arrays, _ in inputs])
    arguments.append(row)
  beside.run(closed, arguments)
  assert beside.num_checked > 0


class _Beside(walker.Walker):
  """A walker that also holds the numbers of every value, for a few batches."""

  def __init__(self, log, changed):
    super().__init__(log)
    self.changed = changed
    self.numbers = {}
    self.rows_of_atoms = {}
    self.kept = []
    self.num_checked = 0

  def note(self, value, arrays):
    self.numbers[id(value)] = [np.asarray(a) for a in arrays]
    self.kept.append(value)
    if isinstance(value, Row):
      self.rows_of_atoms.setdefault(value.atom, value)

  def _read(self, names, atom):
    value = super()._read(names, atom)
    if id(value) not in self.numbers:
      self.note(value, [np.asarray(atom.val, atom.aval.dtype)] * len(self.changed))
    return value

  def _equation(self, eqn, ins):
    found = super()._equation(eqn, ins)
    if self.ledger.primitive(eqn.primitive.name).kind is Kind.CALL:
      return found
    params = eqn.primitive.get_bind_params(eqn.params)
    runs = [
      eqn.primitive.bind(*(jnp.asarray(self.numbers[id(v)][k]) for v in ins), **params)
      for k in range(len(self.changed))
    ]
    for place, value in enumerate(found):
      if id(value) not in self.numbers:
        self.note(value, [r[place] if eqn.primitive.multiple_results else r for r in runs])
        self.compare(value, str(eqn))
    return found

  def compare(self, value, what):
    first, *rest = (_wide(a) for a in self.numbers[id(value)])
    if isinstance(value, Public):
      assert all(np.array_equal(first, a) for a in rest), what
    if isinstance(value, Sum):
      bound = np.broadcast_to(forms.size(value.form), COUNT)
      for number, array in zip(self.changed[1:], rest, strict=True):
        assert np.linalg.norm(array - first) <= 2 * bound[number] * (1 + TOLERANCE) + 1e-3, what
      return
    if isinstance(value, Row) and not value.is_everyones:
      whose = np.broadcast_to(value.owners, value.shape)
      for number, array in zip(self.changed[1:], rest, strict=True):
        is_same = np.isclose(array, first, 1e-4, 1e-5, equal_nan=True) | (whose == number)
        assert is_same.all(), f"another example in {what}"
    for k, array in enumerate((first, *rest)):
      if np.iscomplexobj(array):
        continue
      low, high = value.range.low, value.range.high
      assert (array >= low - TOLERANCE * abs(low)).all(), what
      assert (array <= high + TOLERANCE * abs(high)).all(), what
      if isinstance(value, Row):
        self.compare_rows(value, array, k, what)

  def compare_rows(self, row, array, k, what):
    self.num_checked += 1
    if row.is_repeated:
      return
    bound = float(forms.size(row.bounded_form)) * (1 + TOLERANCE)
    for example in range(COUNT):
      mine = _of(row, array, example)
      if not mine.size:
        continue
      length = np.linalg.norm(mine)
      assert length <= bound + 1e-5, what
      for cover in row.covers:
        if not self.rows_of_atoms.keys() >= cover.keys():
          continue  # of an array that is made and used inside of one rule
        assert length >= self.size(cover.items(), k, example) * (1 - TOLERANCE) - 1e-5, what
      for cover in row.totals:
        assert mine.sum() >= self.size(cover.items(), k, example) ** 2 * (1 - TOLERANCE), what
      for x, a in row.above.items():
        assert (mine >= a * self.size(x, k, example) * (1 - TOLERANCE) - 1e-5).all(), what
      for x, a in row.above_square.items():
        assert (mine >= a * self.size(x, k, example) ** 2 * (1 - TOLERANCE) - 1e-5).all(), what
      for x, most in row.below.items():
        if (far := self.size(x, k, example)) > 0:
          assert (np.abs(mine) <= most / far * (1 + TOLERANCE) + 1e-5 / far).all(), what
      for truth, limits in enumerate(row.when):
        for x, most in limits.items():
          is_short = self.size(x, k, example) <= most * (1 + TOLERANCE)
          assert is_short or not (mine == truth).any(), what

  def size(self, norm, k, example):
    """The norm N(X) of an example's rows."""
    squares = [
      q * np.sum(np.abs(_of(self.rows_of_atoms[atom], self.numbers_of(atom)[k], example)) ** 2)
      for atom, q in norm
    ]
    return np.sqrt(sum(squares))

  def numbers_of(self, atom):
    return [_wide(a) for a in self.numbers[id(self.rows_of_atoms[atom])]]


def _wide(array):
  return array.astype(complex if np.iscomplexobj(array) else float)


def _of(row, array, example):
  """An example's elements; all of what belongs to everyone."""
  if row.is_everyones:
    return array.ravel()
  return array[np.broadcast_to(row.owners, row.shape) == example]
