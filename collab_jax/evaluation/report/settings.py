"""Nested settings of the codec behind a row, and their short text.

Records hold them. Those of records that older versions wrote are made from
their flat settings, where what stands within is text. Nothing here imports what
a record names, so the defaults of classes outside of this package are unknown.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from collab_jax import channels, config, quantizers
from collab_jax.codecs import transports

Settings = Mapping[str, Any]

_TABLES: dict[str, Mapping[str, type]] = {
  'quantizer': quantizers.NAMES,
  'transport': transports.NAMES,
  'channel': channels.NAMES,
}
# Flat settings that are no field of the quantizer.
_CODEC_FIELDS = {'codec', 'split', 'coding', 'books', *_TABLES}
# Fields that hold a quantizer, in classes whose fields are unknown.
_INNER = ('centroids', 'vectors')


def nested(row: Settings) -> Settings:
  """Returns the nested settings of the codec of a row or record.

  {'codec': 'feature', 'split': 'encoder', 'coding': 'fixed', 'quantizer':
  {'quantizer': 'kmeans', 'k': 8, ...}}, of links with 'transport' and
  'channel', which are such dicts too.

  Args:
    row: From `summarize`, or a record.
  """
  return row.get('settings') or _from_flat(row['codec'])


def quantizer(row: Settings) -> Settings | None:
  """Returns the settings of a row's quantizer; None if it has none."""
  return nested(row).get('quantizer')


def without(settings: Settings, field: str) -> dict[str, Any]:
  """Returns settings without a field, at every level."""
  return {
    name: without(value, field) if isinstance(value, Mapping) else value
    for name, value in settings.items()
    if name != field
  }


def relative(settings: Settings, folder: str) -> dict[str, Any]:
  """Returns settings whose paths leave out a folder, at every level."""
  return {
    name: relative(value, folder)
    if isinstance(value, Mapping)
    else value.replace(folder, '')
    if isinstance(value, str)
    else value
    for name, value in settings.items()
  }


def shown(settings: Settings) -> dict[str, Any]:
  """Returns the settings that differ from their defaults.

  Args:
    settings: Of a quantizer, a transport, a channel or a codec. Of classes
      outside of this package all differ.
  """
  kind, title, fields = _split(settings)
  defaults = _defaults(kind, title)
  return {
    name: value
    for name, value in fields.items()
    if name not in defaults or defaults[name] != value
  }


def text(settings: Settings) -> str:
  """Returns the canonical name of what has these settings.

  'merge(k=4,centroids=pca(dims=16))'; fields at their defaults are left out.

  Args:
    settings: As of `shown`.
  """
  parts = [field(*item) for item in shown(settings).items()]
  title = _split(settings)[1]
  return f'{title}({",".join(parts)})' if parts else title


def is_known(settings: Settings) -> bool:
  """Returns whether all classes within are of this package.

  Args:
    settings: Of a quantizer, a transport or a channel.
  """
  kind, title, fields = _split(settings)
  inner = [value for value in fields.values() if isinstance(value, Mapping)]
  return title in _TABLES.get(kind, {}) and all(map(is_known, inner))


def field(name: str, value: Any) -> str:
  """Returns the text of a field, 'bits=4' or 'centroids=scalar(bits=4)'."""
  return f'{name}={text(value) if isinstance(value, Mapping) else value}'


def _split(settings: Settings) -> tuple[str, str, dict[str, Any]]:
  """Returns kind and name of a class, and its fields."""
  kind = next(k for k in ('codec', *_TABLES) if k in settings)
  return kind, settings[kind], {n: v for n, v in settings.items() if n != kind}


@functools.cache
def _defaults(kind: str, title: str) -> dict[str, Any]:
  """Returns the defaults of a class of this package; of others nothing."""
  cls: Any = _TABLES.get(kind, {}).get(title)
  if cls is None:
    return {}
  return {
    field.name: quantizers.settings(field.default)
    if dataclasses.is_dataclass(field.default)
    else field.default
    for field in dataclasses.fields(cls)
  }


def _from_flat(codec: Settings) -> Settings:
  """Returns nested settings, made of those in a record of an older version."""
  links = {
    kind: _parse(kind, codec[kind])
    for kind in ('transport', 'channel')
    if kind in codec
  }
  if codec['codec'] != 'feature':
    return {**codec, **links}
  fields = {n: v for n, v in codec.items() if n not in _CODEC_FIELDS}
  return {
    'codec': 'feature',
    'split': codec.get('split', 'encoder'),
    'coding': codec.get('coding', 'fixed'),
    'quantizer': _build('quantizer', codec.get('quantizer', ''), fields),
    **links,
  }


def _parse(kind: str, name: str) -> dict[str, Any]:
  """Reads a canonical name; one that is none is a class without fields."""
  try:
    title, fields = config.call(name, kind, 'kmeans(k=8)')
  except ValueError:
    title, fields = name, {}
  return _build(kind, title, fields)


def _build(kind: str, title: str, fields: Settings) -> dict[str, Any]:
  """Returns the settings of a class, with the defaults that are known."""
  known = {
    name: value
    for name, value in _defaults(kind, title).items()
    if name in fields or value is not dataclasses.MISSING
  }
  values = {
    name: _value(kind, name, value, known.get(name))
    for name, value in fields.items()
  }
  return {kind: title, **known, **values}


def _value(kind: str, name: str, value: Any, default: Any) -> Any:
  """Returns the value of a field, of which names hold the text."""
  if not isinstance(value, str):
    return value
  if isinstance(default, bool) or value == 'None':
    return {'True': True, 'False': False, 'None': None}.get(value, value)
  if isinstance(default, Mapping) or name in _INNER or value.endswith(')'):
    return _parse(kind, value)
  return value
