"""Sessions as JSON: writing, parsing and comparing their descriptions."""

import base64
import binascii
from collections.abc import Mapping
import hashlib
import json
from typing import Any
import zlib

import numpy as np

from collab_jax import _validate
from collab_jax import message as messages
from collab_jax.wire import fields as declared
from collab_jax.wire import layers

_FORMAT = 'collab_jax.wire'
CODINGS = ('best', 'fixed')


def check_coding(coding: str) -> None:
  """Raises ValueError unless there is a coding of that name."""
  _validate.choice('coding', coding, CODINGS)


def describe(
  fields: declared.Fields,
  priors: Mapping[str, np.ndarray],
  spec: Mapping[str, Any],
  coding: str,
) -> dict[str, Any]:
  """Returns a session as plain values.

  Raises:
    ValueError: The spec cannot be written as JSON.
  """
  try:
    spec = json.loads(json.dumps(spec, allow_nan=False))
  except (TypeError, ValueError, RecursionError) as error:
    raise ValueError(f'spec: expected plain values: {error}') from error
  return {
    'format': _FORMAT,
    'version': layers.VERSION,
    'coding': coding,
    'fields': [_plain(name, field) for name, field in fields.items()],
    'priors': {
      name: {
        'rows': len(table),
        'sha256': hashlib.sha256(_bytes(table)).hexdigest(),
      }
      for name, table in priors.items()
    },
    'spec': spec,
  }


def digest(described: Mapping[str, Any]) -> bytes:
  """Returns SHA-256 of the canonical JSON: sorted keys, no spaces, ASCII."""
  text = json.dumps(
    described, sort_keys=True, separators=(',', ':'), allow_nan=False
  )
  return hashlib.sha256(text.encode('ascii')).digest()


def with_tables(
  described: Mapping[str, Any], priors: Mapping[str, np.ndarray]
) -> dict[str, Any]:
  """Adds the frequencies themselves."""
  full = {
    name: {
      **described['priors'][name],
      'table': base64.b64encode(zlib.compress(_bytes(table), 9)).decode(),
    }
    for name, table in priors.items()
  }
  return {**described, 'priors': full}


def parse(text: str | bytes, limit: int = 1 << 28) -> dict[str, Any]:
  """Reads a session's JSON, and checks its form.

  Args:
    text: JSON that `Session.to_json` returned, or any other text.
    limit: The most bytes that a message's arrays may take, and the most that
      all tables in the text may, at 8 bytes a frequency.

  Returns:
    'fields' as `Symbols` and `Values` by name, 'priors' (the tables in the
    text), 'spec', 'coding', 'digest' (None without one), and 'described'.

  Raises:
    FormatError: The text describes no session of this version.
  """
  try:
    plain = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise declared.FormatError(f'session JSON: {error}') from error
  if not isinstance(plain, dict) or plain.get('format') != _FORMAT:
    raise declared.FormatError(
      f'session JSON: expected an object with the format {_FORMAT!r}'
    )
  if plain.get('version') != layers.VERSION:
    raise declared.FormatError(
      f'session JSON: got version {plain.get("version")}, expected'
      f' {layers.VERSION}'
    )
  try:
    fields = _fields(plain['fields'], limit)
    priors = _tables(plain['priors'], fields, limit)
    known = {'format', 'version', 'coding', 'fields', 'priors', 'spec'}
    described = {key: plain[key] for key in known}
    described['priors'] = {
      name: {key: entry[key] for key in ('rows', 'sha256')}
      for name, entry in plain['priors'].items()
    }
    digest(described)  # NaN, for one, is no JSON.
    coding, spec = plain['coding'], plain['spec']
  except (
    *(KeyError, TypeError, ValueError, AttributeError, RecursionError),
    *(OverflowError, zlib.error, binascii.Error),
  ) as error:
    raise declared.FormatError(
      f'session JSON: it is damaged: {type(error).__name__}: {error}'
    ) from error
  return {
    'fields': fields,
    'priors': priors,
    'spec': spec,
    'coding': coding,
    'digest': plain.get('digest'),
    'described': described,
  }


