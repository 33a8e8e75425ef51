"""Vectors as radio symbols, the rest of a message as bytes."""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any, cast

import ml_dtypes
import numpy as np

from collab_jax import channels, wire
from collab_jax import message as messages
from collab_jax.codecs.transports import base
from collab_jax.wire import raw
from collab_jax.wire.coding import fixed


@dataclasses.dataclass(frozen=True)
class Analog:
  """Real numbers as the parts of radio symbols; the other fields as bytes.

  The symbols and the scales of the vectors (two bytes each) go digitally
  through the same link, and must arrive; the numbers are never lost, but get
  noisy. See `channels.analog`. Bytes do not count what is not made of bytes:
  compare by time on the air.
  """

  def check(
    self, layout: base.MessageLayout, channel: channels.Channel
  ) -> None:
    """Raises ValueError unless vectors are sent over a radio link."""
    base.check_vectors('analog', layout)
    if not isinstance(channel, channels.Physical):
      raise ValueError(
        'analog: symbols need a radio link, got'
        f' {channels.name(channel)!r}, expected for instance'
        " 'physical(snr=5)'"
      )

  def bind(self, codec: Any, channel: channels.Channel) -> base.Packetizer:
    """Returns a packetizer of a `FeatureCodec`'s messages, over `Physical`."""
    self.check(codec.layout, channel)
    return _AnalogPacketizer(codec.layout, cast(channels.Physical, channel))


class _AnalogPacketizer(base.Packetizer):
  def __init__(self, layout: base.MessageLayout, channel: channels.Physical):
    super().__init__(channel)
    self._link = channel
    self._fields = fields = layout.fields
    self._sent = layout.sent
    self._values = {
      n: f for n, f in fields.items() if isinstance(f, messages.Values)
    }
    self._digital = {n: f for n, f in fields.items() if n not in self._values}
    for name, field in self._values.items():
      scale = messages.Values('float16', (_matrix(field.shape)[0], 1))
      self._digital[f'{name}/scale'] = scale
    self._sizes = fixed.sizes(self._digital)

  def pack(self, batch: Any) -> list[base.Packets]:
    values = {n: np.asarray(batch[n], np.float32) for n in self._values}
    digital = {n: batch[n] for n in self._digital if n in batch}
    for name, array in values.items():
      flat = array.reshape(-1, _matrix(array.shape[1:])[1])
      scale = channels.analog.scale(flat).astype('float16')
      digital[f'{name}/scale'] = scale.reshape(len(array), -1, 1)
    return [
      base.Packets([data], {n: a[i] for n, a in values.items()}, self._sizes)
      for i, data in enumerate(raw.pack_batch(digital, self._digital))
    ]

  def transmit(
    self, packets: base.Packets, rng: np.random.Generator
  ) -> tuple[base.Packets, base.DeliveryStats]:
    received, stats = super().transmit(packets, rng)
    values, airtime = {}, 0.0
    for name, array in packets.values.items():
      flat = array.reshape(_matrix(array.shape))
      noisy, seconds = channels.analog.transmit(flat, self._link, rng)
      values[name] = noisy.reshape(array.shape)
      airtime += seconds
    stats = stats._replace(
      seconds=stats.seconds + airtime, airtime=stats.airtime + airtime
    )
    return base.Packets(received.packets, values), stats

  def unpack(self, received: Sequence[base.Packets]) -> wire.Received:
    data, whole = [], np.zeros(len(received), bool)
    for n, packets in enumerate(received):
      message = packets.packets[0]
      try:
        raw.unpack_batch([message or b''], self._digital)
        whole[n] = True
      except wire.FormatError:
        message = bytes(sum(self._sizes.values()))
      data.append(message)
    message = raw.unpack_batch(data, self._digital)
    for name, field in self._values.items():
      array = np.stack([packets.values[name] for packets in received])
      top = float(ml_dtypes.finfo(field.dtype).max)
      message[name] = np.clip(array, -top, top).astype(field.dtype)
    rows = np.repeat(whole[:, None], self._sent, axis=1)
    kept = {n: message[n] for n in self._fields}
    return wire.Received(kept, rows, whole)


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
  """Returns rows and width of an array with the vectors' axis in front."""
  return shape[0], math.prod(shape[1:])
