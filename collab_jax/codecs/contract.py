"""Checks of a user's `Codec`: its class, its settings and what it returns.

None of them runs for the codecs of this package.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import inspect
from typing import Any

import numpy as np

from collab_jax import _validate, config, wire

# Keys of records beside the settings, and members that names are made of.
_RESERVED = (
  *('books', 'channel', 'codec', 'name', 'quantizer', 'settings', 'spec'),
  'transport',
)
_KINDS: dict[type, tuple[Callable[[Any], bool], str]] = {
  bool: (lambda value: isinstance(value, bool), 'true or false'),
  int: (_validate.is_integer, 'an integer'),
  float: (_validate.is_number, 'a number'),
  str: (lambda value: isinstance(value, str), 'text'),
}
_CONSTANTS = {
  'True': True,
  'true': True,
  'False': False,
  'false': False,
  'None': None,
}


def path(cls: type) -> str:
  """Returns module and name of a class: 'package.module:Class'."""
  return f'{cls.__module__}:{cls.__qualname__}'


def parameters(cls: Any) -> dict[str, inspect.Parameter]:
  """Returns the arguments behind the model, by name.

  Args:
    cls: The codec's class.

  Raises:
    ValueError: It is no dataclass with the model as its first field, lacks a
      method, or has a field of a reserved name.
  """
  title, decorated = path(cls), dataclasses.is_dataclass(cls)
  if not decorated:
    raise _validate.error(title, cls, 'a dataclass', 'add @dataclass')
  if inspect.isabstract(cls):
    methods = ', '.join(sorted(cls.__abstractmethods__))
    raise ValueError(f'{title}: got no {methods}, expected encode and unpack')
  arguments = dict(inspect.signature(cls).parameters)
  if [*arguments][:1] != ['model']:
    raise _validate.error(
      f'{title}: first field', next(iter(arguments), None), "'model'"
    )
  del arguments['model']
  for name in arguments:
    if name in _RESERVED:
      raise _validate.error(
        f'{title}: field', name, f'a name other than {", ".join(_RESERVED)}'
      )
  return arguments


def convert(parameter: inspect.Parameter, value: Any) -> Any:
  """Returns a setting from text with the type of its field."""
  if _kind(parameter) is str:
    return str(value)
  return _CONSTANTS.get(value, value) if isinstance(value, str) else value


def check_settings(cls: type, items: Mapping[str, Any]) -> None:
  """Checks settings, and that they can be read again from the codec's name.

  Args:
    cls: The codec's class.
    items: Names and values of its settings.

  Raises:
    ValueError: A value is not plain, or not of its field's type.
  """
  for field, parameter in parameters(cls).items():
    default = parameter.default
    value, where = items.get(field, default), f'{field} of {path(cls)}'
    if type(value) is type(default) and value == default:
      continue  # It is left out of the name.
    kind = _kind(parameter)
    is_none = value is None and 'None' in str(parameter.annotation)
    kinds = [_KINDS[kind]] if kind else [*_KINDS.values()]
    if not is_none and not any(is_kind(value) for is_kind, _ in kinds):
      expected = kinds[0][1] if kind else 'a finite number, a bool or text'
      raise _validate.error(where, value, expected)
    if not _is_readable(parameter, value):
      raise _validate.error(
        where,
        value,
        'a value that can be read again from the name',
        'use letters, digits and _',
      )


def _is_readable(parameter: inspect.Parameter, value: Any) -> bool:
  """Returns whether the text of a setting gives its value again."""
  try:
    read = config.call(f'mine:Codec(x={value})', 'codec', '')[1]
  except ValueError:
    return False
  return [*read] == ['x'] and convert(parameter, read['x']) == value


def _kind(parameter: inspect.Parameter) -> type | None:
  """Returns the type of a setting: of its annotation, or of its default."""
  for kind in _KINDS:
    if parameter.annotation in (kind, kind.__name__):
      return kind
  kind = type(parameter.default)
  return kind if kind in _KINDS else None


def guard(cls: Any, sends_pictures: bool) -> None:
  """Lets a class check what its own `encode` and `unpack` return.

  Args:
    cls: The class.
    sends_pictures: Whether `unpack` returns pictures.
  """
  if 'encode' in vars(cls):
    cls.encode = _guarded_encode(cls.encode)
  if 'unpack' in vars(cls):
    cls.unpack = _guarded_unpack(cls.unpack, sends_pictures)


def _guarded_encode(encode: Callable[..., Any]) -> Callable[..., Any]:
  """Returns an `encode` that raises unless it makes a message per picture."""

  @functools.wraps(encode)
  def checked(self, images, *args, **kw):
    messages = encode(self, images, *args, **kw)
    where, count = f'{path(type(self))}.encode', len(images)
    if not isinstance(messages, list | tuple):
      got = _describe(messages)
      raise ValueError(f'{where}: got {got}, expected a list of {count} bytes')
    if len(messages) != count:
      raise ValueError(
        f'{where}: got {len(messages)} messages, expected {count}'
      )
    for message in messages:
      if not isinstance(message, bytes):
        got = _describe(message)
        raise ValueError(f'{where}: got {got}, expected messages of bytes')
    return list(messages)

  return checked


def _guarded_unpack(
  unpack: Callable[..., Any], sends_pictures: bool
) -> Callable[..., Any]:
  """Returns an `unpack` that returns a picture or raises FormatError.

  Another error of it becomes a ValueError that names the codec. Where
  `decode_unpacked` takes something else than pictures, any value is returned.
  """

  @functools.wraps(unpack)
  def checked(self, message):
    where = f'{path(type(self))}.unpack'
    try:
      unpacked = unpack(self, message)
    except wire.FormatError:
      raise
    except (Exception, SystemExit) as error:
      raise ValueError(
        f'{where}: got {error!r}, expected a picture or a FormatError; raise'
        ' collab_jax.wire.FormatError for bytes that are no message'
      ) from error
    if sends_pictures:
      side = self.model.config.vision.image_size
      dtype, shape = (getattr(unpacked, a, None) for a in ('dtype', 'shape'))
      if dtype != np.uint8 or shape != (side, side, 3):
        got = _describe(unpacked)
        raise ValueError(f'{where}: got {got}, expected u8[{side} {side} 3]')
    return unpacked

  return checked


def _describe(value: Any) -> str:
  """Returns dtype and shape of an array, or the type of another value."""
  if hasattr(value, 'dtype') and hasattr(value, 'shape'):
    dtype = 'u8' if value.dtype == np.uint8 else value.dtype
    return f'{dtype}[{" ".join(map(str, value.shape))}]'
  return 'None' if value is None else f'a {type(value).__name__}'
