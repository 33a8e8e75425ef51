"""Records of captions, without what they were made of."""

from collections.abc import Mapping, Sequence
from typing import Any

from jax import numpy as jnp
from jaxtyping import Array, Int
import numpy as np

from collab_jax import captioner as captioning
from collab_jax import codecs as codecs_lib
from collab_jax import data as datasets
from collab_jax import sharding
from collab_jax.codecs import base
from collab_jax.codecs.transports import base as transports
from collab_jax.data import pixels


class Recorder:
  """Makes records; `schema` lists their fields."""

  def __init__(
    self,
    captioner: captioning.Captioner,
    data: Any,
    run: str,
    names: tuple[str | None, str | None] | None = None,
  ):
    """Binds what all records have in common.

    Args:
      captioner: The captioner.
      data: The reader.
      run: Fingerprint of the run's settings.
      names: Names of model and data in the records; by default their own.
    """
    self._captioner = captioner
    own = captioner.model.config.name, data.name
    self._model, self._name = names or own
    self._decoding = captioner.describe()['decoding']
    self._data = data
    self._run = run
    self._pixels: dict[int, str] = {}
    self._grey: dict[int, Array] = {}  # Captions of a grey picture, by seed.

  def note_pictures(self, examples: Sequence[datasets.Example]) -> None:
    """Keeps the fingerprints of pictures, of which records may come later."""
    for example in examples:
      self._pixels[example.image_id] = pixels.fingerprint(example.image)

  def record(
    self,
    example: datasets.Example,
    common: Mapping[str, Any],
    caption: str,
    sizes: Mapping[str, int] | None = None,
    distortion: float | None = None,
    unlike: bool = False,
  ) -> dict[str, Any]:
    """Makes the record of one picture.

    Args:
      example: The picture, one of `note_pictures`.
      common: Fields that all records of a codec and seed share.
      caption: The caption.
      sizes: Bytes by field.
      distortion: Mean squared error per number.
      unlike: Whether the picture is unlike those that the model was trained
        on; of a generated scene, which is like them, it is not recorded.
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
      'data': self._name,
      'decoding': self._decoding,
      'run': self._run,
      'pixels': self._pixels[example.image_id],
    }
    if example.file:
      record['file'] = example.file
    if isinstance(self._data, datasets.Scenes):
      record['slots'] = datasets.slots(caption, example.info)
    elif unlike:
      record['unlike'] = True
    return record

  def common(
    self, codec: base.Codec, seed: int, seconds: base.Seconds, images: int
  ) -> dict[str, Any]:
    """Returns what records of a codec, a seed and a batch have in common.

    Args:
      codec: A codec or a link.
      seed: Its seed.
      seconds: Time that the batch took, by stage.
      images: Number of pictures in the batch.
    """
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

  def grey_ids(self, seed: int) -> Int[Array, '1 t']:
    """Dispatches the caption of a grey picture, once for each seed.

    Args:
      seed: Of the captions.

    Returns:
      Its token ids, on the device.
    """
    if seed not in self._grey:
      model = self._captioner.model
      side = model.config.vision.image_size
      grey = jnp.asarray(np.full((1, side, side, 3), 128, np.uint8))
      floats = sharding.rows(codecs_lib.to_float(grey), model.params)
      features = model.encode_image(floats)
      keys = self._captioner.keys(seed, (0,))
      prefix = model.project(features)
      self._grey[seed] = self._captioner.generate(prefix, key=keys)
    return self._grey[seed]


def link(
  stats: transports.DeliveryStats, arrived: bool, rows: float
) -> dict[str, int | float]:
  """Returns the field 'link' of a record.

  Args:
    stats: Statistics of the delivery.
    arrived: Whether the message can be read.
    rows: Share of its vectors that arrived.
  """
  return {
    'packets': stats.packets,
    'lost': stats.lost,
    'whole': int(arrived),
    'rows': round(rows, 6),
    'seconds': float(f'{stats.seconds:.9g}'),
    'airtime': float(f'{stats.airtime:.9g}'),
  }
