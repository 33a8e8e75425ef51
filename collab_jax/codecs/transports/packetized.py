"""Transports that cut messages into packets: whole, or vector by vector."""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from collab_jax import _validate, channels, wire
from collab_jax.codecs.transports import base
from collab_jax.wire import erasure
from collab_jax.wire import packets as packing


@dataclasses.dataclass(frozen=True)
class Whole:
  """Messages of which every byte is needed, with parity packets if wanted.

  Any P packets restore a message that fills P packets; the others are parity.
  A packet is its number, a checksum (see `wire.packets`), P, and its piece of
  the message.

  Attributes:
    mtu: Largest packet in bytes, header included; 0 sends a message as it is,
      as one packet without a header.
    loss: Share of lost packets for which parity is added; 0 adds none.
    failure: Largest share of messages that may be lost at that loss.
  """

  mtu: int = 0
  loss: float | int = 0.0
  failure: float | int = 1e-3

  def __post_init__(self):
    _validate.integer('mtu', self.mtu, 0)
    if self.mtu and self.mtu <= _WHOLE_HEADER:
      raise ValueError(
        f'mtu: got {self.mtu!r}, expected 0, or more than the'
        f' {_WHOLE_HEADER} bytes of a header'
      )
    if self.loss and not self.mtu:
      raise ValueError('mtu: got 0, expected a size: parity needs packets')
    _check_shares(self.loss, self.failure)

  def check(
    self, layout: base.MessageLayout, channel: channels.Channel
  ) -> None:
    """Checks the number of packets; every codec and channel will do.

    Raises:
      ValueError: The codec's messages have one length, or a picture of noise
        has one, that makes too many packets.
    """
    del channel
    if self.mtu and layout.length:
      _count(self, layout.length)
    elif self.mtu and layout.largest:
      _count(self, layout.largest, f' of {layout.name} (a picture of noise)')

  def bind(self, codec: Any, channel: channels.Channel) -> base.Packetizer:
    """Returns a packetizer; see `check`."""
    if self.mtu:
      self.check(codec.layout, channel)
    return _WholePacketizer(self, codec, channel)


@dataclasses.dataclass(frozen=True)
class Filled(Whole):
  """Messages whose missing pieces are filled with zeros.

  For picture files, whose decoders show something of what is damaged. The
  first piece must arrive. Parity restores a message if enough packets arrive,
  else its gaps are filled as those of one without.
  """

  def __post_init__(self):
    super().__post_init__()
    if not self.mtu:
      raise ValueError('mtu: got 0, expected a size: what is whole has no gaps')


_LENGTH = 3  # Bytes in which a message's length is written before it.
_WHOLE_HEADER = packing.HEADER + 1


class _WholePacketizer(base.Packetizer):
  """Cuts messages, as bytes, into packets."""

  def __init__(self, settings: Whole, codec: Any, channel: channels.Channel):
    super().__init__(channel)
    self._settings = settings
    self._codec = codec

  def pack(self, batch: Any) -> list[base.Packets]:
    data = self._codec.pack(batch)
    cut = self._cut if self._settings.mtu else lambda message: [message]
    return [base.Packets(cut(m), sizes=self._codec.sizes(m)) for m in data]

  def unpack(self, received: Sequence[base.Packets]) -> list[bytes | None]:
    """Returns the message of each; None where pieces are missing."""
    if not self._settings.mtu:
      return [packets.packets[0] for packets in received]
    fill = isinstance(self._settings, Filled)
    return [_join(packets.packets, fill) for packets in received]

  def _cut(self, data: bytes) -> list[bytes | None]:
    whole = len(data).to_bytes(_LENGTH, 'big') + data
    pieces, count = _count(self._settings, len(data))
    size = math.ceil(len(whole) / pieces)
    padded = np.frombuffer(whole.ljust(pieces * size, b'\0'), np.uint8)
    blocks = erasure.encode(padded.reshape(pieces, size), count)
    head = bytes([pieces])
    return [packing.seal(n, head + b.tobytes()) for n, b in enumerate(blocks)]


def _count(settings: Whole, length: int, of: str = '') -> tuple[int, int]:
  """Returns how many packets of a message are needed, and sent.

  Args:
    settings: The transport.
    length: Bytes of the message.
    of: Whose message it is, for the error.
  """
  pieces = math.ceil((_LENGTH + length) / (settings.mtu - _WHOLE_HEADER))
  count, (loss, failure) = pieces, (settings.loss, settings.failure)
  while (
    count < packing.MAX_PACKETS
    and erasure.needed(count, loss, failure) < pieces
  ):
    count += 1
  if count >= packing.MAX_PACKETS:
    raise ValueError(
      f'mtu: {length} bytes{of} in packets of {settings.mtu}, loss={loss:g}'
      f' make {count} or more, expected at most {packing.MAX_PACKETS - 1};'
      ' choose a larger mtu, or less loss'
    )
  return pieces, count


