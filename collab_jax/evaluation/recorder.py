"""Records of captions and answers, without what they were made of."""

from collections.abc import Mapping, Sequence
from typing import Any

from jax import numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from collab_jax import captioner as captioning
from collab_jax import codecs as codecs_lib
from collab_jax import data as datasets
from collab_jax import metrics as metrics_lib
from collab_jax import sharding, tasks
from collab_jax.codecs import base
from collab_jax.codecs.transports import base as transports
from collab_jax.data import pixels, question
from collab_jax.evaluation import identity, texts, validate
from collab_jax.tasks import base as tasks_base


class Recorder:
  """Makes records; `schema` lists their fields.

  Attributes:
    task: The task whose questions are answered; None for captions.
  """

  def __init__(
    self,
    captioner: captioning.Captioner,
    data: Any,
    run: str,
    names: tuple[str | None, str | None] | None = None,
    task: tasks.Task | None = None,
  ):
    """Binds what all records have in common.

    Args:
      captioner: The captioner.
      data: The reader.
      run: Fingerprint of the run's settings.
      names: Names of model and data in the records; by default their own.
      task: The task; None for captions.
    """
    self.task = task
    self._task_name = None if task is None else tasks.name(task)
    self._metrics = {} if task is None else metrics_lib.make_all(task.metrics)
    self._captioner = captioner
    own = captioner.model.config.name, data.name
    self._model, self._name = names or own
    self._decoding = captioner.describe()['decoding']
    self._has_slots = task is None and isinstance(data, datasets.Scenes)
    source = data if task is None else identity.source_of(data)
    self._is_known = isinstance(source, datasets.Scenes)
    self._run = run
    self._pixels: dict[int, str] = {}
    self._grey: dict[int, Any] = {}  # Captions of a grey picture, by seed.

  def note_pictures(self, examples: Sequence[datasets.Example]) -> None:
    """Keeps the fingerprints of pictures, of which records may come later.

    Raises:
      ValueError: The questions of one of them cannot be told apart.
    """
    for example in examples:
      if self.task is not None:
        validate.check_picture(example)
      self._pixels[example.image_id] = pixels.fingerprint(example.image)

  def records(
    self,
    example: datasets.Example,
    common: Mapping[str, Any],
    written: Sequence[str],
    sizes: Mapping[str, int] | None = None,
    distortion: float | None = None,
    unlike: bool = False,
  ) -> list[dict[str, Any]]:
    """Makes the records of one picture: of a caption, or of each answer.

    Args:
      example: The picture, one of `note_pictures`.
      common: Fields that all records of a codec and seed share.
      written: The caption, or the answer to each question as it was written.
      sizes: Bytes by field.
      distortion: Mean squared error per number.
      unlike: Whether the picture is unlike those that the model was trained
        on; of a generated scene, which is like them, it is not recorded.
    """
    details = sizes or {}, distortion, unlike
    if self.task is None:
      (caption,) = written
      return [self._record(example, common, caption, *details)]
    return [
      self._answer(
        self._record(example, common, text, *details),
        asked,
        len(written),
      )
      for text, asked in zip(written, example.questions, strict=True)
    ]

  def _answer(
    self, record: dict[str, Any], asked: question.Question, count: int
  ) -> dict[str, Any]:
    """Adds a question of a picture to a record of the text that answers it.

    Args:
      record: The record.
      asked: The question.
      count: Number of questions about the picture.
    """
    assert self.task is not None
    answer = tasks_base.read_answer(self.task, record['caption'], asked)
    references = list(asked.references)
    return {
      **record,
      'references': references,
      'task': self._task_name,
      'question': asked.id,
      'kind': asked.kind,
      'prompt': asked.prompt,
      'answer': answer,
      'questions': count,
      'question_bytes': round(record['total_bytes'] / count, 6),
      'scores': {
        name: float(f'{metric.scores([answer], [references])[0]:.6g}')
        for name, metric in self._metrics.items()
        if isinstance(metric, metrics_lib.MeanMetric) and not metric.uses_corpus
      },
    }

  def _record(
    self,
    example: datasets.Example,
    common: Mapping[str, Any],
    caption: str,
    sizes: Mapping[str, int],
    distortion: float | None,
    unlike: bool,
  ) -> dict[str, Any]:
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
    if self._has_slots:
      record['slots'] = datasets.slots(caption, example.info)
    elif unlike and not self._is_known:
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

  def grey_prefix(self) -> Float[Array, '1 N M']:
    """Dispatches the features of a grey picture."""
    model = self._captioner.model
    side = model.config.vision.image_size
    grey = jnp.asarray(np.full((1, side, side, 3), 128, np.uint8))
    floats = sharding.rows(codecs_lib.to_float(grey), model.params)
    return model.project(model.encode_image(floats))

  def grey_caption(self, seed: int) -> list[texts.Chunk]:
    """Dispatches the caption of a grey picture, once for each seed.

    Args:
      seed: Of the captions.

    Returns:
      Its token ids, on the device.
    """
    if seed not in self._grey:
      self._grey[seed] = texts.dispatch_captions(
        self._captioner, self.grey_prefix(), seed, (0,)
      )
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
