"""How a codec's messages meet a channel, by name."""

from collab_jax import (
  config,
  registry,
)
from collab_jax.codecs.transports import (
  analog,
  base,
  packetized,
)

NAMES: dict[str, type] = {
  'whole': packetized.Whole,
  'filled': packetized.Filled,
  'rows': packetized.Rows,
  'analog': analog.Analog,
}


def make(text: str) -> base.Transport:
  """Makes a transport from text: 'whole(mtu=100)', 'rows(per_packet=2)'.

  Args:
    text: A key of NAMES or 'package.module:Class', with settings if any.

  Raises:
    ValueError: It is not of that form, the name or a setting is unknown, or a
      value is out of range.
    ImportError: The module cannot be imported.
  """
  called, settings = config.call(text, 'transport', 'rows(per_packet=2)')
  return registry.make(NAMES, 'transport', called, **settings)


def name(transport: base.Transport) -> str:
  """A short name, equal for equal settings only."""
  return registry.name(NAMES, transport)
