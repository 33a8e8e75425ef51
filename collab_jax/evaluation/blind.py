"""Blind baselines: captions without the picture, the floor of every curve."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float
import numpy as np

from collab_jax import _validate, distributed, sharding
from collab_jax import captioner as captioning
from collab_jax import data as datasets
from collab_jax.evaluation import batches

KINDS = ('zeroed', 'mean', 'shuffled')


@jax.jit
def _project(model, features):
  return model.project(features)


def check(kinds: Sequence[str]) -> None:
  """Raises ValueError unless there are baselines of these kinds."""
  for kind in kinds:
    _validate.choice('blind', kind, KINDS)


class Dispatched(NamedTuple):
  """Batch of the baselines, on the device.

  Attributes:
    features: For the mean; None where it is not wanted.
    ids: Token ids of all captions, to shuffle; None likewise. Of a task, the
      chunks of answers.
  """

  features: Array | None
  ids: Any


class Blind:
  """Writes captions without the picture's own features; nothing is sent.

  'zeroed': all features are 0. 'mean': each token is its mean over the
  evaluated images. 'shuffled': another image's features, along one random
  cycle through all images. Features are those before the projection.

  Attributes:
    kinds: The baselines to write.
  """

  def __init__(
    self,
    captioner: captioning.Captioner,
    kinds: Sequence[str],
    images: int,
    seed: int = 0,
  ):
    """Prepares the baselines.

    Args:
      captioner: Writes the captions.
      kinds: Some of 'zeroed', 'mean' and 'shuffled'.
      images: Number of evaluated images.
      seed: Seed of the captions, where the decoding draws.

    Raises:
      ValueError: An unknown kind, or a single image to shuffle.
    """
    check(kinds)
    if 'shuffled' in kinds and images < 2:
      raise ValueError('blind: shuffling needs at least 2 images')
    self.kinds = tuple(kinds)
    self._captioner = captioner
    self._images = images
    self._seed = seed
    self._vectors = captioner.model.config.vision.num_tokens
    self._sum: Any = 0.0
    self._full: dict[int, Any] = {}  # Texts by index of the picture.
    self._rows = 1  # Of a batch, whose programs all captions share.

  def describe(self) -> dict[str, dict[str, Any]]:
    """Returns the settings of each kind by name, as a codec's."""
    common = {'codec': 'blind', 'split': 'encoder', 'tokens': self._vectors}
    settings = {
      'zeroed': {},
      'mean': {'images': self._images},
      'shuffled': {'images': self._images},
    }
    return {
      f'blind({kind})': {**common, 'kind': kind, **settings[kind]}
      for kind in self.kinds
    }

  def dispatch(
    self, features: Float[Array, 'B N D'], batch: batches.Batch
  ) -> Dispatched:
    """Dispatches what a batch needs of the device.

    Args:
      features: Before the projection; the last rows may be padding.
      batch: The pictures.
    """
    self._rows = sharding.row_count(features)
    shuffled = 'shuffled' in self.kinds
    return Dispatched(
      features if 'mean' in self.kinds else None,
      self._generate(features, batch.padded_ids) if shuffled else None,
    )

  def add(self, dispatched: Dispatched, batch: batches.Batch) -> None:
    """Waits for a batch and adds it; batches come in the images' order.

    Args:
      dispatched: From `dispatch`.
      batch: The pictures; those that another process owns are left to it.
    """
    count, owned = len(batch.indices), batch.owned
    if dispatched.features is not None:
      features = sharding.fetch(dispatched.features)[:count][owned]
      # One by one, so that the sum does not depend on the batch size.
      for row in features.astype(np.float64):
        self._sum = self._sum + row
    if dispatched.ids is not None:
      texts = self._fetch(dispatched.ids, batch)[:count]
      written = zip(batch.indices, texts, owned, strict=True)
      self._full |= {i: text for i, text, mine in written if mine}

  def _fetch(self, ids: Any, batch: batches.Batch) -> list[Any]:
    """Waits for the texts of a batch, those of each picture by themselves."""
    del batch
    return self._captioner.detokenize(ids)

  def captions(self) -> dict[str, list[str]]:
    """Returns the captions of all images by name, after the last batch."""
    self._gather()
    return {f'blind({kind})': self._write(kind) for kind in self.kinds}

  def texts(
    self, examples: Mapping[int, datasets.Example]
  ) -> dict[str, dict[int, list[str]]]:
    """Returns the texts of images by name and index, after the last batch.

    Args:
      examples: The images of this process by their index.
    """
    return {
      name: {i: [captions[i]] for i in examples}
      for name, captions in self.captions().items()
    }

  def _gather(self) -> None:
    """Takes what the batches of other processes gave."""
    if distributed.number() == 1:
      return
    sums, full = np.asarray(self._sum).tolist(), [*self._full.items()]
    others = distributed.gather([sums, full])
    self._sum = sum(np.asarray(total) for total, _ in others)
    self._full = {i: text for _, part in others for i, text in part}

  def _write(self, kind: str) -> list[str]:
    n = self._images
    if kind == 'shuffled':
      return [self._full[j] for j in sources(n)]
    ids = self._generate(self._features(kind), [0] * self._rows)
    return self._captioner.detokenize(ids)[:1] * n

  def _features(self, kind: str) -> Float[np.ndarray, 'B N D']:
    """Returns features that say nothing of a picture, in all rows."""
    width = self._captioner.model.config.vision.width
    features = np.zeros((self._rows, self._vectors, width), np.float32)
    if kind == 'mean':
      features += np.asarray(self._sum / self._images, np.float32)
    return features

  def _generate(
    self, features: Float[Array | np.ndarray, 'B N D'], image_ids: Sequence[int]
  ) -> Array:
    key = self._captioner.keys(self._seed, image_ids)
    return self._captioner.generate(self._prefix(features), key=key)

  def _prefix(self, features: Float[Array | np.ndarray, 'B N D']) -> Array:
    model = self._captioner.model
    return _project(model, sharding.settle(features, model.params))


def sources(images: int) -> list[int]:
  """Returns the image whose features each one is given, by one cycle."""
  order = np.random.default_rng(0).permutation(images)
  given = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
  return [given[i] for i in range(images)]
