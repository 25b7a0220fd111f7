"""Steady-state MR signal of a tissue: the equations that turn relaxation times into contrast.

Spoiled gradient echo (Ernst & Anderson 1966), with E = exp(-TR / T1):

  S = PD sin(a) (1 - E) / (1 - cos(a) E) exp(-TE / T2*)

Spin echo and inversion-prepared spin echo (Hahn 1950; FLAIR: Hajnal et al. 1992), 90 degrees at
time 0 (TI), 180 degrees TE / 2 later:

  S = PD (1 - 2 exp(-(TR - TE/2) / T1) + exp(-TR / T1)) exp(-TE / T2)
  S = PD (1 - 2 exp(-TI / T1) + 2 exp(-(TR - TE/2) / T1) - exp(-TR / T1)) exp(-TE / T2)

MP-RAGE (Mugler & Brookeman 1990): `inversion_train` below. Pulses are perfect and instantaneous,
transverse magnetisation is spoiled before every excitation. Times are in milliseconds, angles in
degrees; tissue parameters are arrays of one shape, maps or one number a tissue, T1 and T2 above 0.
Signals are signed (an inversion may leave them negative) and add up within a voxel; the magnitude
is taken after that.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def spoiled_gradient_echo(
  t1: Float[Array, "*maps"],
  t2_star: Float[Array, "*maps"],
  pd: Float[Array, "*maps"],
  *,
  tr: float | int | Array,
  te: float | int | Array,
  flip_angle: float | int | Array,
) -> Float[Array, "*maps"]:
  """Spoiled gradient echo (SPGR, FLASH, T1-FFE).

  Args:
    t1, t2_star: relaxation times in ms, above 0.
    pd: proton density, water 1, unitless.
    tr: repetition time in ms; T1-weighted volumes 5 to 40.
    te: echo time in ms.
    flip_angle: in degrees, (0, 90].
  Returns:
    Signal in units of pd; largest at the Ernst angle, arccos(exp(-TR / T1)).

  >>> one = jnp.ones(())
  >>> signal = spoiled_gradient_echo(800 * one, 50 * one, one, tr=1e6, te=0, flip_angle=90)
  >>> round(float(signal), 4)
  1.0
  """
  angle = jnp.deg2rad(flip_angle)
  remaining = jnp.exp(-tr / t1)
  saturated = (1 - remaining) / (1 - jnp.cos(angle) * remaining)
  return pd * jnp.sin(angle) * saturated * jnp.exp(-te / t2_star)


def spin_echo(
  t1: Float[Array, "*maps"],
  t2: Float[Array, "*maps"],
  pd: Float[Array, "*maps"],
  *,
  tr: float | int | Array,
  te: float | int | Array,
) -> Float[Array, "*maps"]:
  """Spin echo, 90 then 180 degrees: T1-weighted with short times, T2-weighted with long ones.

  Stands for fast spin echo as well, with te the effective echo time (magnetisation transfer and the
  bright fat of long echo trains are not modelled).

  Args:
    t1, t2: relaxation times in ms, above 0.
    pd: proton density, water 1, unitless.
    tr: repetition time in ms, above te.
    te: echo time in ms.
  """
  recovered = 1 - 2 * jnp.exp(-(tr - te / 2) / t1) + jnp.exp(-tr / t1)
  return pd * recovered * jnp.exp(-te / t2)


def flair(
  t1: Float[Array, "*maps"],
  t2: Float[Array, "*maps"],
  pd: Float[Array, "*maps"],
  *,
  tr: float | int | Array,
  ti: float | int | Array,
  te: float | int | Array,
) -> Float[Array, "*maps"]:
  """Inversion-prepared spin echo; with ti at the null of cerebrospinal fluid it is FLAIR.

  Args:
    t1, t2: relaxation times in ms, above 0.
    pd: proton density, water 1, unitless.
    tr: repetition time in ms, from inversion to inversion, above ti + te.
    ti: inversion time in ms, from inversion to excitation; see `null_inversion_time`.
    te: echo time in ms.
  Returns:
    Signed signal: negative where ti is before the null of the tissue.
  """
  recovered = 1 - 2 * jnp.exp(-ti / t1) + 2 * jnp.exp(-(tr - te / 2) / t1) - jnp.exp(-tr / t1)
  return pd * recovered * jnp.exp(-te / t2)


def null_inversion_time(
  t1: Float[Array, "*maps"], *, tr: float | int | Array, te: float | int | Array = 0
) -> Float[Array, "*maps"]:
  """Inversion time in ms at which `flair` gives no signal of a tissue with this T1.

    TI = T1 (ln 2 - ln(1 + 2 exp(-(TR - TE/2) / T1) - exp(-TR / T1))) -> T1 ln 2 for TR >> T1

  >>> round(float(null_inversion_time(jnp.array(4300.0), tr=1e6)))  # 4300 ln 2
  2981
  """
  return t1 * (jnp.log(2) - jnp.log1p(2 * jnp.exp(-(tr - te / 2) / t1) - jnp.exp(-tr / t1)))


def inversion_train(
  t1: Float[Array, "*maps"],
  t2_star: Float[Array, "*maps"],
  pd: Float[Array, "*maps"],
  *,
  tr: float | int | Array,
  ti: float | int | Array,
  te: float | int | Array,
  flip_angle: float | int | Array,
  echo_spacing: float | int | Array,
  num_echoes: int,
) -> Float[Array, "*maps"]:
  """Inversion-prepared train of spoiled gradient echoes (MP-RAGE, IR-SPGR), centre of its k-space.

  Longitudinal magnetisation M passes through stages M -> offset + factor M: inversion (0, -1), free
  recovery over t (1 - e, e) with e = exp(-t / T1), and n pulses of angle a, which with
  q = cos(a) exp(-echo_spacing / T1) pull it geometrically to the spoiled steady state
  M_ss = (1 - exp(-echo_spacing / T1)) / (1 - q): (M_ss (1 - q^n), q^n). One repetition composes
  them, and its fixed point is the steady state: closed form, no iteration.

  Args:
    t1, t2_star: relaxation times in ms, above 0.
    pd: proton density, water 1, unitless.
    tr: time from inversion to inversion in ms.
    ti: from inversion to the pulse that acquires the centre of k-space, the middle of the train, in
      ms; at least echo_spacing * num_echoes / 2, and tr - ti as well.
    te: echo time in ms.
    flip_angle: of the pulses of the train, in degrees.
    echo_spacing: from pulse to pulse in ms.
    num_echoes: pulses of the train. 1 with 90 degrees is inversion recovery,
      S = PD (1 - 2 exp(-TI / T1) + exp(-TR / T1)) exp(-TE / T2*).
  Returns:
    Signed signal: negative where ti is before the null of the tissue.
  """
  angle = jnp.deg2rad(flip_angle)
  num_before = num_echoes // 2
  num_after = num_echoes - num_before

  def recovery(duration: float | int | Array) -> tuple[Array, Array]:
    remaining = jnp.exp(-duration / t1)
    return 1 - remaining, remaining

  def train(count: int) -> tuple[Array, Array]:
    remaining = jnp.exp(-echo_spacing / t1)
    ratio = jnp.cos(angle) * remaining
    decay = ratio**count
    return (1 - remaining) / (1 - ratio) * (1 - decay), decay

  # From the inversion to the middle of the train, and from there to the next inversion.
  inversion = jnp.zeros_like(t1), -jnp.ones_like(t1)
  to_centre = _chain(inversion, recovery(ti - num_before * echo_spacing), train(num_before))
  rest = _chain(train(num_after), recovery(tr - ti - num_after * echo_spacing))
  # One repetition maps M at the centre to offset + factor M; in the steady state that is M again.
  offset, factor = _chain(rest, to_centre)
  centre = offset / (1 - factor)
  return pd * jnp.sin(angle) * centre * jnp.exp(-te / t2_star)


def _chain(*stages: tuple[Array, Array]) -> tuple[Array, Array]:
  """Affine maps (offset, factor) one after the other."""
  offset, factor = stages[0]
  for next_offset, next_factor in stages[1:]:
    # o2 + f2 (o1 + f1 M) = (o2 + f2 o1) + f2 f1 M
    offset, factor = next_offset + next_factor * offset, next_factor * factor
  return offset, factor
