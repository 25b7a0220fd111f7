"""Programs are chosen by where the arrays are, not by what the machine has."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medjax import devices
from medjax.ops.conv import conv_general_dilated

CPU = jax.devices("cpu")[0]
VOLUME, KERNEL = jnp.ones((1, 3, 4, 4, 1)), jnp.ones((2, 3, 3, 1, 1))


def program(volume, kernel):
  numbers = ("NDHWC", "DHWIO", "NDHWC")
  return conv_general_dilated(volume, kernel, (1, 1, 1), "SAME", dimension_numbers=numbers)


def num_convolutions(function):
  return str(jax.make_jaxpr(function)(VOLUME, KERNEL)).count("conv_general_dilated[")


@pytest.fixture
def on_a_gpu_machine(monkeypatch):
  """As far as a question about the machine shows."""

  gpu = mock.Mock(spec=jax.Device, platform="gpu", id=0)
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  monkeypatch.setattr(jax, "local_devices", lambda backend=None: [CPU if backend else gpu])


def test_arrays_on_a_cpu_take_the_programs_for_a_cpu(on_a_gpu_machine):
  assert devices.platform_of({"weight": VOLUME}) == "cpu"
  assert devices.platform_of({"weight": np.ones(2)}) == "gpu"  # not anywhere yet
  slices = jax.jit(lambda v, k: program(v, k))  # on the arrays that it closes over: none
  assert num_convolutions(slices) == 1  # traced, nothing said: the machine decides
  with devices.working_on(CPU):
    assert devices.platform_of() == "cpu"
    assert num_convolutions(lambda v, k: program(v, k)) == 2  # one a row of the kernel's depth
  assert devices.platform_of() == "gpu"


def test_naming_the_default_changes_no_compiled_program():
  counted = []

  @jax.jit
  def double(x):
    counted.append(1)
    return 2 * x

  double(VOLUME)
  with devices.working_on(CPU):
    double(VOLUME)
  assert len(counted) == 1
