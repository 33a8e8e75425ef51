"""Schema of records: their fields, and checks of records that were read."""

from collections.abc import Callable
import json
from typing import Any

from collab_jax import _validate

Record = dict[str, Any]
# The first record of each name, model and data, and its file and line.
Known = dict[tuple[str, Any, Any], tuple[Record, str]]
# The decoding of records without the field, which older versions wrote.
DECODING = 'greedy'


def _is_text(value: Any) -> bool:
  return isinstance(value, str)


def _is_count(value: Any) -> bool:
  return _validate.is_integer(value) and value >= 0


def _is_texts(value: Any) -> bool:
  return isinstance(value, list) and bool(value) and all(map(_is_text, value))


def _is_codec(value: Any) -> bool:
  return isinstance(value, dict) and _is_text(value.get('codec'))


def _are_numbers(value: Any) -> bool:
  return isinstance(value, dict) and all(
    v is None or _validate.is_number(v) for v in value.values()
  )


# Required fields.
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
  'image_id': (_validate.is_integer, 'an integer'),
  'name': (_is_text, 'a text'),
  'seed': (_validate.is_integer, 'an integer'),
  'codec': (_is_codec, "an object with the text 'codec'"),
  'caption': (_is_text, 'a text'),
  'references': (_is_texts, 'a list of one or more texts'),
  'sent': (_is_count, 'an integer of at least 0'),
  'vectors': (
    lambda v: _validate.is_integer(v) and v > 0,
    'an integer of at least 1',
  ),
  'ratio': (_validate.is_number, 'a number'),
  'bytes': (_are_numbers, 'an object of numbers'),
  'total_bytes': (_is_count, 'an integer of at least 0'),
  'distortion': (
    lambda v: v is None or _validate.is_number(v),
    'a number or null',
  ),
  'seconds': (_are_numbers, 'an object of numbers'),
}
# Optional fields; null is the same as no field.
_OPTIONAL = {
  'model': (_is_text, 'a text'),
  'data': (_is_text, 'a text'),
  'decoding': (_is_text, 'a text'),
  'settings': (_is_codec, "an object with the text 'codec'"),
  'slots': (_are_numbers, 'an object of numbers'),
  'link': (_are_numbers, 'an object of numbers'),
}


def check(record: Any) -> None:
  """Raises ValueError unless a value is a record; the error names the field.

  Args:
    record: A parsed line.
  """
  if not isinstance(record, dict):
    raise ValueError(f'got {_short(record)}, expected an object')
  for field, (fits, expected) in _FIELDS.items():
    if field not in record:
      raise ValueError(f'it lacks the field {field!r} ({expected})')
    if not fits(record[field]):
      got = _short(record[field])
      raise ValueError(f'{field}: got {got}, expected {expected}')
  for field, (fits, expected) in _OPTIONAL.items():
    if record.get(field) is not None and not fits(record[field]):
      got = _short(record[field])
      raise ValueError(f'{field}: got {got}, expected {expected} or null')
  share = record['sent'] / record['vectors']
  if share > 1 or abs(record['ratio'] - share) > 1e-6:
    raise ValueError(
      f'ratio: got {record["ratio"]}, expected sent / vectors ='
      f' {record["sent"]} / {record["vectors"]}, at most 1'
    )


def _short(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= 60 else f'{text[:57]}...'


def agree(record: Record, where: str, known: Known) -> None:
  """Raises ValueError if an earlier record of the name has other settings.

  Args:
    record: A record that passed `check`.
    where: Its file and line.
    known: The first record of each name, to which this may be added.
  """
  of = record['name'], record.get('model'), record.get('data')
  first, place = known.setdefault(of, (record, where))
  for field in ('codec', 'sent', 'vectors', 'decoding'):
    got, expected = (r.get(field, DECODING) for r in (record, first))
    if got != expected:
      raise ValueError(
        f'{where}: {field} of {record["name"]!r}: got {json.dumps(got)},'
        f' expected {json.dumps(expected)} as in {place}; records of one name'
        ' are made by one codec and decoding: read the files apart, or remove'
        ' one of them'
      )
