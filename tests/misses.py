"""Metric of a user's, of which less is better."""

import dataclasses
from typing import ClassVar

import numpy as np

from collab_jax import metrics


@dataclasses.dataclass(frozen=True)
class Misses(metrics.MeanMetric):
  """Counts the words of the first reference that are missing; less is better.

  Attributes:
    most: Misses that count.
  """

  most: int = 5
  label: ClassVar[str] = 'misses'
  unit: ClassVar[str] = 'words'
  higher_is_better: ClassVar[bool] = False

  def scores(self, answers, references, corpus=None):
    del corpus
    pairs = zip(answers, references, strict=True)
    missing = [len({*r[0].split()} - {*a.split()}) for a, r in pairs]
    return np.minimum(missing, self.most)
