"""Signal equations against the longitudinal magnetisation followed pulse by pulse in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax.synth import signal

T1 = np.array([300.0, 838.0, 1607.0, 4300.0])
T2 = np.array([50.0, 69.0, 99.0, 1800.0])
PD = np.array([0.9, 0.7, 0.82, 1.0])


def recover(m, duration):
  """Bloch: M relaxes to 1 with T1."""
  return 1 + (m - 1) * np.exp(-duration / T1)


def steady(repetition, tr):
  """Signal after 20 of the longest T1; a repetition maps M to (M, signal)."""
  m = np.ones_like(T1)
  for _ in range(int(20 * T1.max() / tr) + 2):
    m, seen = repetition(m)
  return seen


def f32(*arrays):
  return [jnp.asarray(a, jnp.float32) for a in arrays]


@pytest.mark.parametrize(("tr", "te", "angle"), [(9.0, 4.0, 10.0), (20.0, 5.0, 25.0), (500, 9, 90)])
def test_spoiled_gradient_echo(tr, te, angle):
  a = np.radians(angle)

  def repetition(m):
    return recover(m * np.cos(a), tr), PD * m * np.sin(a) * np.exp(-te / T2)

  got = jax.jit(lambda *x: signal.spoiled_gradient_echo(*x, tr=tr, te=te, flip_angle=angle))
  np.testing.assert_allclose(got(*f32(T1, T2, PD)), steady(repetition, tr), rtol=2e-4)


@pytest.mark.parametrize(("tr", "te"), [(520.0, 14.0), (4000.0, 95.0)])
def test_spin_echo(tr, te):
  def repetition(m):
    half = recover(np.zeros_like(m), te / 2)  # after 90 degrees
    return recover(-half, tr - te / 2), PD * m * np.exp(-te / T2)

  got = signal.spin_echo(*f32(T1, T2, PD), tr=tr, te=te)
  np.testing.assert_allclose(got, steady(repetition, tr), rtol=2e-4)


@pytest.mark.parametrize(("tr", "ti", "te"), [(6000.0, 2000.0, 140.0), (9500.0, 2500.0, 125.0)])
def test_flair(tr, ti, te):
  def repetition(m):
    before = recover(-m, ti)
    half = recover(np.zeros_like(m), te / 2)
    return recover(-half, tr - ti - te / 2), PD * before * np.exp(-te / T2)

  got = signal.flair(*f32(T1, T2, PD), tr=tr, ti=ti, te=te)
  np.testing.assert_allclose(got, steady(repetition, tr), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("num_echoes", [1, 7, 160])
def test_inversion_train(num_echoes):
  tr, ti, te, spacing, a = 2300.0, 900.0, 3.0, 7.5, np.radians(9)

  def repetition(m):
    m = recover(-m, ti - (num_echoes // 2) * spacing)
    for pulse in range(num_echoes):
      if pulse == num_echoes // 2:
        seen = PD * m * np.sin(a) * np.exp(-te / T2)
      m = recover(m * np.cos(a), spacing)
    return recover(m, tr - ti - (num_echoes - num_echoes // 2) * spacing), seen

  got = signal.inversion_train(
    *f32(T1, T2, PD),
    tr=tr,
    ti=ti,
    te=te,
    flip_angle=9,
    echo_spacing=spacing,
    num_echoes=num_echoes,
  )
  np.testing.assert_allclose(got, steady(repetition, tr), rtol=1e-3, atol=1e-5)


def test_ernst_angle_is_the_maximum():
  t1, t2, pd = f32(T1, T2, PD)
  best = jnp.rad2deg(jnp.arccos(jnp.exp(-20 / t1)))  # Ernst & Anderson 1966

  def at(angle):
    return signal.spoiled_gradient_echo(t1, t2, pd, tr=20, te=5, flip_angle=angle)

  slope = jax.jvp(at, (best,), (jnp.ones_like(best),))[1]
  np.testing.assert_allclose(slope / at(best), 0, atol=1e-5)
  assert (at(best) > at(best + 2)).all()
  assert (at(best) > at(best - 2)).all()


def test_limits():
  """Long TR and short TE leave proton density; FLAIR is silent at its null, T1 ln 2 at long TR."""
  t1, t2, pd = f32(T1, T2, PD)
  long = signal.spoiled_gradient_echo(t1, t2, pd, tr=1e6, te=0, flip_angle=90)
  np.testing.assert_allclose(long, PD, rtol=1e-6)
  np.testing.assert_allclose(signal.spin_echo(t1, t2, pd, tr=1e6, te=0), PD, rtol=1e-6)
  null = signal.null_inversion_time(t1, tr=9000, te=120)
  np.testing.assert_allclose(signal.flair(t1, t2, pd, tr=9000, ti=null, te=120), 0, atol=1e-6)
  np.testing.assert_allclose(signal.null_inversion_time(t1, tr=1e6), T1 * np.log(2), rtol=1e-6)
