"""What happened to a picture, as a record."""

from collections.abc import Mapping
from typing import Any

from collab_jax import captioner as captioning
from collab_jax import data as datasets
from collab_jax.evaluation import batches


class Recorder:
  """Makes the records of one evaluation; `schema` says what they hold."""

  def __init__(self, captioner: captioning.Captioner, data: Any):
    """Binds what all records have in common."""
    self._model = captioner.model.config.name
    self._decoding = captioner.describe()['decoding']
    self._data = data

  def common(
    self, codec: Any, seed: int, clock: batches.Clock
  ) -> dict[str, Any]:
    """What the records of a codec, a seed and a batch have in common."""
    return {
      'codec': codec.describe(),
      'name': codec.name,
      'seed': seed,
      'sent': codec.sent,
      'vectors': codec.vectors,
      'ratio': codec.sent / codec.vectors,
      'seconds': clock.seconds,
    }

  def record(
    self,
    example: datasets.Example,
    common: Mapping[str, Any],
    caption: str,
    sizes: Mapping[str, int] | None = None,
    total: int = 0,
    distortion: float | None = None,
    link: Mapping[str, float | int] | None = None,
  ) -> dict[str, Any]:
    """The record of one picture.

    Args:
      example: The picture.
      common: From `common`, or the like for a baseline.
      caption: What was said of it.
      sizes: Bytes by field.
      total: Bytes in all.
      distortion: Mean squared error per number.
      link: What happened on the link, if there was one.

    Returns:
      The record.
    """
    record = {
      'image_id': example.image_id,
      **common,
      'caption': caption,
      'references': list(example.captions),
      'bytes': sizes or {},
      'total_bytes': total,
      'distortion': distortion,
      'model': self._model,
      'data': self._data.name,
      'decoding': self._decoding,
    }
    if isinstance(self._data, datasets.Scenes):
      record['slots'] = datasets.slots(caption, example.info)
    if link is not None:
      record['link'] = link
    return record
