"""What both ends have to agree on, as JSON."""

import base64
import binascii
from collections.abc import Mapping
import hashlib
import json
from typing import Any
import zlib

import numpy as np

from collab_jax import message as messages
from collab_jax.wire import fields as declared
from collab_jax.wire import layers

_FORMAT = 'collab_jax.wire'
CODINGS = ('best', 'fixed')


def check_coding(coding: str) -> None:
  """Raises ValueError unless there is a coding of that name."""
  if coding not in CODINGS:
    raise ValueError(f'coding: got {coding!r}, expected one of {CODINGS}')


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
    raise ValueError(f'spec: expected plain values, {error}.') from error
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
    text: What `Session.to_json` returned, or anything.
    limit: The most bytes that a message's arrays may take, and the most that
      all tables in the text may, at 8 bytes a frequency.

  Returns:
    'fields' as `Symbols` and `Values` by name, 'priors' (those tables that it
    holds), 'spec', 'coding', 'digest' (None without one), and 'described'.

  Raises:
    FormatError: It describes no session of this version.
  """
  try:
    plain = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise declared.FormatError(f'No JSON of a session: {error}.') from error
  if not isinstance(plain, dict) or plain.get('format') != _FORMAT:
    raise declared.FormatError('This JSON describes no session.')
  if plain.get('version') != layers.VERSION:
    raise declared.FormatError(
      f'The session is of version {plain.get("version")}, expected '
      f'{layers.VERSION}.'
    )
  try:
    fields = {}
    for entry in plain['fields']:
      name, field = _field(entry)
      if name in fields:
        raise ValueError(f'field {name!r} is there twice')
      fields[name] = field
    declared.check(fields)
    size = 4 * sum(declared.count(field) for field in fields.values())
    if size > limit:
      raise ValueError(f'messages of {size} bytes, expected {limit} at most')
    tables = {n: e for n, e in plain['priors'].items() if 'table' in e}
    size = 8 * sum(_entries(e, fields[n]) for n, e in tables.items())
    if size > limit:
      raise ValueError(f'tables of {size} bytes, expected {limit} at most')
    priors = {n: _table(e, fields[n]) for n, e in tables.items()}
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
      f'The JSON of a session is damaged: {type(error).__name__}: {error}.'
    ) from error
  return {
    'fields': fields,
    'priors': priors,
    'spec': spec,
    'coding': coding,
    'digest': plain.get('digest'),
    'described': described,
  }


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
  """Returns a line for each value that two described sessions differ in."""
  ours, theirs = _flat(here), _flat(there)
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
  """Turns a list of objects into one, if all have names of their own."""
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


def _field(entry):
  name, kind, layer = entry['name'], entry['kind'], entry['layer']
  if not isinstance(name, str):
    raise ValueError(f'a field is called {name!r}')
  shape = tuple(entry['shape'])
  if kind == 'symbols':
    rows = entry.get('rows', '')
    if not isinstance(rows, str):
      raise ValueError(f'the rows of {name!r} are told by {rows!r}')
    return name, messages.Symbols(entry['alphabet'], shape, layer, rows)
  if kind == 'values' and isinstance(entry['dtype'], str):
    return name, messages.Values(entry['dtype'], shape, layer)
  raise ValueError(f'field {name!r} is of the kind {kind!r}')


def _bytes(table):
  """The frequencies less one, which fit 16 bits, row by row."""
  return (table - 1).astype('<u2').tobytes()


def _entries(entry, field):
  """How many frequencies a table has."""
  rows = entry['rows']
  if rows not in (1, *field.shape[-1:]):
    raise ValueError(f'a table has {rows} rows')
  return rows * field.alphabet


def _table(entry, field):
  """Unpacks a table, of no more bytes than its shape says."""
  rows, size = entry['rows'], 2 * _entries(entry, field)
  packed = base64.b64decode(entry['table'], validate=True)
  # As much again is allowed, so that a table that is too long is told.
  data = zlib.decompressobj().decompress(packed, size + 1)
  if len(data) != size:
    raise ValueError(f'a table does not have {size} bytes')
  if hashlib.sha256(data).hexdigest() != entry['sha256']:
    raise ValueError('a table does not have its SHA-256')
  table = np.frombuffer(data, '<u2').reshape(rows, field.alphabet)
  return table.astype(np.int64) + 1
