"""The way of a picture through a codec to its record."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from collab_jax import captioner as captioning
from collab_jax import codecs as codecs_lib
from collab_jax import data as datasets
from collab_jax.codecs import base
from collab_jax.evaluation import batches


@jax.jit
def mean_squared_error(
  rebuilt: Float[Array, 'B N D'], features: Float[Array, 'B N D']
) -> Float[Array, ' B']:
  """Returns the mean squared error per number, one per image."""
  return jnp.mean(jnp.square(rebuilt - features), axis=(1, 2))


class Recorder:
  """Sends pictures through codecs and makes their records.

  A message that is lost or unreadable gets the caption of a grey picture: the
  server has seen nothing. `schema` lists the fields of a record.
  """

  def __init__(self, captioner: captioning.Captioner, data: Any):
    """Binds what all records have in common."""
    self._captioner = captioner
    self._model = captioner.model.config.name
    self._decoding = captioner.describe()['decoding']
    self._data = data
    self._grey: dict[int, str] = {}  # Captions of a grey picture, by seed.

  def records(
    self,
    codec: base.Codec,
    seed: int,
    batch: batches.Batch,
    cache: base.FeatureCache,
  ) -> list[dict[str, Any]]:
    """Encodes, sends, decodes and captions a batch.

    Args:
      codec: A codec or a link.
      seed: Of the quantizer, the channel and the captions.
      batch: The pictures.
      cache: Their features, shared with other codecs.

    Returns:
      One record per picture, without the padding.
    """
    count, key = len(batch.ids), jax.random.key(seed)
    encoded = codec.encode_batch(batch.images, key, batch.padded_ids, cache)
    sent = encoded.messages[:count]
    deliveries = [
      codec.transmit(message, seed, image_id)
      for message, image_id in zip(sent, batch.ids, strict=True)
    ]
    received = [message for message, _ in deliveries]
    received += received[-1:] * (len(batch.images) - count)
    seconds = encoded.seconds
    with base.timed(seconds, 'decode'):
      decoded = jax.block_until_ready(codec.decode_batch(received))
    captions = [''] * count
    if decoded.prefix is not None:
      with base.timed(seconds, 'caption'):
        keys = self._captioner.keys(seed, batch.padded_ids)
        captions = self._captioner(decoded.prefix, key=keys)
    distortions = _distortions(encoded, decoded)
    arrived = decoded.arrived or [True] * count
    common = self._common(codec, seed, seconds, len(batch.images))
    records = []
    for i, message in enumerate(sent):
      record = self.record(
        batch.examples[i],
        common,
        captions[i] if arrived[i] else self._lost(seed),
        codec.sizes(message),
        distortions[i] if arrived[i] else None,
      )
      if (stats := deliveries[i][1]) is not None:
        record['link'] = {
          'packets': stats.packets,
          'lost': stats.lost,
          'whole': int(arrived[i]),
          'rows': round(decoded.rows[i] if decoded.rows else 1.0, 6),
          'seconds': float(f'{stats.seconds:.9g}'),
          'airtime': float(f'{stats.airtime:.9g}'),
        }
      records.append(record)
    return records

  def record(
    self,
    example: datasets.Example,
    common: Mapping[str, Any],
    caption: str,
    sizes: Mapping[str, int] | None = None,
    distortion: float | None = None,
  ) -> dict[str, Any]:
    """Makes the record of one picture.

    Args:
      example: The picture.
      common: Fields that all records of a codec and seed share.
      caption: The caption.
      sizes: Bytes by field.
      distortion: Mean squared error per number.
    """
    sizes = sizes or {}
    record = {
      'image_id': example.image_id,
      **common,
      'caption': caption,
      'references': list(example.captions),
      'bytes': sizes,
      'total_bytes': sum(sizes.values()),
      'distortion': distortion,
      'model': self._model,
      'data': self._data.name,
      'decoding': self._decoding,
    }
    if isinstance(self._data, datasets.Scenes):
      record['slots'] = datasets.slots(caption, example.info)
    return record

  def _common(self, codec, seed, seconds, images) -> dict[str, Any]:
    """Returns what records of a codec, a seed and a batch have in common."""
    if codec.channel is None and 'pack' in seconds:  # One stage in records.
      seconds['quantize'] += seconds.pop('pack')
    return {
      'codec': codec.describe(),
      'settings': codec.settings,
      'name': codec.name,
      'seed': seed,
      'sent': codec.sent,
      'vectors': codec.vectors,
      'ratio': codec.sent / codec.vectors,
      'seconds': {n: round(s / images, 6) for n, s in seconds.items()},
    }

  def _lost(self, seed: int) -> str:
    if seed not in self._grey:
      model = self._captioner.model
      side = model.config.vision.image_size
      grey = jnp.asarray(np.full((1, side, side, 3), 128, np.uint8))
      features = model.encode_image(codecs_lib.to_float(grey))
      keys = self._captioner.keys(seed, (0,))
      prefix = model.project(features)
      self._grey[seed] = self._captioner(prefix, key=keys)[0]
    return self._grey[seed]


def _distortions(
  encoded: base.Encoded, decoded: base.Decoded
) -> Sequence[float | None]:
  """Returns the error of each image; None where the grid is not rebuilt."""
  features, tokens = encoded.features, decoded.tokens
  if features is None or tokens is None or tokens.x.shape != features.shape:
    return [None] * len(encoded.messages)
  errors = jax.device_get(mean_squared_error(tokens.x, features)).tolist()
  return [float(f'{error:.6g}') for error in errors]  # Rounding noise follows.
