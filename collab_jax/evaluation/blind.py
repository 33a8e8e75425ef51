"""Blind baselines: captions without the picture, the floor of every curve."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Bool, Float
import numpy as np

from collab_jax import _validate, distributed, sharding
from collab_jax import captioner as captioning
from collab_jax import data as datasets

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
    self._full: dict[int, str] = {}  # Captions by index of the picture.
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
    self, features: Float[Array, 'B N D'], image_ids: Sequence[int]
  ) -> Dispatched:
    """Dispatches what a batch needs of the device.

    Args:
      features: Before the projection; the last rows may be padding.
      image_ids: One per row.
    """
    self._rows = sharding.row_count(features)
    shuffled = 'shuffled' in self.kinds
    return Dispatched(
      features if 'mean' in self.kinds else None,
      self._generate(features, image_ids) if shuffled else None,
    )

  def add(
    self,
    dispatched: Dispatched,
    indices: Sequence[int],
    owned: Bool[np.ndarray, ' b'],
  ):
    """Waits for a batch and adds it; batches come in the images' order.

    Args:
      dispatched: From `dispatch`.
      indices: Index of each image in the batch, without the padding.
      owned: False for images that another process adds.
    """
    count = len(indices)
    if dispatched.features is not None:
      batch = sharding.fetch(dispatched.features)[:count][owned]
      # One by one, so that the sum does not depend on the batch size.
      for row in batch.astype(np.float64):
        self._sum = self._sum + row
    if dispatched.ids is not None:
      captions = self._captioner.detokenize(dispatched.ids)[:count]
      captioned = zip(indices, captions, owned, strict=True)
      self._full |= {i: caption for i, caption, mine in captioned if mine}

  def captions(self) -> dict[str, list[str]]:
    """Returns the captions of all images by name, after the last batch."""
    if distributed.number() > 1:
      sums, full = np.asarray(self._sum).tolist(), [*self._full.items()]
      others = distributed.gather([sums, full])
      self._sum = sum(np.asarray(total) for total, _ in others)
      self._full = {i: caption for _, part in others for i, caption in part}
    return {f'blind({kind})': self._write(kind) for kind in self.kinds}

  def texts(
    self, examples: Sequence[datasets.Example]
  ) -> dict[str, list[list[str]]]:
    """Returns the texts of all images by name, after the last batch.

    Args:
      examples: The images, in their order.
    """
    del examples
    captions = self.captions()
    return {name: [[text] for text in captions[name]] for name in captions}

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
