"""Flags of commands that send pictures: the codec."""

from typing import Any, NamedTuple

from absl import flags

from collab_jax import (
  codecs,
  wire,
)
from collab_jax.codecs import spec as specs

# The flags belong to the command that calls `define`, and to its --help.
flags.disclaim_key_flags()


class CodecFlags(NamedTuple):
  """Holders of the flags; see `define`."""

  k: Any
  method: Any
  codec: Any
  coding: Any
  split: Any

  @property
  def given(self) -> list[str]:
    """Flags among method and k that were given, not left at a default."""
    named = {'method': self.method, 'k': self.k}
    return [name for name, flag in named.items() if flag.present]

  def choose(self, default: str = '') -> codecs.CodecSpec:
    """Returns the spec of the codec that the flags name.

    Args:
      default: A codec, where neither codec nor method nor k is given.

    Raises:
      ValueError: There is no such codec, or both ways to name it are used.
      ImportError: Its module cannot be imported.
    """
    return codecs.choose(
      self.codec.value or ('' if self.given else default),
      self.method.value,
      self.k.value,
      self.given,
      self.split.value,
      self.coding.value,
    )


def define() -> CodecFlags:
  """Defines the flags."""
  return CodecFlags(
    k=flags.DEFINE_integer(
      'k', specs.K, 'Number of vectors sent.', lower_bound=1
    ),
    method=flags.DEFINE_string(
      'method', specs.METHOD, "Quantizer: 'kmeans', 'random(rebuild=zero)', ..."
    ),
    codec=flags.DEFINE_string(
      'codec', '', "Instead of method and k: 'webp(quality=30,strip=true)', ..."
    ),
    coding=flags.DEFINE_enum(
      'coding', 'best', wire.CODINGS, 'Coding of features.'
    ),
    split=flags.DEFINE_enum(
      'split', 'encoder', codecs.SPLITS, 'Split of the model.'
    ),
  )
