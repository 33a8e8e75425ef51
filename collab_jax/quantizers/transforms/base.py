"""What the quantizers share that stand in front of another one."""

import dataclasses
from typing import Any, cast

import jax
from jaxtyping import Array, Int

from collab_jax import message as messages
from collab_jax.quantizers import base


class TransformWrapper:
  """Moves vectors, and lets another quantizer send what comes of them.

  Subclasses are dataclasses; what the other one sends stands under 'vectors/'.

  Attributes:
    vectors: What quantizes the moved vectors.
  """

  vectors: base.Quantizer

  @property
  def uses_key(self) -> bool:
    """Whether what quantizes the moved vectors is drawn."""
    return self.vectors.uses_key

  @property
  def needs(self) -> tuple[str, ...]:
    """That of what quantizes the moved vectors.

    Raises:
      ValueError: It takes vectors besides, which would not be moved.
    """
    found = base.needs(self.vectors)
    if any(need.startswith('reduced') for need in found):
      raise ValueError(
        f'vectors: got {self.vectors!r}, which takes those of another picture;'
        ' put this one into its centroids'
      )
    return found

  @property
  def sender(self) -> Any:
    """That of what quantizes the moved vectors."""
    inner = getattr(self.vectors, 'sender', self.vectors)
    return dataclasses.replace(cast(Any, self), vectors=inner)

  @property
  def receiver(self) -> Any:
    """That of what quantizes the moved vectors."""
    inner = base.receiver(self.vectors)
    return dataclasses.replace(cast(Any, self), vectors=inner)

  def origins(self, message: messages.Message) -> Int[Array, ' m']:
    """Returns what `vectors` says of the vectors that it rebuilds."""
    inner: Any = self.vectors
    return inner.origins(base.unprefix('vectors', message))

  def priors(self, params: base.Params) -> dict[str, jax.Array]:
    """Returns the frequencies that `vectors` knows."""
    inner = base.priors(self.vectors, base.unnest('vectors', params))
    return base.prefix('vectors', inner)

  def sent(self, n: int) -> int:
    """Returns how many `vectors` sends."""
    return self.vectors.sent(n)
