"""Messages in packets: as a whole, or vector by vector."""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from collab_jax import _validate, channels, wire
from collab_jax.codecs.transports import base as base_lib
from collab_jax.wire import erasure
from collab_jax.wire import packets as packing


@dataclasses.dataclass(frozen=True)
class Whole:
  """All bytes of a message are needed.

  In packets, any as many as the message alone would fill give it back; the
  others are parity. A packet is its number, a checksum (see `wire.packets`),
  the number of packets that are needed, and its piece of the message.

  Attributes:
    mtu: Largest packet in bytes, header included; 0 sends a message as it is,
      as one packet without a header.
    loss: Share of lost packets for which parity is added, such that...
    failure: ...at most this share of the messages is lost; 0 adds none.
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

  def bind(self, codec: Any, channel: channels.Channel) -> base_lib.Packetizer:
    """Returns a carrier; every codec and channel will do.

    Raises:
      ValueError: The codec's messages have one length, or a picture of noise
        has one, that makes too many packets.
    """
    session = getattr(codec, 'session', None)
    if self.mtu and session is not None and session.length:
      _count(self, session.length)
    if self.mtu and session is None and hasattr(codec, 'largest'):
      _count(self, codec.largest, f' of {codec.name} (a picture of noise)')
    return _WholeCarrier(self, codec, channel)


@dataclasses.dataclass(frozen=True)
class Filled(Whole):
  """What is missing of a message is zeros.

  For picture files, whose decoders show something of what is damaged. The
  first piece must arrive, and so must as many as are needed of a message with
  parity, else it is lost or patched as one without.
  """

  def __post_init__(self):
    super().__post_init__()
    if not self.mtu:
      raise ValueError('mtu: got 0, expected a size: what is whole has no gaps')


_LENGTH = 3  # Bytes in which a message's length is written before it.
_WHOLE_HEADER = packing.HEADER + 1


class _WholeCarrier(base_lib.Packetizer):
  """Messages as bytes, cut into packets."""

  def __init__(self, settings: Whole, codec: Any, channel: channels.Channel):
    super().__init__(channel)
    self._settings = settings
    self._codec = codec

  def pack(self, batch: Any) -> list[base_lib.Packets]:
    data = batch if isinstance(batch, list) else self._codec.pack(batch)
    cut = self._cut if self._settings.mtu else lambda message: [message]
    return [base_lib.Packets(cut(m), sizes=self._codec.sizes(m)) for m in data]

  def unpack(self, parcels: Sequence[base_lib.Packets]) -> list[bytes | None]:
    """The message of each; None where pieces are missing."""
    if not self._settings.mtu:
      return [parcel.packets[0] for parcel in parcels]
    patch = isinstance(self._settings, Filled)
    return [_join(parcel.packets, patch) for parcel in parcels]

  def _cut(self, data: bytes) -> list[bytes | None]:
    whole = len(data).to_bytes(_LENGTH, 'big') + data
    pieces, count = _count(self._settings, len(data))
    size = math.ceil(len(whole) / pieces)
    padded = np.frombuffer(whole.ljust(pieces * size, b'\0'), np.uint8)
    blocks = erasure.encode(padded.reshape(pieces, size), count)
    head = bytes([pieces])
    return [packing.seal(n, head + b.tobytes()) for n, b in enumerate(blocks)]


def _count(settings: Whole, length: int, of: str = '') -> tuple[int, int]:
  """Packets that are needed, and sent, of a message of so many bytes."""
  pieces = math.ceil((_LENGTH + length) / (settings.mtu - _WHOLE_HEADER))
  count, (loss, failure) = pieces, (settings.loss, settings.failure)
  while count < packing.MOST and erasure.needed(count, loss, failure) < pieces:
    count += 1
  if count >= packing.MOST:
    raise ValueError(
      f'mtu: {length} bytes{of} in packets of {settings.mtu}, loss={loss:g}'
      f' make {count} or more, expected at most {packing.MOST - 1}; choose a'
      ' larger mtu, or less loss'
    )
  return pieces, count


def _join(packets: Sequence[bytes | None], patch: bool) -> bytes | None:
  opened = (packing.unseal(p) for p in packets if p is not None)
  found = {o[0]: o[1] for o in opened if o and len(o[1]) > 1}
  kinds = {(body[0], len(body)) for body in found.values()}
  if len(kinds) != 1:  # None at all, or of several messages.
    return None
  ((pieces, _),) = kinds
  places = sorted(found)
  bodies = b''.join(found[p][1:] for p in places)
  blocks = np.frombuffer(bodies, np.uint8).reshape(len(places), -1)
  if 1 <= pieces <= len(places):
    whole = erasure.decode(blocks, places, pieces).tobytes()
  elif patch and not places[0]:
    table = np.zeros((pieces, blocks.shape[1]), np.uint8)
    own = [p for p in places if p < pieces]
    table[own] = blocks[: len(own)]
    whole = table.tobytes()
  else:
    return None
  length = int.from_bytes(whole[:_LENGTH], 'big')
  data = whole[_LENGTH : _LENGTH + length]
  return data if len(data) == length else None


@dataclasses.dataclass(frozen=True)
class Rows:
  """Vectors in packets of their own, what places them in all packets.

  See `wire.PacketFormat`, whose arguments these are.

  Attributes:
    per_packet: Vectors in a packet.
    parity: Further packets, from which lost vectors come back.
    loss: Share of lost packets that indices must survive.
    failure: Share of the messages that may be lost then.
    layers: So many layers of a progressive message are in all packets as
      well: a lost vector is coarse then, and not replaced by another.
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

  def bind(self, codec: Any, channel: channels.Channel) -> base_lib.Packetizer:
    """Returns a carrier of a `FeatureCodec`'s messages.

    Raises:
      ValueError: The codec has no vectors, none in layers above, or they make
        too many packets, or too few for `failure`.
    """
    base_lib.check_features('rows', codec)
    rows = [n for n in codec.rows if codec.fields[n].layer >= self.layers]
    if not rows:
      raise ValueError(
        f'layers: got {self.layers}, but {codec.name} has no vectors in layers'
        ' above; choose fewer'
      )
    layout = wire.PacketFormat(
      codec.fields,
      rows,
      self.per_packet,
      self.parity,
      self.loss,
      self.failure,
      optional=self.layers > 0,
    )
    return _RowCarrier(layout, self.layers, channel)


class _RowCarrier(base_lib.Packetizer):
  def __init__(
    self, layout: wire.PacketFormat, layers: int, channel: channels.Channel
  ):
    super().__init__(channel)
    self._layout = layout
    self._layers = layers

  def pack(self, batch: Any) -> list[base_lib.Packets]:
    sizes = self._layout.sizes()
    return [
      base_lib.Packets(list(p), sizes=sizes) for p in self._layout.pack(batch)
    ]

  def unpack(self, parcels: Sequence[base_lib.Packets]) -> wire.Received:
    got = self._layout.unpack([parcel.packets for parcel in parcels])
    return got._replace(layers=self._layers)


def _check_shares(loss: Any, failure: Any) -> None:
  for name, value in (('loss', loss), ('failure', failure)):
    _validate.number(name, value, 0.0, 1.0)
    if value == 1:
      raise ValueError(f'{name}: got {value!r}, expected below 1: all is lost')
  if not failure:
    raise ValueError('failure: got 0, expected above 0: nothing is certain')
