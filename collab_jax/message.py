"""Messages that cross the link, and the tokens rebuilt from them."""

import dataclasses
from typing import NamedTuple, TypeAlias

from jaxtyping import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Symbols:
  """Declares a field of integers in [0, alphabet), which may be coded.

  Attributes:
    alphabet: Number of distinct symbols, at least 1.
    shape: Static shape of the field.
    layer: Layer of a progressive message, coarse to fine: layers 0 to any one
      are a message, too.
    rows: Name of another field of symbols, before this one and in the same
      layer, whose largest symbol is the index of this one's last row: later
      rows, along the first axis, are zeros, and are not sent. '' for none.
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
  """Vectors that a quantizer rebuilds for one image.

  Attributes:
    x: Vectors; m = n where the grid is rebuilt, m = k where only sent vectors
      are kept.
    valid: False for a vector that the decoder must not attend to.
    positions: The decoder's position of each vector, from 0.
    end: Position of the first text token.
  """

  x: Float[Array, 'm d']
  valid: Bool[Array, ' m']
  positions: Int[Array, ' m']
  end: Int[Array, '']


class Prefix(NamedTuple):
  """Batch of `Tokens` at the decoder's width M.

  Attributes:
    x: Image embeddings.
    valid: False for a vector that the decoder must not attend to.
    positions: The decoder's position of each vector, from 0.
    end: Position of the first text token, per row.
  """

  x: Float[Array, 'B m M']
  valid: Bool[Array, 'B m']
  positions: Int[Array, 'B m']
  end: Int[Array, ' B']
