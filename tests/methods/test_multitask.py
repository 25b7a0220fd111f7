"""Several tasks in one step: heads, missing labels, lost tasks, the report of conflicts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from medjax import grads, methods
from medjax.check import InputError

KEY = jax.random.key(0)
PARAMS = {"body": jnp.array([1.0, -1.0]), "head_a": jnp.float32(2), "head_b": jnp.float32(-1)}
BATCH = {
  "x": jnp.array([[1.0, 0.5], [0.0, 2.0], [3.0, -1.0]]),
  "has_b": jnp.array([1.0, 0.0, 1.0]),
  "weight": jnp.array([1.0, 1.0, 2.0]),
}


def task_a(p, e, key):
  del key
  return p["head_a"] * (p["body"] @ e["x"])


def task_b(p, e, key):
  del key
  return (p["head_b"] * (p["body"] @ e["x"]) - 1) ** 2


LOSSES = {"a": task_a, "b": task_b}


def step_of(losses=None, **options):
  step = methods.multitask(losses or LOSSES, optax.sgd(1.0), **options)
  state, metrics = jax.jit(step.update)(step.init(PARAMS, KEY), BATCH, KEY)
  moved = jax.tree.map(lambda a, b: np.asarray(a - b), PARAMS, state.params)
  return moved, {name: float(value) for name, value in metrics.items()}


def mean_gradient(loss, weight):
  def mean(p):
    values = jax.vmap(lambda x: loss(p, {"x": x}, KEY))(BATCH["x"])
    return (values * weight).sum() / weight.sum()

  return jax.value_and_grad(mean)(PARAMS)


@pytest.mark.parametrize("method", ["ghost", "vmap"])
def test_shared_parameters_are_combined_and_heads_are_not(method):
  shared = lambda name: name == "body"  # noqa: E731
  moved, metrics = step_of(
    combine=grads.combine.upgrad(),
    shared=shared,
    labelled={"b": lambda e: e["has_b"]},
    method=method,
  )
  value_a, a = mean_gradient(task_a, BATCH["weight"])
  value_b, b = mean_gradient(task_b, BATCH["weight"] * BATCH["has_b"])
  rows = jnp.stack([a["body"], b["body"]])
  np.testing.assert_allclose(moved["body"], grads.combine.upgrad()(rows, KEY), rtol=1e-5)
  np.testing.assert_allclose(moved["head_a"], a["head_a"], rtol=1e-5)
  np.testing.assert_allclose(moved["head_b"], b["head_b"], rtol=1e-5)
  cosine = rows[0] @ rows[1] / jnp.linalg.norm(rows[0]) / jnp.linalg.norm(rows[1])
  np.testing.assert_allclose(metrics["lowest_cosine"], cosine, rtol=1e-5)
  np.testing.assert_allclose(
    [metrics["loss/a"], metrics["loss/b"], metrics["loss"]],
    [value_a, value_b, (value_a + value_b) / 2],
    rtol=1e-5,
  )
  assert metrics["conflicts"] == float(cosine < 0)


def test_the_mean_is_training_on_the_mean_of_the_losses():
  moved, _ = step_of()
  both = lambda p, e, key: (task_a(p, e, key) + task_b(p, e, key)) / 2  # noqa: E731
  _, want = mean_gradient(both, BATCH["weight"])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), moved, want)


def test_weights_by_losses_weigh_heads_too_and_are_remembered():
  rule = grads.combine.uncertainty(optax.sgd(1.0))
  step = methods.multitask(LOSSES, optax.sgd(1.0), combine=rule, shared=lambda name: name == "body")
  update, states, batch = jax.jit(step.update), [step.init(PARAMS, KEY)], BATCH
  for _ in range(2):
    state, metrics = update(states[-1], batch, KEY)
    states.append(state)
  # at s = 0 both weights are 1/2; s then moved by -(1 - L) / 2
  parts = [mean_gradient(loss, BATCH["weight"]) for loss in (task_a, task_b)]
  for name in PARAMS:
    want = 0.5 * (parts[0][1][name] + parts[1][1][name])
    np.testing.assert_allclose(PARAMS[name] - states[1].params[name], want, rtol=1e-4, atol=1e-6)
  s = [-0.5 * (1 - float(value)) for value, _ in parts]
  np.testing.assert_allclose(states[1].extra.log_variance, s, rtol=1e-5)
  np.testing.assert_allclose(
    [metrics["weight/a"], metrics["weight/b"]], 0.5 * np.exp(-np.array(s)), rtol=1e-5
  )


def test_the_report_has_cosines_and_sizes():
  _, metrics = step_of(shared=lambda name: name == "body")
  a, b = (mean_gradient(loss, BATCH["weight"])[1]["body"] for loss in (task_a, task_b))
  sizes = np.linalg.norm(a), np.linalg.norm(b)
  np.testing.assert_allclose([metrics["norm/a"], metrics["norm/b"]], sizes, rtol=1e-5)
  np.testing.assert_allclose(metrics["cosine/a b"], a @ b / sizes[0] / sizes[1], rtol=1e-5)
  assert metrics["conflicting"] == float(metrics["cosine/a b"] < 0)


def lost(p, e, key):
  return task_b(p, e, key) * jnp.log(-jnp.ones(()))


@pytest.mark.parametrize(
  ("combine", "method"), [(grads.combine.mgda, "ghost"), (grads.combine.mean, "vmap")]
)
@pytest.mark.parametrize("case", ["not finite", "no label"])
def test_a_task_that_takes_no_part_is_named_and_the_others_go_on(case, combine, method):
  options = {"combine": combine(), "method": method}
  if case == "no label":
    moved, metrics = step_of(labelled={"b": lambda e: 0 * e["has_b"]}, **options)
  else:
    moved, metrics = step_of({"a": task_a, "b": lost}, **options)
  _, want = mean_gradient(task_a, BATCH["weight"])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), moved, want)
  assert (metrics["skipped/a"], metrics["skipped/b"], metrics["conflicts"]) == (0, 1, 0)
  assert np.isfinite(list(metrics.values())).all()


@pytest.mark.parametrize("method", ["ghost", "vmap"])
def test_one_task_is_training_on_it(method):
  moved, metrics = step_of({"a": task_a}, combine=grads.combine.cagrad(), method=method)
  value, a = mean_gradient(task_a, BATCH["weight"])
  length = np.sqrt(sum(float((x**2).sum()) for x in jax.tree.leaves(a)))
  ratios = jax.tree.leaves(jax.tree.map(lambda x, y: x / y, moved, a))
  for ratio in ratios[:2]:  # CAGrad of one row is (1 + c) of it; "head_b" is not touched
    np.testing.assert_allclose(ratio, 1.5, rtol=1e-3)
  np.testing.assert_allclose([metrics["loss"], metrics["norm/a"]], [value, length], rtol=1e-5)
  assert (metrics["conflicting"], metrics["skipped/a"], float(moved["head_b"])) == (0, 0, 0)


@pytest.mark.parametrize("combine", [grads.combine.mgda, grads.combine.dwa])
def test_tasks_whose_gradients_are_zero_move_nothing_and_every_figure_is_a_number(combine):
  flat = lambda p, e, key: 0 * task_a(p, e, key) + 3.0  # noqa: E731
  moved, metrics = step_of({"a": flat, "b": flat}, combine=combine())
  assert all(float(np.abs(x).max()) == 0 for x in jax.tree.leaves(moved))
  assert np.isfinite(list(metrics.values())).all() and metrics["conflicting"] == 0


def test_no_task_at_all_moves_nothing_and_says_so():
  moved, metrics = step_of({"b": lost})
  assert all(float(np.abs(x).max()) == 0 for x in jax.tree.leaves(moved))
  assert np.isnan(metrics["loss"])
  with pytest.raises(InputError, match="at least one task"):
    methods.multitask({}, optax.sgd(1.0))
  with pytest.raises(InputError, match="tasks among a, b, got .'c'."):
    methods.multitask(LOSSES, optax.sgd(1.0), labelled={"c": lambda e: 1.0})


def trunk(p, e):
  h = e["x"]
  for w in p["trunk"]:
    h = jnp.tanh(h @ w)
  return h


DEEP = {
  "one": lambda p, e, key: jnp.sum(trunk(p, e) @ p["one"]),
  "two": lambda p, e, key: jnp.sum(jnp.sin(trunk(p, e) @ p["two"])),
  "sum": lambda p, e, key: jnp.sum(trunk(p, e) ** 2) * e["has"],
}
WIDE = {"trunk": [0.1 * np.eye(192, dtype=np.float32) + 0.01] * 2}
WIDE |= {name: np.full((192, 3), 0.1, np.float32) for name in ("one", "two")}
DEEP_BATCH = {
  "x": np.random.default_rng(0).normal(size=(6, 192)).astype(np.float32),
  "has": np.float32([1, 0, 1, 1, 0, 1]),
}


@pytest.fixture(scope="module")
def deep():
  """Method -> compiled update of a deep network with two heads, for a rule of inner products."""

  def of(method):
    step = methods.multitask(
      DEEP,
      optax.sgd(1.0),
      combine=grads.combine.pcgrad(),
      shared=lambda name: name.startswith("trunk"),
      labelled={"sum": lambda e: e["has"]},
      method=method,
    )
    state = step.init(jax.tree.map(jnp.asarray, WIDE), KEY)
    return state, jax.jit(step.update).lower(state, DEEP_BATCH, KEY).compile()

  return {method: of(method) for method in ("auto", "vmap")}


def test_the_engine_and_rows_that_are_formed_give_one_update(deep):
  found = {}
  for method, (state, update) in deep.items():
    new, metrics = update(state, DEEP_BATCH, KEY)
    found[method] = new.params, metrics
  for got, want in zip(*map(jax.tree.leaves, found.values()), strict=True):
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  moved = found["auto"][0]["trunk"][0] - WIDE["trunk"][0]
  assert float(jnp.abs(moved).max()) > 1e-3 and found["auto"][1]["lowest_cosine"] < 0.9


def test_the_engine_forms_one_gradient_where_rows_are_three(deep):
  flops, memory = (
    [read(update) for _, update in deep.values()]
    for read in (
      lambda update: update.cost_analysis()["flops"],
      lambda update: update.memory_analysis().temp_size_in_bytes,
    )
  )
  assert flops[0] < 0.7 * flops[1]
  assert memory[1] > 3 * 2 * 192 * 192 * 4 > memory[0]


def test_rows_are_formed_where_they_are_cheaper_or_needed():
  def rows(losses, params, batch, **options):
    of, found = grads.task_gradients(losses, **options), []
    jax.eval_shape(lambda *x: found.append(of(*x).rows), params, batch, KEY)
    return found[0]

  assert rows(tuple(DEEP.values()), WIDE, DEEP_BATCH) is None
  assert rows(tuple(LOSSES.values()), PARAMS, BATCH) is not None  # a gradient of four numbers
  mixing = lambda p, e, key: jax.lax.pmean(p["body"] @ e["x"], "batch")  # noqa: E731
  assert rows((mixing, task_a), PARAMS, BATCH) is not None
  with pytest.raises(InputError, match="mixes examples"):
    rows((mixing, task_a), PARAMS, BATCH, method="ghost")
  with pytest.raises(InputError, match="graddrop, which looks at every entry"):
    methods.multitask(LOSSES, optax.sgd(1.0), combine=grads.combine.graddrop(), method="ghost")
