"""Programs are traced for the platform that they are compiled for."""

import jax
from jax import numpy as jnp

from collab_jax import _platform


def test_the_target_is_the_default_backend():
  assert _platform.target_platform() == jax.default_backend()


def test_another_target_holds_inside_and_is_traced_anew():
  @jax.jit
  def program(x):
    return x + (_platform.target_platform() == 'tpu')

  x = jnp.zeros(())
  assert program(x) == 0
  with _platform.compiling_for('tpu'):
    assert program(x) == 1
    with _platform.compiling_for('cpu'):
      assert program(x) == 0
  assert program(x) == 0
