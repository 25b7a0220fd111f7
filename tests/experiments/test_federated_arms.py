"""What the arms of three studies of federations train on: losses, frozen features, who stays."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import abdomens, condistfl, condistfl_sites, fed_cot, fed_mas, forgetting
from medjax import federated, losses, methods
from medjax.federated import restart
from medjax.types import Batch

KEY = jax.random.key(0)


def example(image, label, domain=0, index=0):
  return Batch(image, label, jnp.int32(domain), 0, jnp.int32(index), 1.0)


@pytest.fixture
def losses_made(monkeypatch):
  """The loss of every Step that is made meanwhile."""
  found, real = [], methods.supervised

  def supervised(loss_fn, tx):
    found.append(loss_fn)
    return real(loss_fn, tx)

  monkeypatch.setattr(methods, "supervised", supervised)
  return found


def loss_of(arm, made, task, teacher, round_, monkeypatch):
  """The loss function of an arm in one round, on a network whose logits are its parameters."""
  monkeypatch.setattr(task, "logits", lambda params, image: params)
  steps, real = [], federated.local
  monkeypatch.setattr(federated, "local", lambda step, **o: steps.append(step) or real(step, **o))
  condistfl.ARMS[arm].make(task, 50)
  steps[-1](federated.Broadcast(teacher, {}, (), round_))
  return made[-1]


def test_distillation_grows_from_a_hundredth_to_one_and_shuffling_moves_voxels_alone(
  losses_made, monkeypatch
):
  task = condistfl.Task(condistfl.Config(shape=(4, 4), widths=(4,), num_updates=200))
  random = np.random.default_rng(0)
  mine, theirs = (jnp.asarray(random.normal(size=(4, 4, 8)), jnp.float32) for _ in range(2))
  label = jnp.asarray(random.integers(3, size=(4, 4)))  # the first hospital labels 1 and 2
  case = example(jnp.zeros((4, 4, 1)), label)

  def value(arm, round_, teacher):
    return float(loss_of(arm, losses_made, task, teacher, round_, monkeypatch)(mine, case, KEY))

  labelled = jnp.asarray(task.labelled)[0]
  merged, same = losses.merge_unlabelled(mine, label, labelled)
  counted = labelled.at[0].set(True)
  marginal = losses.soft_dice(merged, same, counted=counted) + losses.cross_entropy(merged, same)
  groups = ((0,), *abdomens.LABELS.values())
  for arm, temperature, round_, weight in (
    ("condist", 0.5, 0, 0.01),  # the first of four rounds of 50 updates
    ("condist", 0.5, 1, 0.34),
    ("condist-2", 2.0, 3, 1.0),
  ):
    distilled = losses.conditional_distillation(
      mine, theirs, label, labelled=labelled, groups=groups, temperature=temperature
    )
    expected = float(marginal + weight * distilled)
    assert value(arm, round_, theirs) == pytest.approx(expected, rel=1e-5)
  assert value("marginal", 3, theirs) == pytest.approx(float(marginal), rel=1e-6)
  flat = jnp.broadcast_to(theirs[:1, :1], theirs.shape)
  assert value("shuffled", 3, flat) == pytest.approx(value("condist", 3, flat), rel=1e-6)
  assert abs(value("shuffled", 3, theirs) - value("condist", 3, theirs)) > 1e-4


def test_frozen_features_of_the_case_itself_hold_the_projection(losses_made, monkeypatch):
  random = np.random.default_rng(0)
  known = {name: random.normal(size=(3, 4)).astype(np.float32) for name in ("learnt", "random")}
  known = {k: v / np.linalg.norm(v, axis=1, keepdims=True) for k, v in known.items()}
  train = types.SimpleNamespace(domain=np.array([0, 0, 1]), label=np.array([0, 1, 1]))
  task = fed_mas.Task(fed_mas.Config(num_clients=2), train, known)
  assert task.shares[:, :3].tolist() == [[1, 1, 0], [0, 1, 0]]
  logits, projected = (jnp.asarray(random.normal(size=n), jnp.float32) for n in (10, 4))
  monkeypatch.setattr(
    task, "model", task.model._replace(apply=lambda params, image: ((logits, projected), {}))
  )
  case = example(jnp.zeros((2, 2, 1)), jnp.int32(1), domain=0, index=2)
  unit = np.asarray(projected) / np.linalg.norm(projected)

  def value(arm):
    fed_mas.ARMS[arm].make(task)
    return float(losses_made[-1]({}, case, KEY))

  bsm = float(losses.logit_adjusted(logits, jnp.int32(1), jnp.asarray(task.shares)[0]))
  assert value("bsm") == pytest.approx(bsm, rel=1e-6)
  assert value("fedavg") == pytest.approx(
    float(losses.cross_entropy(logits, jnp.int32(1))), rel=1e-6
  )
  for arm, table in {"kd": "learnt", "mas": "learnt", "mas-random": "random"}.items():
    away = 2 - 2 * unit @ known[table][2]
    assert value(arm) == pytest.approx(bsm + 3.0 * away, rel=1e-5)


def test_who_left_weighs_nothing_and_a_restart_saves_the_rounds_before_it():
  def own_of(drift):
    state = types.SimpleNamespace(params={"w": jnp.zeros(2)})
    return types.SimpleNamespace(
      seed=0,
      past=types.SimpleNamespace(drift=np.array(drift)),
      history=types.SimpleNamespace(state=lambda t: state),
    )

  config = types.SimpleNamespace(
    kept_fraction=0.5, sigma=0.1, private_sigma=0.5, private_epsilon=10.0, delta=0.025, num_rounds=4
  )
  asked = []

  def federate(name, params, seed, rounds):
    asked.append((name, rounds))
    return types.SimpleNamespace(params=params)

  task = types.SimpleNamespace(config=config, federate=federate)
  own = own_of([0.0, 1.0, 2.0, 3.0, 4.0])
  usual, private = forgetting.usual_noise(task, own), forgetting.private_noise(task, own)
  assert usual == (2.0, 0.1) and private.sigma == 0.5
  assert restart.epsilon_of(private.limit, private.sigma, 0.025) == pytest.approx(10.0, rel=1e-4)
  _, rounds = forgetting.informed(task, own, noise=forgetting.usual_noise, name="ifu")
  assert rounds == 2 and asked == [("ifu", 2)]

  names = forgetting.HOSPITALS
  store = types.SimpleNamespace(domain=np.repeat(np.arange(4), 3))
  stream_of = forgetting.Task.stream
  batch = Batch(
    np.zeros((12, 1)), np.zeros(12), store.domain, np.arange(12), np.arange(12), np.ones(12)
  )
  holder = types.SimpleNamespace(
    train=batch,
    held=federated.by_domain(store.domain),
    config=types.SimpleNamespace(batch_size=2, local_steps=1),
  )
  gone = names.index("endorectal")
  for all_stay in (True, False):
    (block,) = stream_of(holder, 0, all_stay=all_stay)(0)
    assert block.weight.tolist() == [1.0 if c != gone or all_stay else 0.0 for c in range(4)]


def test_only_the_first_people_of_a_scanner_are_labelled():
  label, domain = np.ones((8, 2, 2), np.int32), np.array([0, 1] * 4)
  found = fed_cot.hidden(label, domain, 0.5)
  assert (found[:4] == 1).all() and (found[4:] == -1).all()
  assert (fed_cot.hidden(label, domain, 0.01) == 1).all((1, 2)).sum() == 2  # one at least


def test_a_site_reads_its_own_hospital_and_knows_its_own_organ():
  config = condistfl.Config(num_people=3, shape=(8, 8), widths=(2, 2))
  task = condistfl.Task(config)
  for client, labels in enumerate(list(abdomens.LABELS.values())[: condistfl_sites.NUMBER]):
    own = condistfl_sites.cases(config, 0, client, task)
    assert len(own.label) == 2 and (own.domain == client).all()
    assert set(np.unique(own.label)) <= {0, *labels}
