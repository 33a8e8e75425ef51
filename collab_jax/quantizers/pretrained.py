"""Trained parameters of quantizers, in files that both ends hold.

A file is one safetensors file: arrays, and in its metadata their kind, the
vectors they are for, and a fingerprint. A quantizer names its file in the field
`book`; `training.codebooks` makes such files.
"""

from collections.abc import Iterator, Mapping
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from collab_jax import _renamed, _validate, jsonl
from collab_jax.quantizers import base

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)

# In place of a file: parameters drawn from the key of `init_params`.
RANDOM = 'random'
SUFFIX = '.safetensors'
FORMAT = 'collab_jax book 1'
# In place of a transform: there is one, and the file does not say which.
UNKNOWN_TRANSFORM = 'unknown'

_SHIPPED = pathlib.Path(__file__).parent.parent / 'assets' / 'books'
# No file is larger; a header may claim anything.
_LARGEST = 2**31


class QuantizerParamsError(ValueError):
  """A parameter file is missing, damaged, or for other vectors."""


class FeatureSource(NamedTuple):
  """Origin of the vectors that a quantizer is for.

  Attributes:
    model: Fingerprint of their image encoder.
    split: Where they were taken, 'encoder' or 'head'.
  """

  model: str
  split: str


@dataclasses.dataclass(frozen=True)
class QuantizerParams:
  """Contents of a parameter file.

  Attributes:
    kind: 'linear', 'codebook', 'places' or 'scales'.
    width: Width of the vectors that it is for.
    model: Fingerprint of the image encoder whose features it was trained on;
      '' for any.
    split: Where the features were taken, 'encoder' or 'head'; '' for any.
    transform: Coordinates of the vectors, as `PCA.coordinates` names them; ''
      for the features' own, `UNKNOWN_TRANSFORM` if it is not known.
    fingerprint: Fingerprint of the arrays and their names.
    arrays: Read-only arrays, by name.
    notes: Texts about the training, by name.
  """

  kind: str
  width: int
  model: str
  split: str
  transform: str
  fingerprint: str
  arrays: Mapping[str, np.ndarray]
  notes: Mapping[str, str]


def check_name(book: object) -> None:
  """Raises QuantizerParamsError unless it can name a parameter file."""
  if not isinstance(book, str) or not book:
    raise _validate.error(
      'book',
      book,
      f'the name or path of a parameter file, or {RANDOM!r}',
      kind=QuantizerParamsError,
    )


def path_of(name: str) -> pathlib.Path:
  """Returns the path of a parameter file: a shipped one, or the user's own."""
  path = pathlib.Path(name)
  if name.endswith(SUFFIX) or path.is_file():
    return path
  return _SHIPPED / f'{name}{SUFFIX}'


def shipped() -> list[str]:
  """Returns the names of the parameter files that ship with the package."""
  paths = sorted(_SHIPPED.rglob(f'*{SUFFIX}'))
  return [str(p.relative_to(_SHIPPED).with_suffix('')) for p in paths]


def load(
  name: str, kind: str | None = None, width: int | None = None
) -> QuantizerParams:
  """Reads a parameter file, once.

  Args:
    name: Name of a shipped one, such as 'tiny/centroids', or a path.
    kind: Kind that it must be of; None for any.
    width: Width that its vectors must have; None for any.

  Raises:
    QuantizerParamsError: It is missing, damaged, or of another kind or width.
  """
  path = path_of(name)
  if not path.is_file():
    file = f'the path of a {SUFFIX} file of experiments/train_codebook.py'
    raise _validate.unknown('book', name, shipped(), file, QuantizerParamsError)
  status = path.stat()
  book = _read(str(path), status.st_mtime_ns, status.st_size)
  if kind is not None and book.kind != kind:
    raise QuantizerParamsError(
      f'book: got {name!r}, which is for {book.kind}, expected one for {kind}'
    )
  if width is not None and book.width != width:
    raise QuantizerParamsError(
      f'book: got {name!r}, which is for vectors of width {book.width},'
      f' expected width {width}; train one with experiments/train_codebook.py'
    )
  return book


