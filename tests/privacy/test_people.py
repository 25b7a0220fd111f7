"""People of whom several examples are in the data: what they cost, who is let in, what is said."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, optimize, stats

from medjax import grads, methods, privacy, train
from medjax.check import InputError
from medjax.privacy import accounting, audit, mixture, noise

KEY = jax.random.key(0)
NUM, SIZE = 40, 8
SETTING = dict(num_units=NUM, sample_size=SIZE, num_steps=1, delta=1e-3)
X = np.random.default_rng(0).standard_normal((NUM, 3)).astype(np.float32)
PAIRS = {"x": X, "subject": np.repeat(np.arange(NUM // 2), 2)}


def plan_of(most=2, **changes):
  base = dict(num_examples=NUM, expected_batch_size=SIZE, num_steps=3, delta=1e-3, max_norm=1.0)
  base |= dict(unit="example", noise_multiplier=2.0, vault=privacy.Vault.from_seed(0))
  return privacy.DPPlan(**{**base, "max_examples_per_subject": most, **changes})


def loss_fn(params, example, key):
  del key
  return 9.0 * example["x"] @ params


def divergence(epsilon, most, rate, sigma):
  """delta of one sample by integrals over one number: the larger one of adding and removing."""

  def person(x):
    chances = stats.binom.pmf(np.arange(most + 1), most, rate)
    return chances @ stats.norm.pdf(x, np.arange(most + 1), sigma)

  def nobody(x):
    return stats.norm.pdf(x, 0, sigma)

  def beyond(p, q):
    excess = lambda x: max(p(x) - math.exp(epsilon) * q(x), 0.0)  # noqa: E731
    return integrate.quad(excess, -12 * sigma, most + 12 * sigma, limit=200, epsabs=1e-9)[0]

  return max(beyond(person, nobody), beyond(nobody, person))


@pytest.mark.parametrize(("most", "sigma"), [(2, 1.5), (3, 3.0)])
def test_one_sample_costs_what_an_integral_says(most, sigma):
  rate = SIZE / NUM
  want = optimize.brentq(lambda e: divergence(e, most, rate, sigma) - 1e-3, 0.0, 20.0, xtol=1e-5)
  found = accounting.epsilon(sigma, per_subject=most, grid=1e-3, **SETTING)
  assert want - 2e-5 <= found <= want + 1e-3


def test_samples_compose_as_those_of_dp_accounting():
  import dp_accounting
  from dp_accounting import pld

  chances = stats.binom.pmf(np.arange(3), 2, 0.01)
  event = dp_accounting.dp_event.MixtureOfGaussiansDpEvent(3.0, [0.0, 1.0, 2.0], list(chances))
  books = pld.PLDAccountant(
    dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-3
  )
  books.compose(dp_accounting.SelfComposedDpEvent(event, 500))
  mine = mixture.losses([mixture.Samples(3.0, 2, 0.01, 500)], 1e-3)
  assert mine.get_epsilon_for_delta(1e-5) == pytest.approx(books.get_epsilon(1e-5), rel=1e-6)


def test_one_example_a_person_costs_what_an_example_does_to_the_last_bit():
  for changes in ({}, {"noise_multiplier": 0.9, "num_steps": 2}):
    assert plan_of(1, **changes).epsilon() == plan_of(None, **changes).epsilon()
  # The mixture of one example is the Gaussian of a Poisson sample.
  one = mixture.losses([mixture.Samples(2.0, 1, SIZE / NUM, 3)], 1e-3).get_epsilon_for_delta(1e-3)
  alone = accounting.epsilon(2.0, grid=1e-3, **SETTING | {"num_steps": 3})
  assert one == pytest.approx(alone, rel=1e-9)


def test_more_examples_a_person_never_cost_less():
  for rate in (0.02, 0.5, 1.0):
    setting = dict(num_units=100, sample_size=int(100 * rate), num_steps=4, delta=1e-4, grid=1e-2)
    costs = [accounting.epsilon(4.0, per_subject=k, **setting) for k in (1, 2, 3, 5)]
    assert costs == sorted(costs) and costs[0] < costs[-1]
  # Everybody in every sample: one Gaussian of k times the norm.
  setting = dict(num_units=9, sample_size=9, num_steps=1, delta=1e-4, grid=1e-3)
  assert accounting.epsilon(6.0, per_subject=3, **setting) == pytest.approx(
    accounting.epsilon(2.0, **setting), abs=2e-3
  )
  # What a table leaves out of the upper tail of the binomial law is counted as its largest value.
  shifts, chances = mixture._shifts(1000, 0.001)
  assert len(shifts) < 60 and shifts[-1] == 1000 and math.fsum(chances) == pytest.approx(1)


def test_gradients_of_any_direction_cost_no_more_than_aligned_ones():
  """Two examples with moves in a plane, on a grid of 300 x 300 places, both ways."""
  rate, sigma, epsilon = 0.3, 1.0, 0.7
  place = np.linspace(-9, 11, 300)
  cell = (place[1] - place[0]) ** 2

  def density(move):
    each = [stats.norm.pdf(place, m, sigma) for m in move]
    return each[0][:, None] * each[1]

  draw = np.random.default_rng(1)
  most = divergence(epsilon, 2, rate, sigma)
  nobody = density((0, 0))
  for angle, size in zip(draw.uniform(0, np.pi, 6), (1, 1, 1, 0.9, 0.5, 0), strict=True):
    moves = np.array([[1.0, 0.0], [size * np.cos(angle), size * np.sin(angle)]])
    person = sum(
      rate ** sum(drawn) * (1 - rate) ** (2 - sum(drawn)) * density(np.array(drawn) @ moves)
      for drawn in itertools.product((0, 1), repeat=2)
    )
    for p, q in ((person, nobody), (nobody, person)):
      assert np.maximum(p - math.exp(epsilon) * q, 0).sum() * cell <= most + 1e-6


def test_every_pattern_of_participation_moves_the_sum_by_no_more_than_its_count():
  """Examples of one person along one line, and along lines of their own."""
  clipped = jax.jit(
    lambda x, weights: grads.clipped_sum(loss_fn, 1.0)(jnp.zeros(3), x, KEY, weights=weights).grads
  )
  one_line = np.repeat(X[:1], 3, axis=0) * np.float32([[1.0], [2.0], [7.0]])
  for rows, is_tight in ((one_line, True), (X[:3], False)):
    x = {"x": np.concatenate([rows, X[5:10]])}  # a person of three examples among others
    for drawn in itertools.product((0.0, 1.0), repeat=3):
      others = np.float32([0, 1, 1, 0, 1])
      present = clipped(x, np.float32([*drawn, *others]))
      absent = clipped(x, np.float32([0, 0, 0, *others]))
      moved = float(jnp.linalg.norm(present - absent))
      assert moved <= sum(drawn) + 1e-5
      assert not is_tight or moved == pytest.approx(sum(drawn), abs=1e-5)


def test_the_missing_tail_of_the_noise_is_that_of_the_largest_move():
  # sigma 1: four examples of a person lift a number by 4 standard deviations, as one does at 1/4.
  def tail(most, sigma):
    plan = plan_of(most, noise_multiplier=sigma)
    return plan._books.tail([plan._books.planned()._replace(num_parameters=1)])

  assert tail(4, 1.0) == tail(None, 0.25)
  assert tail(2, 1.0) < tail(4, 1.0)


def test_a_tail_of_more_than_half_of_delta_is_not_told_by_an_epsilon():
  """That would be found at epsilon of delta / 2, which is below that of what is left of delta."""
  setting = dict(num_units=80_000, sample_size=8, num_steps=1000)
  plan = plan_of(
    None, noise_multiplier=0.3, num_steps=1000, num_examples=80_000, delta=3e-11, accountant="rdp"
  )
  half = accounting.epsilon(0.3, delta=1.5e-11, accountant="rdp", **setting)
  for share, is_finite in ((0.4, True), (0.75, False)):
    size = int(share * 3e-11 / ((1 + math.exp(half)) * 1000 * noise.CUT))
    done = [plan._books.planned()._replace(num_parameters=size)]
    alone = noise.excess([0.3], num_released=size, num_samples=1000)  # whatever epsilon is
    known = share * 3e-11 if is_finite else alone
    assert plan._books.tail(done) == pytest.approx(known, rel=1e-3) and alone > 3e-11
    assert math.isfinite(plan._books.cost(done).epsilon) == is_finite


def test_people_with_more_examples_are_refused_without_their_names():
  with pytest.raises(InputError, match="2 of 19 subjects with more, up to 3") as refused:
    subject = PAIRS["subject"].copy()
    subject[[4, 38]], subject[[5, 39]] = 7717, (0, 7717)  # three of 7717, three of 0
    plan_of().stream({"x": X, "subject": subject}, chunk=4)
  assert "7717" not in str(refused.value) and "\n" not in str(refused.value)
  with pytest.raises(InputError, match="a subject for every example"):
    plan_of().stream({"x": X}, chunk=4)
  chunk = plan_of().stream(PAIRS, chunk=4)(0)[0]  # examples, not people, are drawn
  assert chunk["x"].shape == (4, 3)


@pytest.mark.parametrize(
  "changes",
  [
    {"mechanism": privacy.BandedNoise(2, 6, (0.5,))},
    {"max_sample_size": 20},
    {"adaptive_clipping": privacy.QuantileClipping()},
    {"sampling": "fixed"},
    {"accountant": "rdp"},
    {"releases_per_sample": 2},
    {"noise_multiplier": None, "noise_multipliers": (1.0, 2.0)},
    {"unit": "group"},
    {"repeated_subjects": True},
    {"max_group_size": 2},
    {"max_examples_per_subject": 0},
  ],
)
def test_what_is_not_accounted_for_is_refused(changes):
  with pytest.raises(InputError, match="max_examples_per_subject") as refused:
    plan_of(**changes)
  assert "\n" not in str(refused.value)


def test_other_accountants_and_filters_of_one_s_own_are_refused():
  with pytest.raises(InputError, match="accountant='pld'"):
    plan_of().epsilon("rdp")
  mine = privacy.Filter("mine", 1, lambda params: (), lambda mechanism: None, {})
  with pytest.raises(InputError, match="a filter of medjax"):
    methods.private(loss_fn, optax.sgd(0.1), plan_of(), filter=mine)


def test_the_statement_names_the_person_and_the_vault_binds_the_number():
  plan = plan_of(3, vault=(vault := privacy.Vault.in_memory()))
  text = plan.statement()
  assert text.startswith("Protected: one patient with up to 3 examples, each one image.")
  assert "add or remove one such unit" in text and "each of 40 examples with" in text
  assert "mixture of Gaussians" in text and "NOT protected" not in text
  assert plan_of(1).statement().startswith("Protected: one patient with one image.")

  def run(plan, steps):
    step = methods.private(loss_fn, optax.sgd(0.5), plan)
    stream = plan.stream(PAIRS, chunk=16)
    train.fit(step, stream, jnp.zeros(3), KEY, num_steps=steps, progress=False)

  run(plan, 2)
  for most in (2, 4):
    with pytest.raises(InputError, match="max_examples_per_subject 3, as in the training"):
      run(plan_of(most, vault=vault, restarts="pay"), 3)
  run(plan_of(3, vault=vault), 3)
  assert "epsilon = " + privacy.statement.up(plan.epsilon()) in plan_of(3, vault=vault).statement()


def test_the_noise_is_calibrated():
  plan = plan_of(2, noise_multiplier=None, target_epsilon=2.0, num_steps=1, delta=1e-2)
  assert 2.0 * 0.999 <= plan.epsilon() <= 2.0
  assert accounting.epsilon(1e-3, per_subject=2, **SETTING) == math.inf  # no table would fit


def test_the_audit_refutes_one_example_a_person_for_a_person_of_two():
  batch = {"x": np.stack([X[0], X[0], X[1], X[2]]), "weight": np.ones(4, np.float32)}
  batch |= {"index": np.arange(4)}
  plan = plan_of(2, noise_multiplier=1.0)
  step = methods.private(loss_fn, optax.sgd(1.0), plan)
  release = audit.of_step(step, step.init(jnp.zeros(3), KEY))
  games = audit.people_games(loss_fn, jnp.zeros(3), batch, rows=((0, 1),), key=KEY)
  claim = 1 / plan.effective_multiplier
  options = dict(key=KEY, trials=4000, held_out=1000)
  found = audit.audit_step(release, games, claim=2 * claim, **options)
  assert found.verdict == "not refuted" and found.mu_lower > 1.7
  assert found.results[0]._replace(claim=claim).verdict == "refuted"
  assert found.results[0].game == "person 0, 1"
