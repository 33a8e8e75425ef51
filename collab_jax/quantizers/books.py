"""Books: trained parameters that both ends hold, so that nobody sends them.

A book is one safetensors file: arrays, and in its metadata what they are, for
which vectors, and a fingerprint. `training.codebooks` makes them.
"""

from collections.abc import Mapping
import dataclasses
import difflib
import functools
import hashlib
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np
import safetensors
from safetensors import numpy as files

FORMAT = 'collab_jax book 1'
# In place of a book: what is drawn from the key of `init_params`.
RANDOM = 'random'
SUFFIX = '.safetensors'

_SHIPPED = pathlib.Path(__file__).parent.parent / 'assets' / 'books'
# No book is larger; a header may claim anything.
_LARGEST = 2**31


class BookError(ValueError):
  """A book that is missing, damaged, or for other vectors."""


@dataclasses.dataclass(frozen=True)
class Book:
  """What a file holds.

  Attributes:
    kind: What it is for: 'linear', 'codebook' or 'scales'.
    width: Numbers of each vector that it is for.
    model: Fingerprint of the image encoder whose features it was trained on;
      '' for any.
    split: Where the features were taken, 'encoder' or 'head'; '' for any.
    fingerprint: Of the arrays and their names.
    arrays: By name; not to be written to.
    notes: How it was made, in words.
  """

  kind: str
  width: int
  model: str
  split: str
  fingerprint: str
  arrays: Mapping[str, np.ndarray]
  notes: Mapping[str, str]


class Features(NamedTuple):
  """The vectors for which somebody wants to use books.

  Attributes:
    model: Fingerprint of their image encoder.
    split: Where they were taken.
  """

  model: str
  split: str


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


def load(name: str, kind: str | None = None, width: int | None = None) -> Book:
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
    known = shipped()
    near = difflib.get_close_matches(name, known, 1)
    hint = f'did you mean {near[0]!r}?' if near else f'shipped: {known}'
    raise BookError(
      f'no book {name!r}; {hint} Or give the path of a {SUFFIX} file that'
      ' experiments/train_codebook.py wrote.'
    )
  status = path.stat()
  book = _read(str(path), status.st_mtime_ns, status.st_size)
  if kind is not None and book.kind != kind:
    raise BookError(f'book {name!r} is for {book.kind}, expected {kind}.')
  if width is not None and book.width != width:
    raise BookError(
      f'book {name!r} is for vectors of width {book.width}, these have'
      f' {width}; train one for them with experiments/train_codebook.py.'
    )
  return book


def array(
  book: Book, name: str, shape: tuple[int | None, ...], why: str = ''
) -> np.ndarray:
  """Returns an array of a book, which must have a shape; None fits all."""
  value = book.arrays.get(name)
  got = () if value is None else value.shape
  fits = len(got) == len(shape) and all(
    want in (None, have) for have, want in zip(got, shape, strict=True)
  )
  if value is None or not fits:
    want = ' x '.join('?' if n is None else str(n) for n in shape)
    raise BookError(
      f'a book of {book.kind} (fingerprint {book.fingerprint}): got'
      f' {name!r} of shape {got}, expected {want}{why}.'
    )
  return value


def save(
  path: str | os.PathLike[str],
  arrays: Mapping[str, np.ndarray],
  *,
  kind: str,
  width: int,
  features: Features | None = None,
  notes: Mapping[str, str] | None = None,
) -> Book:
  """Writes a book, at once.

  Args:
    path: Where; ends in .safetensors.
    arrays: What it holds.
    kind: What it is for.
    width: Numbers of each vector.
    features: Whose vectors; None for any.
    notes: How it was made.

  Returns:
    The book, as `load` reads it.

  Raises:
    BookError: The path does not end in .safetensors.
  """
  path = pathlib.Path(path)
  if path.suffix != SUFFIX:
    raise BookError(f'got {str(path)!r}, expected a name that ends in {SUFFIX}')
  features = features or Features('', '')
  arrays = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
  metadata = {
    **{f'notes.{k}': str(v) for k, v in (notes or {}).items()},
    'format': FORMAT,
    'kind': kind,
    'width': str(width),
    'model': features.model,
    'split': features.split,
    'fingerprint': _fingerprint(kind, width, arrays),
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  draft = path.with_name(path.name + '.draft')
  draft.write_bytes(files.save(arrays, metadata))
  draft.replace(path)
  return load(str(path))


def of(quantizer: Any) -> list[str]:
  """Returns the names of the books of a quantizer and of those within it.

  Args:
    quantizer: Any quantizer; one that does not read the book in its field says
      so by a property `uses_book`.
  """
  if not dataclasses.is_dataclass(quantizer):
    return []
  found = []
  for field in dataclasses.fields(quantizer):
    value = getattr(quantizer, field.name)
    if field.name == 'book' and value not in ('', RANDOM):
      found += [value] if getattr(quantizer, 'uses_book', True) else []
    found += of(value)
  return found


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
  """Checks that the books of a quantizer are for these features.

  Args:
    quantizer: Any quantizer.
    features: What it is to quantize.

  Returns:
    The fingerprints of its books, by name.

  Raises:
    BookError: One was trained on another model's features.
  """
  found = {}
  for name in of(quantizer):
    book = load(name)
    for what, own, other in zip(
      ('model', 'split'), (book.model, book.split), features, strict=True
    ):
      if own and own != other:
        raise BookError(
          f'book {name!r} was trained on features of {what} {own}, these are'
          f' of {what} {other}; train one for them with'
          ' experiments/train_codebook.py.'
        )
    found[name] = book.fingerprint
  return found


@functools.lru_cache(maxsize=32)
def _read(path: str, changed: int, size: int) -> Book:
  """Reads a file; another time or size means that it is another one."""
  del changed
  if size > _LARGEST:
    raise BookError(f'{path}: {size} bytes, a book has less than {_LARGEST}')
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      metadata = file.metadata() or {}
      arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  except (safetensors.SafetensorError, OSError, TypeError) as error:
    raise BookError(f'{path} is damaged or no safetensors: {error}') from error
  if metadata.get('format') != FORMAT:
    raise BookError(
      f'{path} is no book: its metadata say format'
      f' {metadata.get("format")!r}, expected {FORMAT!r}'
    )
  kind, width = metadata.get('kind', ''), metadata.get('width', '')
  number = int(width) if width.isdecimal() and len(width) < 8 else 0
  fingerprint = _fingerprint(kind, number, arrays)
  if fingerprint != metadata.get('fingerprint'):
    raise BookError(
      f'{path} is damaged: its fingerprint is {fingerprint}, expected'
      f' {metadata.get("fingerprint")}; get it anew'
    )
  for value in arrays.values():
    value.setflags(write=False)
  return Book(
    kind,
    number,
    metadata.get('model', ''),
    metadata.get('split', ''),
    fingerprint,
    arrays,
    {
      k.removeprefix('notes.'): v
      for k, v in metadata.items()
      if k.startswith('notes.')
    },
  )


def _fingerprint(kind, width, arrays):
  digest = hashlib.sha256(f'{kind} {width}'.encode())
  for name in sorted(arrays):
    value = arrays[name]
    digest.update(f'{name} {value.dtype} {value.shape}'.encode())
    digest.update(value.tobytes())
  return digest.hexdigest()[:16]