def array(
  book: QuantizerParams, name: str, shape: tuple[int | None, ...], why: str = ''
) -> np.ndarray:
  """Returns an array of a parameter file, after checking its shape.

  Args:
    book: The file.
    name: Name of the array.
    shape: Shape that it must have; None fits any size.
    why: Why it must have that shape, for the error.

  Raises:
    QuantizerParamsError: It has another shape, or numbers that are not finite
      in float32.
  """
  value = book.arrays.get(name)
  got = () if value is None else value.shape
  fits = len(got) == len(shape) and all(
    expected in (None, size) for size, expected in zip(got, shape, strict=True)
  )
  if value is None or not fits:
    expected = ' x '.join('?' if n is None else str(n) for n in shape)
    raise QuantizerParamsError(
      f'a book of {book.kind} (fingerprint {book.fingerprint}): got'
      f' {name!r} of shape {got}, expected {expected}{why}.'
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


def principal_axes(
  book: str, key: Key[Array, ''], d: int, dims: int
) -> dict[str, jax.Array]:
  """Returns the first axes of a linear transform, as parameters.

  Args:
    book: Parameter file of kind 'linear', or 'random' for random orthogonal
      axes.
    key: Key for random ones.
    d: Width of the vectors.
    dims: Number of axes, at most d.

  Returns:
    'mean', f32[d], 'forward', f32[d dims], and 'inverse', f32[dims d].

  Raises:
    QuantizerParamsError: There is no such file for vectors of this width.
  """
  if book == RANDOM:
    axes = jnp.linalg.qr(jax.random.normal(key, (d, d)))[0]
    mean, forward, inverse = jnp.zeros(d), axes, axes.T
  else:
    stored = load(book, 'linear', d)
    mean = array(stored, 'mean', (d,))
    forward = array(stored, 'forward', (d, d))
    inverse = array(stored, 'inverse', (d, d))
  return {
    'mean': jnp.asarray(mean, jnp.float32),
    'forward': jnp.asarray(forward[:, :dims], jnp.float32),
    'inverse': jnp.asarray(inverse[:dims], jnp.float32),
  }


def save(
  path: str | os.PathLike[str],
  arrays: Mapping[str, np.ndarray],
  *,
  kind: str,
  width: int,
  features: FeatureSource | None = None,
  transform: str = '',
  notes: Mapping[str, str] | None = None,
) -> QuantizerParams:
  """Writes a parameter file atomically; equal contents make equal files.

  Args:
    path: Path that ends in .safetensors.
    arrays: Arrays by name.
    kind: See `QuantizerParams`.
    width: Width of the vectors.
    features: Origin of the vectors; None for any.
    transform: Coordinates of the vectors; see `QuantizerParams`.
    notes: Texts about the training.

  Returns:
    The contents, as `load` reads them.

  Raises:
    QuantizerParamsError: The path does not end in .safetensors.
  """
  path = pathlib.Path(path)
  if path.suffix != SUFFIX:
    raise QuantizerParamsError(
      f'got {str(path)!r}, expected a name that ends in {SUFFIX}'
    )
  features = features or FeatureSource('', '')
  metadata = {
    **{f'notes.{k}': str(v) for k, v in (notes or {}).items()},
    'kind': kind,
    'width': str(width),
    'model': features.model,
    'split': features.split,
    'transform': transform,
  }
  _write(path, arrays, metadata)
  return load(str(path))


def _write(
  path: pathlib.Path,
  arrays: Mapping[str, np.ndarray],
  metadata: Mapping[str, str],
) -> None:
  arrays = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
  kind, width = metadata['kind'], int(metadata['width'])
  metadata = {
    **metadata,
    'format': FORMAT,
    'fingerprint': _fingerprint(kind, width, arrays),
  }
  data = safetensors_numpy.save(arrays, metadata)
  # safetensors writes the header's entries in any order.
  end = 8 + int.from_bytes(data[:8], 'little')
  header = json.dumps(json.loads(data[8:end]), sort_keys=True).encode()
  header += b' ' * (-len(header) % 8)
  length = len(header).to_bytes(8, 'little')
  jsonl.write_atomically(path, length + header + data[end:])


@functools.lru_cache(maxsize=32)
def _read(path: str, modified: int, size: int) -> QuantizerParams:
  del modified  # A key of the cache: another time means another file.
  if size > _LARGEST:
    raise QuantizerParamsError(
      f'{path}: {size} bytes, a book has less than {_LARGEST}'
    )
  try:
    with safetensors.safe_open(path, framework='numpy') as file:
      metadata = file.metadata() or {}
      arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
  except (safetensors.SafetensorError, OSError, TypeError) as error:
    raise QuantizerParamsError(
      f'{path} is damaged or no safetensors: {error}'
    ) from error
  if metadata.get('format') != FORMAT:
    raise QuantizerParamsError(
      f'{path} is no book: its metadata say format'
      f' {metadata.get("format")!r}, expected {FORMAT!r}'
    )
  kind, width = metadata.get('kind', ''), metadata.get('width', '')
  number = int(width) if width.isdecimal() and len(width) < 8 else 0
  actual = _fingerprint(kind, number, arrays)
  if actual != metadata.get('fingerprint'):
    raise QuantizerParamsError(
      f'{path} is damaged: its fingerprint is {actual}, expected'
      f' {metadata.get("fingerprint")}; get it anew'
    )
  for value in arrays.values():
    value.setflags(write=False)
  return QuantizerParams(
    kind,
    number,
    metadata.get('model', ''),
    metadata.get('split', ''),
    metadata.get(
      'transform',
      UNKNOWN_TRANSFORM if metadata.get('notes.transform') else '',
    ),
    actual,
    arrays,
    {
      k.removeprefix('notes.'): v
      for k, v in metadata.items()
      if k.startswith('notes.')
    },
  )


def _fingerprint(
  kind: str, width: int, arrays: Mapping[str, np.ndarray]
) -> str:
  digest = hashlib.sha256(f'{kind} {width}'.encode())
  for name in sorted(arrays):
    value = arrays[name]
    digest.update(f'{name} {value.dtype} {value.shape}'.encode())
    digest.update(value.tobytes())
  return digest.hexdigest()[:16]


class _Reference(NamedTuple):
  """Parameter file that a quantizer reads.

  Attributes:
    book: Name of the file.
    coordinates: Coordinates of the vectors that the reader gets.
    reads_quantiles: As of the reader.
  """

  book: str
  coordinates: str
  reads_quantiles: bool


def _references(quantizer: Any, coordinates: str = '') -> Iterator[_Reference]:
  """Yields the parameter files that a quantizer and its inner ones read."""
  if not isinstance(quantizer, base.QuantizerLike):
    return
  hooks = base.as_quantizer(quantizer)
  inside = f'{coordinates} {hooks.coordinates()}'.strip()
  for name, value in _settings(quantizer).items():
    if name != 'book':
      yield from _references(value, inside)
    elif value not in ('', RANDOM) and hooks.uses_book:
      yield _Reference(value, coordinates, hooks.reads_quantiles)


def _settings(quantizer: Any) -> dict[str, Any]:
  fields = dataclasses.fields(quantizer)
  return {field.name: getattr(quantizer, field.name) for field in fields}


def names_of(quantizer: base.QuantizerLike) -> list[str]:
  """Returns the names of the parameter files that a quantizer reads.

  Args:
    quantizer: Any quantizer; those of its inner quantizers count too.
  """
  return [reference.book for reference in _references(quantizer)]


def with_default_books(quantizer: Any) -> Any:
  """Returns a quantizer with each `book`, its own and within, at the default.

  It is equal on two ends that keep equal files in different places: the
  contents of the files are in the parameters.

  Args:
    quantizer: Any quantizer.
  """
  defaults = {f.name: f.default for f in dataclasses.fields(quantizer)}
  changes = {}
  for name, value in _settings(quantizer).items():
    if name == 'book' and defaults[name] is not dataclasses.MISSING:
      changes[name] = defaults[name]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
      changes[name] = with_default_books(value)
  return dataclasses.replace(quantizer, **changes)


def check_features(
  quantizer: base.QuantizerLike, features: FeatureSource
) -> dict[str, str]:
  """Checks coordinates, and that the files were trained on these features.

  Args:
    quantizer: Any quantizer.
    features: Origin of the vectors that it is to quantize.

  Returns:
    The fingerprints of its parameter files, by name.

  Raises:
    QuantizerParamsError: As `check_coordinates`, or one was trained on another
      model's features.
  """
  fingerprints = check_coordinates(quantizer)
  for name in fingerprints:
    trained_on = load(name)
    for what in features._fields:
      expected, got = getattr(trained_on, what), getattr(features, what)
      if expected and expected != got:
        raise QuantizerParamsError(
          f'book {name!r} was trained on features of {what} {expected}, these'
          f' are of {what} {got}; train one for them with'
          ' experiments/train_codebook.py.'
        )
  return fingerprints


def check_coordinates(quantizer: base.QuantizerLike) -> dict[str, str]:
  """Checks that each file is for the coordinates in which it is read.

  Codes for a transform's coordinates have the right width outside of it too,
  where they mean nothing. The quantiles of a file of kind 'linear' are those of
  the coordinates that its own transform makes.

  Args:
    quantizer: Any quantizer; `coordinates`, `uses_book` and `reads_quantiles`
      are its hooks.

  Returns:
    The fingerprints of its parameter files, by name.

  Raises:
    QuantizerParamsError: One was trained in other coordinates.
  """
  fingerprints = {}
  for name, actual, reads_quantiles in _references(quantizer):
    book = load(name)
    fingerprints[name] = book.fingerprint
    expected = book.transform
    if reads_quantiles and 'forward' in book.arrays:
      # Whatever the number of axes that the transform keeps.
      expected = f'{expected} {book.fingerprint}'.strip()
      actual = actual.rpartition('/')[0]
      remedy = f'put it within pca(...,book={name})'
    elif expected:
      remedy = f'put it within {book.notes.get("transform")}'
    else:
      remedy = 'take it out of what is around it'
    if expected != actual and not (expected == UNKNOWN_TRANSFORM and actual):
      raise QuantizerParamsError(
        f'book {name!r} is for {_described(expected)}, these are'
        f' {_described(actual)}; {remedy}, or train one for them with'
        ' experiments/train_codebook.py.'
      )
  return fingerprints


def _described(coordinates):
  if not coordinates:
    return 'vectors as they are'
  return f'coordinates of the transform {coordinates}'
