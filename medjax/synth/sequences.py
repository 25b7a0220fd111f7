"""Pulse sequences with their settings: tissue properties in, signed signal out.

The equations are in `medjax.synth.signal`; times are in milliseconds, angles in degrees.
"""

import dataclasses
from typing import Protocol, runtime_checkable

from jaxtyping import Array

from medjax import check
from medjax.synth import signal
from medjax.synth.tissues import Properties


@runtime_checkable
class Sequence(Protocol):
  """What a site needs to know of a sequence."""

  def signal(self, tissue: Properties) -> Array:
    """Signed signal of each entry of the properties, in units of proton density."""
    ...

  def describe(self) -> str:
    """Name and settings in a few words."""
    ...


@dataclasses.dataclass(frozen=True)
class SpoiledGradientEcho:
  """T1-weighted volume: SPGR, FLASH, T1-FFE.

  Attributes:
    tr: repetition time in ms, above te.
    te: echo time in ms.
    flip_angle: in degrees, (0, 90].
  """

  tr: float | int = 20.0
  te: float | int = 4.0
  flip_angle: float | int = 25.0

  def __post_init__(self):
    check.positive("te", self.te)
    _longer("tr", self.tr, "te", self.te)
    check.in_interval("flip_angle", self.flip_angle, 0.1, 90.0)

  def signal(self, tissue: Properties) -> Array:
    return signal.spoiled_gradient_echo(
      tissue.t1, tissue.t2_star, tissue.pd, tr=self.tr, te=self.te, flip_angle=self.flip_angle
    )

  def describe(self) -> str:
    return f"SPGR TR {self.tr:g} TE {self.te:g} ms, {self.flip_angle:g} deg"


@dataclasses.dataclass(frozen=True)
class InversionTrain:
  """T1-weighted volume with inversion: MP-RAGE, IR-SPGR.

  Attributes:
    tr: time from inversion to inversion in ms.
    ti: from inversion to the centre of k-space in ms.
    te: echo time in ms.
    flip_angle: of the pulses of the train, in degrees.
    echo_spacing: from pulse to pulse in ms, above te.
    num_echoes: pulses of the train; its halves fit before and after ti.
  """

  tr: float | int = 2300.0
  ti: float | int = 900.0
  te: float | int = 3.0
  flip_angle: float | int = 9.0
  echo_spacing: float | int = 7.0
  num_echoes: int = 176

  def __post_init__(self):
    check.positive("te", self.te)
    _longer("echo_spacing", self.echo_spacing, "te", self.te)
    check.positive("num_echoes", self.num_echoes)
    check.in_interval("flip_angle", self.flip_angle, 0.1, 90.0)
    half = self.echo_spacing * (self.num_echoes - self.num_echoes // 2)
    _longer("ti", self.ti, "half the train", half)
    _longer("tr", self.tr, "ti and half the train", self.ti + half)

  def signal(self, tissue: Properties) -> Array:
    return signal.inversion_train(tissue.t1, tissue.t2_star, tissue.pd, **dataclasses.asdict(self))

  def describe(self) -> str:
    times = f"TR {self.tr:g} TI {self.ti:g} TE {self.te:g} ms"
    return f"MP-RAGE {times}, {self.num_echoes} x {self.flip_angle:g} deg"


@dataclasses.dataclass(frozen=True)
class SpinEcho:
  """Spin echo or, with te as its effective echo time, fast spin echo.

  Attributes:
    tr: repetition time in ms, above te.
    te: echo time in ms.
  """

  tr: float | int = 4000.0
  te: float | int = 100.0

  def __post_init__(self):
    check.positive("te", self.te)
    _longer("tr", self.tr, "te", self.te)

  def signal(self, tissue: Properties) -> Array:
    return signal.spin_echo(tissue.t1, tissue.t2, tissue.pd, tr=self.tr, te=self.te)

  def describe(self) -> str:
    return f"spin echo TR {self.tr:g} TE {self.te:g} ms"


@dataclasses.dataclass(frozen=True)
class Flair:
  """Spin echo after an inversion that nulls cerebrospinal fluid.

  Attributes:
    tr: time from inversion to inversion in ms, above ti + te.
    ti: inversion time in ms; `signal.null_inversion_time` gives the null.
    te: (effective) echo time in ms.
  """

  tr: float | int = 9000.0
  ti: float | int = 2500.0
  te: float | int = 120.0

  def __post_init__(self):
    check.positive("te", self.te)
    check.positive("ti", self.ti)
    _longer("tr", self.tr, "ti + te", self.ti + self.te)

  def signal(self, tissue: Properties) -> Array:
    return signal.flair(tissue.t1, tissue.t2, tissue.pd, tr=self.tr, ti=self.ti, te=self.te)

  def describe(self) -> str:
    return f"FLAIR TR {self.tr:g} TI {self.ti:g} TE {self.te:g} ms"


def _longer(name: str, value: float | int, other_name: str, other: float | int) -> None:
  check.require(
    value >= other, f"{name} of at least {other_name} ({other:g} ms)", f"{value:g}", "lengthen it"
  )
