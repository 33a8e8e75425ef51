"""Flags of commands that load a model: dtypes, precision and an adapter."""

from typing import Any, NamedTuple

from absl import flags

from collab_jax import _precision
from collab_jax.checkpoints import trees

# The flags belong to the command that calls `define`, and to its --help.
flags.disclaim_key_flags()


class DtypeFlags(NamedTuple):
  """Holders of the flags; see `define`."""

  dtype: Any
  compute_dtype: Any
  precision: Any
  adapter: Any

  @property
  def arguments(self) -> dict[str, Any]:
    """Arguments of `checkpoints.load`."""
    return {
      'dtype': self.dtype.value,
      'compute_dtype': self.compute_dtype.value,
      'adapter': self.adapter.value or None,
    }


def define_adapter() -> Any:
  """Defines the flag of an adapter."""
  return flags.DEFINE_string(
    'adapter', None, "Folder of a LoRA adapter to merge; may be the model's."
  )


def define(weights: bool = True) -> DtypeFlags:
  """Defines the flags.

  Args:
    weights: Whether the command reads weights, into which an adapter is merged.
  """
  return DtypeFlags(
    adapter=define_adapter() if weights else None,
    dtype=flags.DEFINE_enum('dtype', None, trees.DTYPES, 'Of the parameters.'),
    compute_dtype=flags.DEFINE_enum(
      'compute_dtype',
      None,
      trees.DTYPES,
      'Of products. Default: that of the parameters.',
    ),
    precision=flags.DEFINE_enum(
      'precision',
      'default',
      _precision.NAMES,
      "Of float32 products: 'default' is tf32 on a GPU, bfloat16 on a TPU.",
    ),
  )
