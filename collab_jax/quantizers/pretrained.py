"""Books: trained parameters that both ends hold, so that nobody sends them.

A book is one safetensors file: arrays, and in its metadata what they are, for
which vectors, and a fingerprint. `training.codebooks` makes them.
"""

from collections.abc import Mapping
import dataclasses
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from collab_jax import _validate
from collab_jax.quantizers import params_file
from collab_jax.quantizers.params_file import (
  QuantizerParams,
  QuantizerParamsError,
)

# In place of a book: what is drawn from the key of `init_params`.
RANDOM = 'random'
SUFFIX = '.safetensors'

_SHIPPED = pathlib.Path(__file__).parent.parent / 'assets' / 'books'


class Features(NamedTuple):
  """The vectors for which somebody wants to use books.

  Attributes:
    model: Fingerprint of their image encoder.
    split: Where they were taken.
  """

  model: str
  split: str


def check_name(book: object) -> None:
  """Raises BookError unless it can name a book."""
  if not isinstance(book, str) or not book:
    raise QuantizerParamsError(
      f'book must be the name or path of a book, or {RANDOM!r}, got {book!r}.'
    )


def path_of(name: str) -> pathlib.Path:
  """Returns the file of a book: one that ships, or the user's own path."""
  own = pathlib.Path(name)
  if name.endswith(SUFFIX) or own.is_file():
    return own
  return _SHIPPED / f'{name}{SUFFIX}'


def shipped() -> list[str]:
  """Returns the names of the books that ship with the package."""
  paths = sorted(_SHIPPED.rglob(f'*{SUFFIX}'))
  return [str(p.relative_to(_SHIPPED).with_suffix('')) for p in paths]


def load(
  name: str, kind: str | None = None, width: int | None = None
) -> QuantizerParams:
  """Reads a book.

  Args:
    name: One that ships, such as 'tiny/centroids', or a path.
    kind: What it must be for; None for anything.
    width: How many numbers its vectors must have; None for any.

  Returns:
    The book; files are read once.

  Raises:
    BookError: It is missing, damaged, or of another kind or width.
  """
  path = path_of(name)
  if not path.is_file():
    file = f'the path of a {SUFFIX} file of experiments/train_codebook.py'
    raise _validate.unknown('book', name, shipped(), file, QuantizerParamsError)
  status = path.stat()
  book = params_file.read(str(path), status.st_mtime_ns, status.st_size)
  if kind is not None and book.kind != kind:
    raise QuantizerParamsError(
      f'book {name!r} is for {book.kind}, expected {kind}.'
    )
  if width is not None and book.width != width:
    raise QuantizerParamsError(
      f'book {name!r} is for vectors of width {book.width}, these have'
      f' {width}; train one for them with experiments/train_codebook.py.'
    )
  return book


def array(
  book: QuantizerParams, name: str, shape: tuple[int | None, ...], why: str = ''
) -> np.ndarray:
  """Returns an array of a book, which must have a shape; None fits all.

  Raises:
    BookError: It has another, or numbers that are none in float32.
  """
  value = book.arrays.get(name)
  got = () if value is None else value.shape
  fits = len(got) == len(shape) and all(
    want in (None, have) for have, want in zip(got, shape, strict=True)
  )
  if value is None or not fits:
    want = ' x '.join('?' if n is None else str(n) for n in shape)
    raise QuantizerParamsError(
      f'a book of {book.kind} (fingerprint {book.fingerprint}): got'
      f' {name!r} of shape {got}, expected {want}{why}.'
    )
  with np.errstate(over='ignore'):
    numbers = value.dtype.kind not in 'bc' and value.astype(np.float32)
  if numbers is False or not np.isfinite(numbers).all():
    raise QuantizerParamsError(
      f'a book of {book.kind} (fingerprint {book.fingerprint}): got {name!r}'
      f' of {value.dtype}, expected finite numbers of float32; train it anew'
      ' with experiments/train_codebook.py.'
    )
  return value


