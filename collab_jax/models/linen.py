"""What the towers share of Flax."""

from typing import Any

from flax import linen as nn
import jax


def apply(
  module: nn.Module, params: Any, *args: Any, method: Any = None
) -> Any:
  """Calls a module, or a method of it, with its parameters; no state."""
  return module.apply({'params': params}, *args, method=method)


class Einsum(nn.Module):
  """A weight of a given shape under the name `w`."""

  shape: tuple[int, ...]
  fan_in: int

  @nn.compact
  def __call__(self) -> jax.Array:
    """Returns the weight."""
    init = nn.initializers.normal(self.fan_in**-0.5)
    return self.param('w', init, self.shape)
