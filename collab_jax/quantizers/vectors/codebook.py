"""What the quantizers share that send places in trained codebooks."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key
import numpy as np

from collab_jax.quantizers import (
  base,
  pretrained,
)
from collab_jax.quantizers.math import geometry
from collab_jax.quantizers.vectors import symbol_tables


def load(
  book: str,
  key: Key[Array, ''],
  count: int,
  size: int,
  width: int,
  pieces: int = 1,
) -> base.Params:
  """Returns the first codebooks of a book, as parameters.

  Args:
    book: A book of kind 'codebook', or 'random' for normal numbers.
    key: For random ones.
    count: How many codebooks; a book may hold more.
    size: Codes in each.
    width: Numbers of each code.
    pieces: Into how many codes a vector is cut, of which the book must be.

  Returns:
    'codes', f32[count, size, width], and 'frequencies', int32[count, size]
    of sum `tables.TOTAL` a row.

  Raises:
    BookError: There is no such book.
  """
  if book == pretrained.RANDOM:
    codes = jax.random.normal(key, (count, size, width))
    even = symbol_tables.normalized(np.ones((count, size)))
    return {'codes': codes, 'frequencies': jnp.asarray(even)}
  found = pretrained.load(book, 'codebook', width * pieces)
  codes = pretrained.array(found, 'codes', (None, size, width))
  if len(codes) < count or (pieces > 1 and len(codes) != count):
    raise pretrained.QuantizerParamsError(
      f'book {book!r} holds {len(codes)} codebooks, expected {count}.'
    )
  counts = pretrained.array(found, 'counts', (len(codes), size))
  if np.min(counts) < 0:
    raise pretrained.QuantizerParamsError(
      f'book {book!r}: got counts below 0, expected how often each code came;'
      ' train it anew with experiments/train_codebook.py.'
    )
  return {
    'codes': jnp.asarray(codes[:count], jnp.float32),
    'frequencies': jnp.asarray(symbol_tables.normalized(counts[:count])),
  }


def shortened(x: Float[Array, 'n width']) -> Float[Array, 'n width']:
  """Returns vectors whose squares stay within float32, mostly x itself."""
  top = jnp.maximum(jnp.max(jnp.abs(x), axis=1, keepdims=True), 1e-30)
  return jnp.where(top > 1e15, x * (1e15 / top), x)


def nearest(
  x: Float[Array, 'n width'], codes: Float[Array, 'size width']
) -> Int[Array, ' n']:
  """Returns the code nearest to each vector; ties go to the first."""
  x = shortened(x)
  cross = jnp.einsum('kw,nw->kn', codes, x, precision='highest')
  squares = jnp.sum(codes * codes, axis=1, keepdims=True)
  return geometry.first_min(squares - 2 * cross)[0]
