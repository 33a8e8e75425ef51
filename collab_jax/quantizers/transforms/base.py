"""Base of transforms in front of another quantizer."""

from collections.abc import Collection
import dataclasses
from typing import Any, cast

from jaxtyping import Array, Bool, Int

from collab_jax import message as messages
from collab_jax.quantizers import base


class TransformWrapper(base.Composite):
  """Base for quantizers that transform all vectors for an inner quantizer.

  Subclasses are dataclasses. Whatever concerns rows and tokens is the inner
  quantizer's, since a transform keeps their number and order.

  Attributes:
    vectors: Quantizer of the transformed vectors.
  """

  vectors: base.QuantizerLike

  @property
  def aux_inputs(self) -> tuple[str, ...]:
    """Auxiliary encoder outputs that the inner quantizer asks for.

    Raises:
      ValueError: They are vectors, which would not be transformed.
    """
    inputs = self.inner.aux_inputs
    if any(name.startswith('reduced') for name in inputs):
      raise ValueError(
        f'vectors: got {self.vectors!r}, which takes those of another picture;'
        ' put this one into its centroids'
      )
    return inputs

  @property
  def sender(self) -> base.Quantizer:
    """The same transform in front of the inner sender."""
    return dataclasses.replace(cast(Any, self), vectors=self.inner.sender)

  @property
  def receiver(self) -> base.Quantizer:
    """The same transform in front of the inner receiver."""
    return dataclasses.replace(cast(Any, self), vectors=self.inner.receiver)

  def padded(self, n: int) -> base.Quantizer | None:
    """Returns the same transform in front of the inner padded quantizer."""
    inner = self.inner.padded(n)
    if inner is None:
      return None
    return dataclasses.replace(cast(Any, self), vectors=inner)

  def using(self, count: Int[Array, '']) -> base.Quantizer:
    """Returns a copy whose inner quantizer uses so many of its k vectors."""
    inner = self.inner.using(count)
    return dataclasses.replace(cast(Any, self), vectors=inner)

  def inner_shape(self, n: int, d: int) -> tuple[int, int]:
    """Returns n and d: a transform keeps them unless it says otherwise."""
    return n, d

  def sent(self, n: int) -> int:
    """Returns how many vectors the inner quantizer sends."""
    return self.inner.sent(n)

  def origins(self, message: messages.Message) -> Int[Array, ' m'] | None:
    """Returns which vector each inner token stands for."""
    return self.inner.origins(base.unprefix('vectors', message))

  def row_of(self, message: messages.Message) -> Int[Array, ' m'] | None:
    """Returns which row makes each inner token."""
    return self.inner.row_of(base.unprefix('vectors', message))

  def row_fields(self, n: int, d: int) -> tuple[str, ...]:
    """Returns the inner quantizer's fields with a row for every vector."""
    names = self.inner.row_fields(*self.inner_shape(n, d))
    return tuple(base.prefix('vectors', dict.fromkeys(names)))

  def conceal(
    self,
    message: messages.Message,
    received: Bool[Array, ' k'],
    rows: Collection[str],
  ) -> messages.Message:
    """Conceals the rows of the inner quantizer's message."""
    inner = self.inner.conceal(
      base.unprefix('vectors', message),
      received,
      [*base.unprefix('vectors', dict.fromkeys(rows))],
    )
    return base.prefix('vectors', inner)
