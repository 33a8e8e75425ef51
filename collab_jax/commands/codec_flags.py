"""Flags of commands that send pictures: the codec."""

from typing import Any, NamedTuple

from absl import flags

from collab_jax import (
  codecs,
  quantizers,
  wire,
)
from collab_jax.codecs import spec as specs

# The flags belong to the command that calls `define`, and to its --help.
flags.disclaim_key_flags()

_QUANTIZER = "'kmeans', 'kmeans(k=8)', 'random(rebuild=zero)', ..."


class CodecFlags(NamedTuple):
  """Holders of the flags; see `define`."""

  k: Any
  quantizer: Any
  codec: Any
  coding: Any
  split: Any

  @property
  def given(self) -> list[str]:
    """Flags among quantizer and k that were given, not left at a default."""
    named = {'quantizer': self.quantizer, 'k': self.k}
    return [name for name, flag in named.items() if flag.present]

  def choose(self, default: str = '') -> codecs.CodecSpec:
    """Returns the spec of the codec that the flags name.

    Args:
      default: A codec, where neither codec nor quantizer nor k is given.

    Raises:
      ValueError: There is no such codec, or both ways to name it are used.
      ImportError: Its module cannot be imported.
    """
    return codecs.choose(
      self.codec.value or ('' if self.given else default),
      self.quantizer.value,
      self.k.value,
      self.given,
      self.split.value,
      self.coding.value,
    )


def define_k() -> Any:
  """Defines the flag of the number of vectors."""
  return flags.DEFINE_integer(
    'k',
    specs.K,
    'Number of vectors sent, of a quantizer that does not say it.',
    lower_bound=1,
  )


class QuantizerFlags(NamedTuple):
  """Holders of the flags of commands that take quantizers only."""

  k: Any
  quantizer: Any

  def make(self) -> quantizers.Quantizer:
    """Returns the quantizer that the flags name.

    Raises:
      ValueError: There is none of that name, or it has no such settings.
      ImportError: Its module cannot be imported.
    """
    return codecs.make_quantizer(
      self.quantizer.value, self.k.value, self.k.present
    )


def define_quantizer() -> QuantizerFlags:
  """Defines the flags of a quantizer alone."""
  return QuantizerFlags(
    k=define_k(),
    quantizer=flags.DEFINE_string('quantizer', specs.METHOD, _QUANTIZER),
  )


def define() -> CodecFlags:
  """Defines the flags."""
  return CodecFlags(
    k=define_k(),
    quantizer=flags.DEFINE_string('quantizer', specs.METHOD, _QUANTIZER),
    codec=flags.DEFINE_string(
      'codec',
      '',
      "Instead of quantizer and k: 'webp(quality=30,strip=true)', ...",
    ),
    coding=flags.DEFINE_enum(
      'coding', 'best', wire.CODINGS, 'Coding of features.'
    ),
    split=flags.DEFINE_enum(
      'split', 'encoder', codecs.SPLITS, 'Split of the model.'
    ),
  )
