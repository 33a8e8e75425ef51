"""Transports: how a codec's messages are cut into packets, by name."""

from collab_jax import (
  channels,
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
  """Returns a short name, equal for equal settings only."""
  return registry.name(NAMES, transport)


def check(
  transport: base.Transport,
  layout: base.MessageLayout,
  channel: channels.Channel,
) -> None:
  """Checks that messages of a layout can cross a channel.

  Args:
    transport: The transport; one that is not of this package may ask a codec
      for more, and is left to `Link`.
    layout: The codec's messages.
    channel: The channel.

  Raises:
    ValueError: The transport is not for this codec or channel.
  """
  if isinstance(transport, packetized.Whole | packetized.Rows | analog.Analog):
    transport.check(layout, channel)
