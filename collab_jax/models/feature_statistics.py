"""Statistics of image features, by which unlike pictures are told.

A model that was trained on few kinds of pictures captions all others in the
same words. The mean of a picture's feature vectors is compared with those of
the training pictures by its Mahalanobis distance.

Source: Lee et al., arXiv 1807.03888, of one class and one layer.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import math
import os
import pathlib

from jaxtyping import Array, Bool, Float
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from collab_jax import jsonl

# The file beside a model's weights.
FILE = 'feature_statistics.safetensors'
FORMAT = 'collab_jax feature statistics 1'

# Added to each variance, as a share of their mean: the features of a LayerNorm
# have a direction without any, along which rounding would be all that counts.
_SHRINKAGE = 1e-3

# Widest features whose statistics are read: 1 GB of a matrix.
_WIDEST = 1 << 14


@dataclasses.dataclass(frozen=True)
class Gaussian:
  """Normal distribution of the mean of a picture's vectors, at one split.

  Attributes:
    mean: f32[D].
    whitening: f32[D D]; rows of centred means times it have unit variances.
    threshold: Largest distance of a picture that is like the others.
  """

  mean: np.ndarray
  whitening: np.ndarray
  threshold: float

  def distances(
    self, means: Float[Array | np.ndarray, 'B D']
  ) -> Float[np.ndarray, ' B']:
    """Returns the Mahalanobis distance of each mean, over sqrt(D)."""
    centred = np.asarray(means, np.float64) - self.mean
    return np.sqrt(np.square(centred @ self.whitening).mean(1))


@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
  """Statistics of the pictures that a model was trained on.

  ::

    model = cj.load('tiny')
    means = model.encode_image(images).mean(1)
    unlike = model.statistics.unlike(means, 'encoder')  # bool[B]

  Equal ones compare equal by their fingerprint alone, as static fields of a
  jitted function's arguments must.

  Attributes:
    pictures: The pictures in words, 'the generated scenes'.
    encoder: Fingerprint of the image encoder; of another one, as of a model
      that was trained on, they say nothing.
    splits: Distributions by split, 'encoder' or 'head'.
    fingerprint: SHA-256 of all of it.
  """

  pictures: str
  encoder: str
  splits: Mapping[str, Gaussian] = dataclasses.field(compare=False)
  fingerprint: str = dataclasses.field(init=False)

  def __post_init__(self):
    digest = hashlib.sha256()
    for split, gaussian in sorted(self.splits.items()):
      digest.update(f'{split} {gaussian.threshold!r} '.encode())
      digest.update(gaussian.mean.tobytes() + gaussian.whitening.tobytes())
    object.__setattr__(self, 'fingerprint', digest.hexdigest()[:16])

  def unlike(
    self, means: Float[Array | np.ndarray, 'B D'], split: str
  ) -> Bool[np.ndarray, ' B']:
    """Returns for each picture whether it is unlike those of the training.

    Args:
      means: Mean over a picture's feature vectors.
      split: Split of the features; of one without statistics none is unlike.
    """
    gaussian = self.splits.get(split)
    if gaussian is None or means.shape[1:] != gaussian.mean.shape:
      return np.zeros(len(means), bool)
    return gaussian.distances(means) > gaussian.threshold


def fit(
  means: Float[np.ndarray, 'B D'], held_out: Float[np.ndarray, 'b D']
) -> Gaussian:
  """Fits a distribution.

  Args:
    means: Mean features of training pictures.
    held_out: Those of pictures that were not trained on, the largest of whose
      distances becomes the threshold.
  """
  means = np.asarray(means, np.float64)
  variances, axes = np.linalg.eigh(np.cov(means.T))
  variances = variances.clip(0) + _SHRINKAGE * variances.mean()
  gaussian = Gaussian(
    means.mean(0).astype(np.float32),
    (axes / np.sqrt(variances)).astype(np.float32),
    math.inf,
  )
  threshold = float(gaussian.distances(held_out).max())
  return dataclasses.replace(gaussian, threshold=threshold)


def save(path: str | os.PathLike[str], statistics: FeatureStatistics) -> None:
  """Writes statistics, whole or not at all.

  Args:
    path: The file, `FILE` in a model's folder.
    statistics: The statistics.
  """
  arrays, metadata = {}, {'format': FORMAT}
  for split, gaussian in sorted(statistics.splits.items()):
    arrays[f'{split}.mean'] = gaussian.mean
    arrays[f'{split}.whitening'] = np.ascontiguousarray(gaussian.whitening)
    metadata[f'{split}.threshold'] = repr(gaussian.threshold)
  metadata['pictures'] = statistics.pictures
  metadata['encoder'] = statistics.encoder
  jsonl.write_atomically(
    pathlib.Path(path), safetensors_numpy.save(arrays, metadata)
  )


def read(path: str | os.PathLike[str]) -> FeatureStatistics:
  """Reads statistics.

  Args:
    path: A file that `save` wrote.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: The file is damaged, or holds something else.
  """
  path = os.fspath(path)
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      metadata = file.metadata() or {}
      if metadata.get('format') != FORMAT:
        raise ValueError(
          f'format: got {metadata.get("format")!r:.40}, expected {FORMAT!r}'
        )
      names = {name.partition('.')[0] for name in file.keys()}  # noqa: SIM118
      splits = {name: _read_split(file, metadata, name) for name in names}
  except FileNotFoundError:
    raise
  except (safetensors.SafetensorError, OSError, TypeError, ValueError) as error:
    raise ValueError(
      f'{path} holds no statistics of features ({error}): write it again, or'
      ' remove it to go without'
    ) from error
  pictures = metadata.get('pictures', 'the pictures of its training')
  return FeatureStatistics(pictures, metadata.get('encoder', ''), splits)


def _read_split(file, metadata, split: str) -> Gaussian:
  """Reads a distribution; shapes are checked before numbers are read."""
  shape = tuple(file.get_slice(f'{split}.mean').get_shape())
  if len(shape) != 1 or not 0 < shape[0] <= _WIDEST:
    raise ValueError(f'{split}.mean: got the shape {shape}, expected [D]')
  square = tuple(file.get_slice(f'{split}.whitening').get_shape())
  if square != shape * 2:
    raise ValueError(
      f'{split}.whitening: got the shape {square}, expected {shape * 2}'
    )
  mean, whitening = (
    file.get_tensor(f'{split}.{name}').astype(np.float32)
    for name in ('mean', 'whitening')
  )
  threshold = float(metadata.get(f'{split}.threshold', 'nan'))
  if not (np.isfinite(mean).all() and np.isfinite(whitening).all()):
    raise ValueError(f'{split}: got numbers that are not finite')
  if not threshold > 0:
    raise ValueError(
      f'{split}.threshold: got {threshold}, expected a number above 0'
    )
  return Gaussian(mean, whitening, threshold)