def save(
  path: str | os.PathLike[str],
  arrays: Mapping[str, np.ndarray],
  *,
  kind: str,
  width: int,
  features: Features | None = None,
  transform: str = '',
  notes: Mapping[str, str] | None = None,
) -> QuantizerParams:
  """Writes a book, at once; equal ones are equal files.

  Args:
    path: Where; ends in .safetensors.
    arrays: What it holds.
    kind: What it is for.
    width: Numbers of each vector.
    features: Whose vectors; None for any.
    transform: In whose coordinates they are; see `Book`.
    notes: How it was made.

  Returns:
    The book, as `load` reads it.

  Raises:
    BookError: The path does not end in .safetensors.
  """
  path = pathlib.Path(path)
  if path.suffix != SUFFIX:
    raise QuantizerParamsError(
      f'got {str(path)!r}, expected a name that ends in {SUFFIX}'
    )
  features = features or Features('', '')
  metadata = {
    **{f'notes.{k}': str(v) for k, v in (notes or {}).items()},
    'kind': kind,
    'width': str(width),
    'model': features.model,
    'split': features.split,
    'transform': transform,
  }
  params_file.write(path, arrays, metadata)
  return load(str(path))


def of(quantizer: Any) -> list[str]:
  """Returns the names of the books of a quantizer and of those within it.

  Args:
    quantizer: Any quantizer; one that does not read the book in its field says
      so by a property `uses_book`.
  """
  return [name for name, *_ in _readers(quantizer)]


def unnamed(quantizer: Any) -> Any:
  """Returns a quantizer with each `book`, its own and within, at the default.

  It is equal on two ends that keep equal books in different places. What the
  books hold is in the parameters.

  Args:
    quantizer: Any quantizer.
  """
  changes = {}
  for field in dataclasses.fields(quantizer):
    value = getattr(quantizer, field.name)
    if field.name == 'book' and field.default is not dataclasses.MISSING:
      changes[field.name] = field.default
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
      changes[field.name] = unnamed(value)
  return dataclasses.replace(quantizer, **changes)


def check(quantizer: Any, features: Features) -> dict[str, str]:
  """Checks what `check_coordinates` does, and that books are for features.

  Args:
    quantizer: Any quantizer.
    features: What it is to quantize.

  Returns:
    The fingerprints of its books, by name.

  Raises:
    BookError: As `check_coordinates`, or one was trained on another model's
      features.
  """
  found = check_coordinates(quantizer)
  for name in found:
    book = load(name)
    for what, own, other in zip(
      ('model', 'split'), (book.model, book.split), features, strict=True
    ):
      if own and own != other:
        raise QuantizerParamsError(
          f'book {name!r} was trained on features of {what} {own}, these are'
          f' of {what} {other}; train one for them with'
          ' experiments/train_codebook.py.'
        )
  return found


def check_coordinates(quantizer: Any) -> dict[str, str]:
  """Checks that books of a quantizer are for the coordinates they are read in.

  Codes for a transform's coordinates have the right width outside of it too,
  where they mean nothing. The quantiles of a linear book are those of the
  coordinates that it makes itself.

  Args:
    quantizer: Any quantizer. One that quantizes other coordinates than it gets
      has a method `coordinates` that returns their name; one that reads a
      linear book's quantiles has `reads_quantiles`.

  Returns:
    The fingerprints of its books, by name.

  Raises:
    BookError: One was trained in other coordinates.
  """
  found = {}
  for name, within, reader in _readers(quantizer):
    book = load(name)
    found[name] = book.fingerprint
    own = book.transform
    if getattr(reader, 'reads_quantiles', False) and 'forward' in book.arrays:
      # However many of them there are.
      own = f'{own} {book.fingerprint}'.strip()
      within = within.rpartition('/')[0]
      where = f'put it within pca(...,book={name})'
    else:
      told = book.notes.get('transform')
      where = (
        f'put it within {told}' if own else 'take it out of what is around it'
      )
    if own != within and not (own == params_file.SOME and within):
      raise QuantizerParamsError(
        f'book {name!r} is for {_coordinates(own)}, these are'
        f' {_coordinates(within)}; {where}, or train one for them with'
        ' experiments/train_codebook.py.'
      )
  return found


def _readers(quantizer, within=''):
  """Yields a book, the coordinates that it is read in, and what reads it."""
  if not dataclasses.is_dataclass(quantizer) or isinstance(quantizer, type):
    return
  moved = getattr(quantizer, 'coordinates', None)
  inside = f'{within} {moved()}'.strip() if moved else within
  for field in dataclasses.fields(quantizer):
    value = getattr(quantizer, field.name)
    if field.name != 'book':
      yield from _readers(value, inside)
    elif value not in ('', RANDOM) and getattr(quantizer, 'uses_book', True):
      yield value, within, quantizer


def _coordinates(transform):
  if not transform:
    return 'vectors as they are'
  return f'coordinates of the transform {transform}'
