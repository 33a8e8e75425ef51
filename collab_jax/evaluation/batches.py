"""Batches of examples, padded to one size."""

from collections.abc import Sequence

import numpy as np

from collab_jax import data as datasets


class Batch:
  """Examples of a batch, padded to the batch size with the last one.

  Attributes:
    examples: The examples without the padding.
    ids: Their image ids.
    images: u8[size H W 3].
    padded_ids: The image ids of all rows.
  """

  def __init__(self, examples: Sequence[datasets.Example], size: int):
    """Pads the examples to `size` rows."""
    self.examples = list(examples)
    self.ids = [e.image_id for e in examples]
    padding = [self.examples[-1]] * (size - len(self.examples))
    self.images = np.stack([e.image for e in self.examples + padding])
    self.padded_ids = self.ids + [e.image_id for e in padding]
