"""What crosses the link, and what a decoder makes of it."""

import dataclasses
from typing import NamedTuple, TypeAlias

from jaxtyping import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Symbols:
  """Declares a field of integers in [0, alphabet), which may be coded.

  Attributes:
    alphabet: Number of distinct symbols, at least 1.
    shape: Static shape of the field.
    layer: Messages are sent coarse to fine: the layers up to any one are a
      message, too. Layer 0 is always there.
    rows: Name of another field of symbols, before this one and in the same
      layer, whose largest symbol is the number of this one's last row: those
      behind it, along the first axis, are zeros, which need not be sent. ''
      for none.
  """

  alphabet: int
  shape: tuple[int, ...]
  layer: int = 0
  rows: str = ''


@dataclasses.dataclass(frozen=True)
class Values:
  """Declares a field of real numbers, which are sent as they are.

  Attributes:
    dtype: 'float16', 'bfloat16' or 'float32'.
    shape: Static shape of the field.
    layer: As of `Symbols`.
  """

  dtype: str
  shape: tuple[int, ...]
  layer: int = 0


Field: TypeAlias = Symbols | Values
Message: TypeAlias = dict[str, Array]


class Tokens(NamedTuple):
  """The vectors that a quantizer rebuilds for one image.

  Attributes:
    x: The vectors; m = n where the grid is rebuilt, m = k where only the
      vectors that were sent go on.
    valid: False for a vector that the decoder must not see.
    positions: The decoder's position of each vector, from 0.
    end: The position of the first text token.
  """

  x: Float[Array, 'm d']
  valid: Bool[Array, ' m']
  positions: Int[Array, ' m']
  end: Int[Array, '']


class Prefix(NamedTuple):
  """A batch of `Tokens` at the decoder's width M.

  Attributes:
    x: The image embeddings.
    valid: False for a vector that the decoder must not see.
    positions: The decoder's position of each vector, from 0.
    end: The position of the first text token, per row.
  """

  x: Float[Array, 'B m M']
  valid: Bool[Array, 'B m']
  positions: Int[Array, 'B m']
  end: Int[Array, ' B']
