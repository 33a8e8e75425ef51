"""A batch of pictures, how long its stages take, and what gets lost."""

from collections.abc import Iterator, Sequence
import contextlib
import time

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from collab_jax import codecs, quantizers
from collab_jax import data as datasets


@jax.jit
def distortion(
  rebuilt: Float[Array, 'B N D'], features: Float[Array, 'B N D']
) -> Float[Array, ' B']:
  """Mean squared error per number, one per image."""
  return jnp.mean(jnp.square(rebuilt - features), axis=(1, 2))


class Batch:
  """Some images, padded to the batch size with the last one.

  Attributes:
    examples: The images without the padding.
    ids: Their ids.
    images: u8[size H W 3].
    padded_ids: The ids of all rows.
  """

  def __init__(self, examples: Sequence[datasets.Example], size: int):
    """Pads the examples to `size` rows."""
    self.examples = list(examples)
    self.ids = [e.image_id for e in examples]
    padding = [self.examples[-1]] * (size - len(self.examples))
    self.images = np.stack([e.image for e in self.examples + padding])
    self.padded_ids = self.ids + [e.image_id for e in padding]


class Clock:
  """Seconds per image of each stage.

  Attributes:
    seconds: By stage.
  """

  def __init__(self, size: int, **seconds: float):
    """Starts with the seconds of earlier stages; `size` images a stage."""
    self.seconds = seconds
    self._size = size

  @contextlib.contextmanager
  def __call__(self, stage: str) -> Iterator[None]:
    """Takes the time of what is inside."""
    start = time.perf_counter()
    yield
    self.seconds[stage] = round((time.perf_counter() - start) / self._size, 6)


def observe(
  codec: codecs.FeatureCodec,
  batch: Batch,
  features: Float[Array, 'B N D'],
  clock: Clock,
) -> tuple[Array, dict[str, Array]]:
  """What a codec quantizes, and what its quantizer takes besides.

  Where that is more than the features, which all codecs share, the encoder is
  run again for both; its time then takes the place of the shared one's.

  Args:
    codec: The codec.
    batch: The pictures.
    features: Theirs.
    clock: Takes the time of 'encode'.
  """
  if not quantizers.needs(codec.quantizer):
    return features, {}
  with clock('encode'):
    return jax.block_until_ready(codec.observe(batch.images))