def differences(
  ours: Mapping[str, Any], theirs: Mapping[str, Any]
) -> list[str]:
  """Returns a line for each value that two described sessions differ in."""
  ours, theirs = _flat(ours), _flat(theirs)
  nothing = 'nothing'
  return [
    f'{key}: here {ours.get(key, nothing)}, there {theirs.get(key, nothing)}'
    for key in sorted(ours.keys() | theirs.keys())
    if ours.get(key) != theirs.get(key)
  ]


def _flat(value, prefix=''):
  named = _by_name(value)
  if named:
    return {f'{prefix}order': json.dumps(list(named))} | _flat(named, prefix)
  if not isinstance(value, Mapping):
    return {prefix.removesuffix('.'): json.dumps(value, sort_keys=True)}
  flat = {}
  for key, inner in value.items():
    flat |= _flat(inner, f'{prefix}{key}.')
  return flat


def _by_name(value):
  """Turns a list of objects into a dict, if their names are distinct."""
  if not isinstance(value, list):
    return {}
  named = [v for v in value if isinstance(v, dict)]
  names = [v['name'] for v in named if isinstance(v.get('name'), str)]
  if not len(value) == len(names) == len(set(names)):
    return {}
  return dict(zip(names, named, strict=True))


def _plain(name, field):
  kind = (
    {'kind': 'symbols', 'alphabet': field.alphabet}
    if isinstance(field, messages.Symbols)
    else {'kind': 'values', 'dtype': field.dtype}
  )
  plain = {'name': name, **kind, 'shape': [*field.shape], 'layer': field.layer}
  rows = getattr(field, 'rows', '')
  return {**plain, 'rows': rows} if rows else plain


def _fields(entries, limit):
  """Reads the fields, whose arrays may take `limit` bytes."""
  fields = {}
  for entry in entries:
    name, field = _field(entry)
    if name in fields:
      raise ValueError(f'field {name!r}: got two of this name')
    fields[name] = field
  declared.check(fields)
  size = 4 * sum(declared.count(field) for field in fields.values())
  if size > limit:
    raise ValueError(f'messages: got {size} bytes, expected at most {limit}')
  return fields


def _tables(priors, fields, limit):
  """Reads the tables in a session's priors, of at most `limit` bytes."""
  tables = {n: entry for n, entry in priors.items() if 'table' in entry}
  size = 8 * sum(_size(entry, fields[n]) for n, entry in tables.items())
  if size > limit:
    raise ValueError(f'tables: got {size} bytes, expected at most {limit}')
  return {n: _table(entry, fields[n]) for n, entry in tables.items()}


def _field(entry):
  name, kind, layer = entry['name'], entry['kind'], entry['layer']
  if not isinstance(name, str):
    raise _validate.error('field: name', name, 'a string')
  shape = tuple(entry['shape'])
  if kind == 'symbols':
    rows = entry.get('rows', '')
    if not isinstance(rows, str):
      raise _validate.error(f'field {name!r}: rows', rows, 'a string')
    return name, messages.Symbols(entry['alphabet'], shape, layer, rows)
  if kind == 'values' and isinstance(entry['dtype'], str):
    return name, messages.Values(entry['dtype'], shape, layer)
  raise _validate.error(f'field {name!r}: kind', kind, 'symbols or values')


def _bytes(table):
  """Returns the frequencies less one, which fit 16 bits, row by row."""
  return (table - 1).astype('<u2').tobytes()


def _size(entry, field):
  """Returns the number of frequencies in a table."""
  rows = entry['rows']
  if rows not in (1, *field.shape[-1:]):
    raise _validate.error('table: rows', rows, '1 or those of the field')
  return rows * field.alphabet


def _table(entry, field):
  """Unpacks a table, of no more bytes than its shape says."""
  rows, size = entry['rows'], 2 * _size(entry, field)
  packed = base64.b64decode(entry['table'], validate=True)
  # One byte more than expected shows that a table is too long.
  data = zlib.decompressobj().decompress(packed, size + 1)
  if len(data) != size:
    raise ValueError(f'table: got other than {size} bytes')
  if hashlib.sha256(data).hexdigest() != entry['sha256']:
    raise ValueError('table: its SHA-256 is wrong')
  table = np.frombuffer(data, '<u2').reshape(rows, field.alphabet)
  return table.astype(np.int64) + 1