def _join(packets: Sequence[bytes | None], fill: bool) -> bytes | None:
  """Returns the message of received packets, its gaps filled with zeros."""
  opened = (packing.unseal(p) for p in packets if p is not None)
  bodies = {o[0]: o[1] for o in opened if o and len(o[1]) > 1}
  kinds = {(body[0], len(body)) for body in bodies.values()}
  if len(kinds) != 1:  # No packet at all, or packets of several messages.
    return None
  ((pieces, _),) = kinds
  numbers = sorted(bodies)
  joined = b''.join(bodies[n][1:] for n in numbers)
  blocks = np.frombuffer(joined, np.uint8).reshape(len(numbers), -1)
  if 1 <= pieces <= len(numbers):
    whole = erasure.decode(blocks, numbers, pieces).tobytes()
  elif fill and not numbers[0]:
    table = np.zeros((pieces, blocks.shape[1]), np.uint8)
    systematic = [n for n in numbers if n < pieces]
    table[systematic] = blocks[: len(systematic)]
    whole = table.tobytes()
  else:
    return None
  length = int.from_bytes(whole[:_LENGTH], 'big')
  data = whole[_LENGTH : _LENGTH + length]
  return data if len(data) == length else None


@dataclasses.dataclass(frozen=True)
class Rows:
  """Vectors in packets of their own; every packet has the other fields.

  See `wire.PacketFormat`, whose arguments these are.

  Attributes:
    per_packet: Vectors in a packet.
    parity: Further packets, from which lost vectors come back.
    loss: Share of lost packets that indices must survive.
    failure: Share of the messages that may be lost then.
    layers: Number of layers of a progressive message that are in all packets
      too: a lost vector is coarse then, and not replaced by another.
  """

  per_packet: int = 1
  parity: int = 0
  layers: int = 0
  loss: float | int = 0.4
  failure: float | int = 1e-3

  def __post_init__(self):
    for name, least in (('per_packet', 1), ('parity', 0), ('layers', 0)):
      _validate.integer(name, getattr(self, name), least)
    _check_shares(self.loss, self.failure)

  def check(
    self, layout: base.MessageLayout, channel: channels.Channel
  ) -> None:
    """Checks that the messages of a layout can be cut into rows.

    Raises:
      ValueError: The codec has no vectors, none in layers above, or they make
        too many packets, or too few for `failure`.
    """
    del channel
    self._format(layout)

  def bind(self, codec: Any, channel: channels.Channel) -> base.Packetizer:
    """Returns a packetizer of a `FeatureCodec`'s messages; see `check`."""
    return _RowPacketizer(self._format(codec.layout), self.layers, channel)

  def _format(self, layout: base.MessageLayout) -> wire.PacketFormat:
    base.check_vectors('rows', layout)
    fields = layout.fields
    rows = [n for n in layout.rows if fields[n].layer >= self.layers]
    if not rows:
      raise ValueError(
        f'layers: got {self.layers}, but {layout.name} has no vectors in'
        ' layers above; choose fewer'
      )
    return wire.PacketFormat(
      fields,
      rows,
      self.per_packet,
      self.parity,
      self.loss,
      self.failure,
      optional=self.layers > 0,
    )


class _RowPacketizer(base.Packetizer):
  def __init__(
    self, format: wire.PacketFormat, layers: int, channel: channels.Channel
  ):
    super().__init__(channel)
    self.format = format
    self._layers = layers

  def pack(self, batch: Any) -> list[base.Packets]:
    sizes = self.format.sizes()
    return [base.Packets(list(p), sizes=sizes) for p in self.format.pack(batch)]

  def unpack(self, received: Sequence[base.Packets]) -> wire.Received:
    got = self.format.unpack([packets.packets for packets in received])
    return got._replace(layers=self._layers)


def _check_shares(loss: Any, failure: Any) -> None:
  for name, value in (('loss', loss), ('failure', failure)):
    _validate.number(name, value, 0.0, 1.0)
    if value == 1:
      raise ValueError(f'{name}: got {value!r}, expected below 1: all is lost')
  if not failure:
    raise ValueError('failure: got 0, expected above 0: nothing is certain')
