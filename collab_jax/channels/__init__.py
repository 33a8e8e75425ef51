"""Channels, which deliver packets and may lose, damage or delay them."""

from typing import Any

from collab_jax import (
  config,
  registry,
)
from collab_jax.channels import analog, theory
from collab_jax.channels.base import Channel, Delivery, Ideal, RateLimited
from collab_jax.channels.damage import BitErrors, Erasure, GilbertElliott
from collab_jax.channels.energy import Budget, Cost
from collab_jax.channels.physical import Physical

__all__ = [
  'NAMES',
  'BitErrors',
  'Budget',
  'Channel',
  'Cost',
  'Delivery',
  'Erasure',
  'GilbertElliott',
  'Ideal',
  'Physical',
  'RateLimited',
  'analog',
  'make',
  'name',
  'theory',
]
__dir__ = __all__.copy

NAMES: dict[str, type] = {
  'ideal': Ideal,
  'rate_limited': RateLimited,
  'bit_errors': BitErrors,
  'erasure': Erasure,
  'gilbert_elliott': GilbertElliott,
  'physical': Physical,
}


def make(text: str, **kw: Any) -> Channel:
  """Makes a channel from plain values, as a config holds them.

  Args:
    text: A key of NAMES or 'package.module:Class', with optional settings:
      'erasure(p=0.4,rate=1e6)'.
    **kw: Further settings.

  Returns:
    The channel.

  Raises:
    ValueError: The text is not of that form, the name or a setting is
      unknown, or a value is out of range.
    ImportError: The module cannot be imported.
  """
  called, settings = config.call(text, 'channel', 'erasure(p=0.4)', kw)
  return registry.make(NAMES, 'channel', called, **settings, **kw)


def name(channel: Channel) -> str:
  """Returns a short name, the same for equal settings: 'erasure(p=0.4)'."""
  return registry.name(NAMES, channel)
