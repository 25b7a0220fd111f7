"""Aggregation rules against their definitions, computed anew with NumPy and SciPy in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from medjax import federated
from medjax.check import InputError
from medjax.federated import aggregate
from medjax.federated import rows as matrix

CLIENTS, SIZE, WRONG = 11, 6, 3
PADDED = 14
KEY = jax.random.key(0)
ROOT = aggregate.fltrust(lambda params, key: params)
TARGET = np.linspace(-1, 2, SIZE)
LEARNED = aggregate.auto_fedavg(lambda params, key: params, optax.sgd(0.1), iterations=3)
RULES = (
  aggregate.mean(),
  aggregate.weighted(lambda rows, weight: weight**2),
  aggregate.median(),
  aggregate.trimmed_mean(WRONG),
  aggregate.krum(WRONG),
  aggregate.multi_krum(WRONG, 4),
  aggregate.geometric_median(),
  aggregate.centred_clipping(1.0, iterations=3),
  aggregate.dos(),
  ROOT,
  aggregate.nearest_neighbour_mixing(WRONG, aggregate.trimmed_mean(WRONG)),
  aggregate.bucketing(2, aggregate.krum(1)),
  aggregate.norm_clipping(2.0),
  aggregate.fed_ncl_v2(),
  aggregate.fed_ncl_v4(penalty=2.0),
  LEARNED,
)


def drawn(seed=0, clients=CLIENTS, size=SIZE):
  return np.random.default_rng(seed).normal(1.0, 1.0, (clients, size))


@functools.partial(jax.jit, static_argnums=0)
def call(rule, rows, weight, options):
  return rule(rows, weight, loss_of=lambda v: 0.5 * ((v - TARGET) ** 2).sum(), **options)


def joined(rule, rows, weight=None, **options):
  """The rule on rows that are filled up to `PADDED` with absent clients: one program a rule."""
  num = len(rows)
  weight = np.ones(num) if weight is None else weight
  fill = max(PADDED - num, 0)
  rows = jnp.asarray(np.concatenate([rows, np.full((fill, rows.shape[1]), 3.0)]), jnp.float32)
  weight = jnp.asarray(np.append(weight, np.zeros(fill)), jnp.float32)
  defaults = {"key": KEY, "root": jnp.ones(SIZE), "previous": jnp.zeros(SIZE)}
  defaults["metrics"] = {"loss": jnp.arange(1.0, len(rows) + 1)}
  found = jax.tree.map(np.asarray, call(rule, rows, weight, {**defaults, **options}))
  assert (found.weights[num:] == 0).all()
  return found._replace(weights=found.weights[:num])


@pytest.fixture(params=RULES, ids=lambda rule: rule.name)
def rule(request):
  return request.param


def test_absent_clients_and_clients_that_are_not_finite_distort_nothing(rule):
  rows, weight = drawn(), np.arange(1.0, CLIENTS + 1)
  alone = joined(rule, rows, weight)
  rubbish = np.stack([np.full(SIZE, 1e9), np.full(SIZE, np.nan), [np.inf, *np.zeros(SIZE - 1)]])
  more = joined(rule, np.concatenate([rows, rubbish]), np.append(weight, [0, 2, 3]))
  if "bucketing" not in rule.name:  # other groups are drawn from another number of rows
    np.testing.assert_allclose(more.vector, alone.vector, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(more.weights[:CLIENTS], alone.weights, rtol=1e-4, atol=1e-6)
  assert np.isfinite(more.vector).all() and (more.weights[CLIENTS:] == 0).all()
  assert (alone.aux["absent"], more.aux["absent"]) == (0, 2)


def test_nobody_present_is_too_few_and_moves_nothing(rule):
  found = joined(rule, drawn(), np.zeros(CLIENTS))
  assert (found.vector == 0).all() and (found.weights == 0).all()
  assert found.aux["too_few"] == 1


def test_one_client_less_than_a_rule_needs_is_too_few(rule):
  weight = np.arange(CLIENTS) < rule.least
  assert joined(rule, drawn(), weight).aux["too_few"] == 0
  weight[0] = False
  assert joined(rule, drawn(), weight).aux["too_few"] == 1


def test_equal_clients_give_their_vector(rule):
  if rule is ROOT or rule.keeps_previous or "clipping" in rule.name:
    return  # these shorten it on purpose
  row = drawn()[:1]
  found = joined(rule, row.repeat(CLIENTS, 0))
  np.testing.assert_allclose(found.vector, row[0], rtol=1e-5)


def test_weights_sum_to_one(rule):
  np.testing.assert_allclose(joined(rule, drawn()).weights.sum(), 1, rtol=1e-5)


def test_mean_is_weighted_by_examples():
  rows, weight = drawn(), np.arange(1.0, CLIENTS + 1)
  expected = np.average(rows, axis=0, weights=weight)
  np.testing.assert_allclose(joined(aggregate.mean(), rows, weight).vector, expected, rtol=1e-5)


@pytest.mark.parametrize("clients", (7, 8, 21))
def test_coordinate_rules_are_numpys_and_scipys(clients):
  rows = drawn(clients, clients, SIZE)
  np.testing.assert_allclose(
    joined(aggregate.median(), rows).vector, np.median(rows, 0), rtol=1e-5, atol=1e-6
  )
  expected = scipy.stats.trim_mean(rows, (2 + 0.5) / clients, axis=0)  # drops floor of it: 2
  np.testing.assert_allclose(
    joined(aggregate.trimmed_mean(2), rows).vector, expected, rtol=1e-5, atol=1e-6
  )


@pytest.mark.parametrize("clients", range(1, matrix.NETWORK_ROWS + 1))
def test_the_sorting_network_sorts_every_column(clients):
  # A network that sorts all columns of zeros and ones sorts everything (Knuth's 0-1 principle);
  # beyond 12 rows a random 4096 of them.
  if clients <= 12:
    columns = np.array(list(itertools.product([0, 1], repeat=clients))).T
  else:
    columns = np.random.default_rng(clients).integers(2, size=(clients, 4096))
  lanes = columns.copy()
  for low, high in matrix.comparators(clients):
    pair = lanes[[low, high]]
    lanes[low], lanes[high] = pair.min(0), pair.max(0)
  np.testing.assert_array_equal(lanes, np.sort(columns, 0))


def test_few_clients_are_sorted_without_a_sort():
  def lowered(clients):
    args = jnp.ones((clients, 4)), jnp.ones(clients)
    return jax.jit(aggregate.median()).lower(*args).as_text()

  assert "stablehlo.sort" not in lowered(matrix.NETWORK_ROWS)
  assert "stablehlo.sort" in lowered(matrix.NETWORK_ROWS + 1)


def krum_scores(rows, f):
  """Blanchard et al. 2017, in loops."""
  found = []
  for i, row in enumerate(rows):
    squared = sorted(((row - other) ** 2).sum() for j, other in enumerate(rows) if j != i)
    found.append(sum(squared[: len(rows) - f - 2]))
  return np.array(found)


@pytest.mark.parametrize("seed", range(8))
def test_krum_and_multi_krum_are_the_papers(seed):
  rows = drawn(seed)
  order = np.argsort(krum_scores(rows, WRONG))
  found = joined(aggregate.krum(WRONG), rows)
  np.testing.assert_allclose(found.vector, rows[order[0]], rtol=1e-6)
  assert found.weights.argmax() == order[0]
  many = joined(aggregate.multi_krum(WRONG, 4), rows)
  np.testing.assert_allclose(many.vector, rows[order[:4]].mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("clients", (8, matrix.DIRECT_ROWS + 8))
@pytest.mark.parametrize("spread", (1e-2, 1e-3, 1e-4))
def test_distances_keep_their_digits_when_clients_differ_little(clients, spread):
  # Weights of norm 100 that differ by `spread`: inner products of the raw rows lose all digits.
  random = np.random.default_rng(0)
  rows = random.normal(size=2000) * 100 / np.sqrt(2000)
  rows = (rows + spread * random.normal(size=(clients, 2000)) / np.sqrt(2000)).astype(np.float32)
  exact = ((rows[:, None].astype(np.float64) - rows[None]) ** 2).sum(-1)
  found = np.asarray(matrix.squared_distances(jnp.asarray(rows), jnp.ones(clients, bool)))
  np.testing.assert_allclose(found, exact, rtol=2e-4 if clients > matrix.DIRECT_ROWS else 1e-5)


def test_one_huge_client_does_not_blur_the_distances_of_the_others():
  rows = np.float32(1) + np.random.default_rng(0).normal(0, 1e-3, (9, 50)).astype(np.float32)
  rows[0] = 1e6
  exact = ((rows[1:, None].astype(np.float64) - rows[None, 1:]) ** 2).sum(-1)
  found = np.asarray(matrix.squared_distances(jnp.asarray(rows), jnp.ones(9, bool)))
  np.testing.assert_allclose(found[1:, 1:], exact, rtol=1e-5)


def test_geometric_median_is_stationary():
  # The subgradient of sum |z - v_i| vanishes: sum of unit vectors towards the clients is 0.
  rows = drawn()
  rows[:WRONG] += 50
  z = joined(aggregate.geometric_median(iterations=300, tolerance=1e-9), rows).vector
  towards = (z - rows) / np.linalg.norm(z - rows, axis=1, keepdims=True)
  np.testing.assert_allclose(towards.sum(0), 0, atol=1e-4)


def test_centred_clipping_in_loops():
  rows, z = drawn(), np.full(SIZE, 0.5)
  previous = jnp.asarray(z, jnp.float32)
  for _ in range(3):
    moves = rows - z
    factors = np.minimum(1, 1.0 / np.linalg.norm(moves, axis=1, keepdims=True))
    z = z + (moves * factors).mean(0)
  found = joined(aggregate.centred_clipping(1.0, iterations=3), rows, previous=previous)
  np.testing.assert_allclose(found.vector, z, rtol=1e-5)


def copod(values):
  """COPOD as published, column by column."""
  total = np.zeros(len(values))
  for column in values.T:
    left = -np.log([(column <= x).mean() for x in column])
    right = -np.log([(column >= x).mean() for x in column])
    skew = np.sign(scipy.stats.skew(column))
    tail = left if skew < 0 else right if skew > 0 else left + right
    total += np.maximum(tail, (left + right) / 2)
  return total


def test_dos_weights_by_outlier_scores():
  rows = drawn()
  rows[2] += 5
  euclidean = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
  unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
  weights = scipy.special.softmax(-(copod(1 - unit @ unit.T) + copod(euclidean)))
  found = joined(aggregate.dos(), rows)
  np.testing.assert_allclose(found.weights, weights, rtol=1e-4, atol=1e-7)
  np.testing.assert_allclose(found.vector, weights @ rows, rtol=1e-4)
  assert found.weights.argmin() == 2


def test_fltrust_by_its_formula():
  rows, own = drawn() - 1, np.linspace(-1, 2, SIZE)
  norms = np.linalg.norm(rows, axis=1)
  trust = np.maximum(rows @ own / norms / np.linalg.norm(own), 0)
  expected = (trust * np.linalg.norm(own) / norms) @ rows / trust.sum()
  found = joined(ROOT, rows, root=jnp.asarray(own, jnp.float32))
  np.testing.assert_allclose(found.vector, expected, rtol=1e-5, atol=1e-6)
  against = joined(ROOT, -own[None].repeat(4, 0), root=jnp.asarray(own, jnp.float32))
  assert (against.vector == 0).all()


def test_learned_weights_descend_the_loss_of_the_joined_vector():
  rows, sizes = drawn(), np.arange(1.0, CLIENTS + 1)
  b = np.log(sizes / sizes.sum())
  for _ in range(3):
    share = scipy.special.softmax(b)
    vector = share @ rows
    b -= 0.1 * share * ((rows - vector) @ (vector - TARGET))
  found = joined(LEARNED, rows, sizes)
  np.testing.assert_allclose(found.weights, scipy.special.softmax(b), rtol=1e-4)
  np.testing.assert_allclose(found.vector, scipy.special.softmax(b) @ rows, rtol=1e-4)


def test_a_judgement_that_is_not_finite_leaves_fedavg():
  rows, sizes = drawn(), np.arange(1.0, CLIENTS + 1)
  broken = jax.jit(lambda r, w: LEARNED(r, w, loss_of=lambda v: v.sum() * jnp.nan))
  found = broken(rows, sizes)
  np.testing.assert_allclose(found.weights, sizes / sizes.sum(), rtol=1e-5)


def test_divergence_weighs_clients_or_layers():
  rows, sizes = drawn() - 1, np.arange(1.0, CLIENTS + 1)
  rows[4] *= 30  # an outlier
  sizes[4] = 2.0
  loss = np.linspace(0.5, 2, CLIENTS)
  layers = [slice(0, 2), slice(2, SIZE)]
  far = np.stack([1 + np.linalg.norm(rows[:, where], axis=1) for where in layers], 1)
  options = {"layers": layers, "metrics": {"loss": loss}}
  # V2: one weight, from divergence x loss / examples.
  weights = 1 / (far.sum(1) * loss / sizes)
  weights /= weights.sum()
  found = jax.jit(lambda r, w: aggregate.fed_ncl_v2()(r, w, **options))(rows, sizes)
  np.testing.assert_allclose(found.weights, weights, rtol=1e-5)
  np.testing.assert_allclose(found.vector, weights @ rows, rtol=1e-4, atol=1e-5)
  # V4: one a layer, and the outlier counts a third.
  total = far.sum(1) / sizes
  is_out = np.abs(total - total.mean()) > 2 * total.std(ddof=1)
  assert is_out.tolist() == [i == 4 for i in range(CLIENTS)]
  shares = 1 / (far * np.where(is_out, 3, 1)[:, None])
  shares /= shares.sum(0)
  expected = np.concatenate([shares[:, i] @ rows[:, where] for i, where in enumerate(layers)])
  rule = aggregate.fed_ncl_v4(penalty=3, deviations=2)
  found = jax.jit(lambda r, w: rule(r, w, **options))(rows, sizes)
  np.testing.assert_allclose(found.vector, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(found.weights, shares @ [2, SIZE - 2] / SIZE, rtol=1e-5)


def test_the_server_hands_rules_its_model_the_layers_and_what_clients_report():
  """Clients send batches as updates and their sum of "a" as the loss."""

  def run(broadcast, kept, batches, key):
    return federated.ClientReport(batches, kept, {}, {"loss": batches["a"].sum()})

  client = federated.Client(lambda params, key: ((), {}), run)
  params = {"a": jnp.array([1.0]), "b": jnp.array([10.0])}
  sent = {"a": jnp.array([[1.0], [3.0]]), "b": jnp.array([[0.0], [7.0]])}
  cohort = federated.Cohort(jnp.arange(2), jnp.arange(2), jnp.ones(2), sent)

  def moved(rule):
    step = federated.federated(client, num_clients=2, cohort=2, aggregate=rule)
    new, _ = jax.jit(step.update)(step.init(params, KEY), cohort, KEY)
    return [float(new.params[name][0] - params[name][0]) for name in ("a", "b")]

  # a: d = 2, 4; b: d = 1, 8.
  np.testing.assert_allclose(moved(aggregate.fed_ncl_v4()), [(2 + 3) / 3, 7 / 9], rtol=1e-6)
  # D = 1 x 3, 3 x 12
  np.testing.assert_allclose(moved(aggregate.fed_ncl_v2()), [(12 + 3) / 13, 7 / 13], rtol=1e-6)
  # v = 2 moves a to 3, the judge asks for 2: the slope for b is (3 - 2) (d - v) / 2 = -+ 0.5.
  judge = lambda p, key: 0.5 * (p["a"][0] - 2) ** 2  # noqa: E731
  share = scipy.special.softmax([0.5, -0.5])
  rule = aggregate.auto_fedavg(judge, optax.sgd(1.0), iterations=1)
  np.testing.assert_allclose(moved(rule), [share @ [1, 3], share @ [0, 7]], rtol=1e-5)
  by_part = federated.Part("a", lambda path: path == "a", rule)
  step = federated.federated(client, num_clients=2, cohort=2, parts=[by_part])
  new, _ = jax.jit(step.update)(step.init(params, KEY), cohort, KEY)
  np.testing.assert_allclose(new.params["a"] - 1, [share @ [1, 3]], rtol=1e-5)
  np.testing.assert_allclose(new.params["b"], [13.5])


def test_mixing_averages_the_nearest():
  rows = drawn()
  distances = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
  nearest = np.argsort(distances, 1)[:, : CLIENTS - WRONG]
  expected = np.median(rows[nearest].mean(1), 0)
  rule = aggregate.nearest_neighbour_mixing(WRONG, aggregate.median())
  np.testing.assert_allclose(joined(rule, rows).vector, expected, rtol=1e-5)


def test_buckets_hold_every_client_once():
  # The mean over full groups is the mean over all; weights say who was in the chosen group.
  rows = drawn(clients=12)
  np.testing.assert_allclose(
    joined(aggregate.bucketing(3, aggregate.mean()), rows).vector, rows.mean(0), rtol=1e-5
  )
  found = joined(aggregate.bucketing(3, aggregate.krum(0)), rows)
  assert sorted(found.weights)[-3:] == pytest.approx([1 / 3] * 3)
  np.testing.assert_allclose(found.vector, rows[found.weights > 0].mean(0), rtol=1e-5)


def test_clipped_norms():
  rows = drawn() * 3
  short = rows * np.minimum(1, 2 / np.linalg.norm(rows, axis=1, keepdims=True))
  np.testing.assert_allclose(
    joined(aggregate.norm_clipping(2.0), rows).vector, short.mean(0), rtol=1e-5
  )


def test_a_rule_for_more_wrong_clients_than_rows_is_refused():
  with pytest.raises(InputError, match=r"at least 9 clients a round for krum\(f=3\), got 8"):
    aggregate.krum(3)(drawn(clients=8), np.ones(8))
  with pytest.raises(InputError, match="f >= 0, got f=-1"):
    aggregate.trimmed_mean(-1)
  with pytest.raises(InputError, match="weight for each client"):
    aggregate.mean()(drawn(), np.ones(3))
  with pytest.raises(InputError, match="metric of a client"):
    aggregate.fed_ncl_v2("dice")(drawn(), np.ones(CLIENTS), metrics={"loss": np.ones(CLIENTS)})
  with pytest.raises(InputError, match="penalty >= 1"):
    aggregate.fed_ncl_v4(penalty=0.5)
  with pytest.raises(InputError, match="loss of a joined vector"):
    LEARNED(drawn(), np.ones(CLIENTS))
  with pytest.raises(InputError, match="a key for bucketing"):
    aggregate.bucketing(2, aggregate.mean())(drawn(), np.ones(CLIENTS))
