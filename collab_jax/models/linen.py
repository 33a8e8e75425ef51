"""What the towers share of Flax."""

from typing import Any

from flax import linen as nn


def apply(
  module: nn.Module, params: Any, *args: Any, method: Any = None
) -> Any:
  """Calls a module, or a method of it, with its parameters; no state."""
  return module.apply({'params': params}, *args, method=method)
