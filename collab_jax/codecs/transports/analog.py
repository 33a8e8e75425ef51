"""Vectors as radio symbols, the rest of a message as bytes."""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

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

  def bind(self, codec: Any, channel: channels.Channel) -> base.Packetizer:
    """Returns a carrier of a `FeatureCodec`'s messages, over `Physical`."""
    base.check_features('analog', codec)
    if not isinstance(channel, channels.Physical):
      raise ValueError(
        'analog: symbols need a radio link, got'
        f' {channels.name(channel)!r}, expected for instance'
        " 'physical(snr=5)'"
      )
    return _AnalogCarrier(codec, channel)


class _AnalogCarrier(base.Packetizer):
  def __init__(self, codec: Any, channel: channels.Physical):
    super().__init__(channel)
    self._link = channel
    fields = codec.fields
    self._fields = fields
    self._sent = codec.sent
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
    self, parcel: base.Packets, rng: np.random.Generator
  ) -> tuple[base.Packets, base.DeliveryStats]:
    got, fate = super().transmit(parcel, rng)
    arrived, spent = {}, 0.0
    for name, array in parcel.values.items():
      flat = array.reshape(_matrix(array.shape))
      noisy, seconds = channels.analog.transmit(flat, self._link, rng)
      arrived[name] = noisy.reshape(array.shape)
      spent += seconds
    fate = fate._replace(
      seconds=fate.seconds + spent, airtime=fate.airtime + spent
    )
    return base.Packets(got.packets, arrived), fate

  def unpack(self, parcels: Sequence[base.Packets]) -> wire.Received:
    data, whole = [], np.zeros(len(parcels), bool)
    for n, parcel in enumerate(parcels):
      message = parcel.packets[0]
      try:
        raw.unpack_batch([message or b''], self._digital)
        whole[n] = True
      except wire.FormatError:
        message = bytes(sum(self._sizes.values()))
      data.append(message)
    message = raw.unpack_batch(data, self._digital)
    for name, field in self._values.items():
      array = np.stack([parcel.values[name] for parcel in parcels])
      top = float(ml_dtypes.finfo(field.dtype).max)
      message[name] = np.clip(array, -top, top).astype(field.dtype)
    rows = np.repeat(whole[:, None], self._sent, axis=1)
    kept = {n: message[n] for n in self._fields}
    return wire.Received(kept, rows, whole)


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
  """Rows and width of an array, whose first axis is that of the vectors."""
  return shape[0], math.prod(shape[1:])
