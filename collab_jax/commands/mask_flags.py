"""Flag of the weights that decode masks, the same in every command."""

from typing import Any, NamedTuple

from absl import flags

from collab_jax.models import mask_decoder

# The flag belongs to the command that calls `define`, and to its --help.
flags.disclaim_key_flags()


class MaskFlags(NamedTuple):
  """Holder of the flag; see `define`."""

  weights: Any

  def load(self) -> mask_decoder.Params | None:
    """Loads the decoder of masks; None without the flag.

    Raises:
      FileNotFoundError: There is no such file.
      ValueError: It holds something else.
    """
    if not self.weights.value:
      return None
    return mask_decoder.load(self.weights.value)


def define() -> MaskFlags:
  """Defines the flag."""
  return MaskFlags(
    weights=flags.DEFINE_string(
      'mask_weights',
      '',
      'Weights of the decoder of masks, vae-oid.npz; without them boxes alone.',
    )
  )
