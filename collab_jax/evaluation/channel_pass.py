"""Batches over links: what arrives, its captions, and what it cost."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
import numpy as np

from collab_jax import captioner as captioning
from collab_jax import channels as channels_lib
from collab_jax import codecs as codecs_lib
from collab_jax.evaluation import batches


class Outcome(NamedTuple):
  """Of one picture.

  Attributes:
    caption: Of what arrived; of a grey picture if that was nothing.
    sizes: Bytes sent by field, headers and redundancy included.
    total: Their sum.
    distortion: Mean squared error per number; None where nothing arrived or
      the grid is not rebuilt.
    link: {'packets', 'lost' (of them), 'whole' (1 if the message arrived),
      'rows' (the part of its vectors that did), 'seconds', 'airtime'}.
  """

  caption: str
  sizes: dict[str, int]
  total: int
  distortion: float | None
  link: dict[str, float | int]


def wrap(
  codecs: Sequence[Any],
  channel: str | channels_lib.Channel | None,
  transport: Any = 'whole',
) -> list[Any]:
  """Puts codecs behind a channel, except for those that are already.

  Args:
    codecs: Codecs and links.
    channel: The channel; None leaves all as they are.
    transport: How messages cross it; see `codecs.Link`.

  Returns:
    Links.
  """
  if channel is None:
    return list(codecs)
  return [
    codec
    if isinstance(codec, codecs_lib.Link)
    else codecs_lib.Link(codec, channel, transport)
    for codec in codecs
  ]


def takes_features(codec: Any) -> bool:
  """Whether a codec, or the one behind a link, sends image features."""
  inner = codec.codec if isinstance(codec, codecs_lib.Link) else codec
  return isinstance(inner, codecs_lib.FeatureCodec)


def takes_pictures(codec: Any) -> bool:
  """Whether a codec, or the one behind a link, sends picture files."""
  inner = codec.codec if isinstance(codec, codecs_lib.Link) else codec
  return isinstance(inner, codecs_lib.ImageCodec)


class Crossing:
  """Sends batches over links.

  A message that is lost, or that cannot be read, leaves the server with what
  it would say of a grey picture: it has seen nothing.
  """

  def __init__(self, captioner: captioning.Captioner):
    """Binds what writes the captions."""
    self._captioner = captioner
    self._blank: dict[int, str] = {}

  def __call__(
    self,
    link: codecs_lib.Link,
    seed: int,
    batch: batches.Batch,
    features: Any,
    clock: batches.Clock,
  ) -> list[Outcome]:
    """Sends a batch and captions what arrives.

    Args:
      link: The codec and its channel.
      seed: Of the quantizer, the channel and the captions.
      batch: The pictures.
      features: Theirs; None for a codec of pictures.
      clock: Takes the time of each stage.

    Returns:
      One outcome per picture, without the padding.
    """
    key = jax.random.key(seed)
    if features is None:
      with clock('encode'):
        made = link.codec.encode(batch.images, key, batch.padded_ids)
    else:
      features, extra = batches.observe(link.codec, batch, features, clock)
      with clock('quantize'):
        made = link.codec.quantize(features, key, batch.padded_ids, extra)
    with clock('pack'):
      parcels = link.pack(made)[: len(batch.ids)]
    crossed = [
      link.transmit(parcel, seed, i)
      for parcel, i in zip(parcels, batch.ids, strict=True)
    ]
    arrived = [parcel for parcel, _ in crossed]
    arrived += arrived[-1:] * (len(batch.padded_ids) - len(batch.ids))
    with clock('decode'):
      got = jax.block_until_ready(link.rebuild(arrived))
    captions = [''] * len(arrived)
    if got.prefix is not None:
      with clock('caption'):
        keys = self._captioner.keys(seed, batch.padded_ids)
        captions = self._captioner(got.prefix, key=keys)
    distortion: list[Any] = [None] * len(arrived)
    rebuilt, shape = got.tokens and got.tokens.x, getattr(features, 'shape', ())
    if rebuilt is not None and rebuilt.shape == shape:
      values = batches.distortion(rebuilt, features)
      # Further digits are rounding's.
      distortion = [float(f'{v:.6g}') for v in jax.device_get(values).tolist()]
    sizes = [link.sizes(parcel) for parcel in parcels]
    return [
      Outcome(
        captions[i] if got.whole[i] else self._lost(seed),
        sizes[i],
        sum(sizes[i].values()),
        distortion[i] if got.whole[i] else None,
        {
          'packets': fate.packets,
          'lost': fate.lost,
          'whole': int(got.whole[i]),
          'rows': round(got.rows[i], 6),
          'seconds': float(f'{fate.seconds:.9g}'),
          'airtime': float(f'{fate.airtime:.9g}'),
        },
      )
      for i, (_, fate) in enumerate(crossed)
    ]

  def _lost(self, seed: int) -> str:
    if seed not in self._blank:
      model = self._captioner.model
      side = model.config.vision.image_size
      grey = jnp.asarray(np.full((1, side, side, 3), 128, np.uint8))
      features = model.encode_image(codecs_lib.to_float(grey))
      keys = self._captioner.keys(seed, (0,))
      prefix = model.project(features)
      self._blank[seed] = self._captioner(prefix, key=keys)[0]
    return self._blank[seed]
