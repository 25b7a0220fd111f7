"""The moving average of a client, corrected and as printed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import check, federated, methods
from medjax.federated import moving_average


def course(form, decay, values):
  kept, found = 0.0, []
  for t, value in enumerate(values, 1):
    kept = moving_average.moved(kept, value, decay, t, form)
    found.append(moving_average.read(kept, decay, t, form))
  return np.array(found)


@pytest.mark.parametrize(("decay", "reached"), [(0.9, 3.9e3), (0.99, 1.6e39)])
def test_the_printed_recursion_diverges_where_the_corrected_one_stays(decay, reached):
  ones = np.ones(59)
  np.testing.assert_allclose(course("corrected", decay, ones), 1, rtol=1e-12)
  assert course("printed", decay, ones).max() == pytest.approx(reached, rel=0.03)


def test_the_corrected_average_is_the_weighted_mean_of_what_was_sent():
  sent = np.random.default_rng(0).normal(size=12)
  weights = 0.8 ** np.arange(12)[::-1]
  want = (weights * sent).sum() / weights.sum()
  assert course("corrected", 0.8, sent)[-1] == pytest.approx(want, rel=1e-12)


def test_a_client_that_was_never_asked_has_the_average_0_and_shares_what_it_shared():
  kept = {"client": jnp.float32(5), "mean": jnp.array([[0.0], [0.5]]), "count": jnp.array([0, 1])}
  for form, one in (("corrected", 1.0), ("printed", 0.5)):
    found, count = federated.averages_of(kept, 0.5, form=form)
    assert (found.tolist(), count.tolist()) == ([[0.0], [one]], [0, 1])
  own = federated.Client(lambda p, k: ((), {}), lambda *a: None, shared=lambda kept: 2 * kept)
  assert federated.with_moving_average(own, 0.5).shared(kept) == 10


def test_a_federation_keeps_the_average_and_trains_as_without_it():
  loss = lambda w, e, k: 0.5 * jnp.sum((w - e["x"]) ** 2)  # noqa: E731
  plain = federated.local(methods.supervised(loss, optax.sgd(0.5)))
  batches = {"x": jnp.array([1.0, 3.0])[:, None, None, None], "weight": jnp.ones((2, 1, 1))}
  states, sent = {}, []
  for name, client in (("plain", plain), ("mean", federated.with_moving_average(plain, 0.5))):
    step = federated.federated(client, num_clients=2, cohort=2)
    state = step.init(jnp.zeros(1), jax.random.key(0))
    update = jax.jit(step.update)
    for t in range(3):
      cohort = federated.Cohort(jnp.arange(2), jnp.arange(2), jnp.ones(2), batches)
      sent += [float(state.params[0])] if name == "mean" else []
      state, _ = update(state, cohort, jax.random.key(t))
    states[name] = state
  np.testing.assert_array_equal(states["plain"].params, states["mean"].params)
  kept = states["mean"].extra.clients.kept
  found, count = federated.averages_of(kept, 0.5)
  want = (0.25 * sent[0] + 0.5 * sent[1] + sent[2]) / 1.75
  np.testing.assert_allclose(found, [[want], [want]], rtol=1e-5)
  assert count.tolist() == [3, 3]
  with pytest.raises(check.InputError, match="decay"):
    federated.with_moving_average(plain, 1.0)
