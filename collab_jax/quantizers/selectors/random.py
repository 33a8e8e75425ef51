"""The paper's baseline: a random subset of the vectors."""

import dataclasses
from typing import ClassVar

from jaxtyping import Array, Float, Int, Key

from collab_jax.quantizers import base
from collab_jax.quantizers.selectors import base as base_lib


@dataclasses.dataclass(frozen=True)
class Random(base_lib.Selection):
  """Sends k vectors drawn evenly without replacement.

  With one key, the vectors of a smaller k are among those of a larger one.

  Attributes:
    k: Number of vectors sent, at most n.
    rebuild: 'close', 'keep', 'zero' or 'nearest'; see `Selection`.
    vectors: What quantizes the sent vectors.

  Source: section 3 of the paper, which does not say how it rebuilds.
  """

  draws: ClassVar[bool] = True

  def select(
    self, x: Float[Array, 'n d'], key: Key[Array, '']
  ) -> Int[Array, ' k']:
    """Returns k random indices."""
    return base.shuffled(key, x.shape[0])[: self.k]
