"""Schema of records: their fields, and checks of records that were read."""

from collections.abc import Callable
import json
import sys
from typing import Any

from collab_jax import _validate

Record = dict[str, Any]
# The first record of each name, model and data, and of each picture, and its
# file and line.
Known = dict[tuple[Any, ...], tuple[Record, str]]
# The decoding of records without the field, which older versions wrote.
DECODING = 'greedy'


def _is_text(value: Any) -> bool:
  return isinstance(value, str)


def _is_count(value: Any) -> bool:
  return _validate.is_integer(value) and _is_number(value) and value >= 0


def _is_number(value: Any) -> bool:
  # Integers beyond all floats have no mean.
  return _validate.is_number(value) and abs(value) <= sys.float_info.max


def _is_texts(value: Any) -> bool:
  return isinstance(value, list) and all(map(_is_text, value))


def _is_codec(value: Any) -> bool:
  return isinstance(value, dict) and _is_text(value.get('codec'))


def _are_numbers(value: Any) -> bool:
  return isinstance(value, dict) and all(
    v is None or _is_number(v) for v in value.values()
  )


# Required fields.
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
  'image_id': (_validate.is_integer, 'an integer'),
  'name': (_is_text, 'a text'),
  'seed': (_validate.is_integer, 'an integer'),
  'codec': (_is_codec, "an object with the text 'codec'"),
  'caption': (_is_text, 'a text'),
  # Empty of pictures without captions, which are not scored.
  'references': (_is_texts, 'a list of texts'),
  'sent': (_is_count, 'an integer of at least 0'),
  'vectors': (
    lambda v: _validate.is_integer(v) and v > 0,
    'an integer of at least 1',
  ),
  'ratio': (_is_number, 'a number'),
  'bytes': (_are_numbers, 'an object of numbers'),
  'total_bytes': (_is_count, 'an integer of at least 0'),
  'distortion': (
    lambda v: v is None or _is_number(v),
    'a number or null',
  ),
  'seconds': (_are_numbers, 'an object of numbers'),
}
# Optional fields; null is the same as no field.
_OPTIONAL = {
  'model': (_is_text, 'a text'),
  'data': (_is_text, 'a text'),
  'decoding': (_is_text, 'a text'),
  'run': (_is_text, 'a text'),
  'pixels': (_is_text, 'a text'),
  'file': (_is_text, 'a text'),
  'settings': (_is_codec, "an object with the text 'codec'"),
  'slots': (_are_numbers, 'an object of numbers'),
  'link': (_are_numbers, 'an object of numbers'),
  'unlike': (lambda value: isinstance(value, bool), 'true or false'),
  # Of answers to questions only.
  'task': (_is_text, 'a text'),
  'question': (_is_text, 'a text'),
  'kind': (_is_text, 'a text'),
  'prompt': (_is_text, 'a text'),
  'answer': (_is_text, 'a text'),
  'questions': (
    lambda v: _validate.is_integer(v) and v > 0,
    'an integer of at least 1',
  ),
  'question_bytes': (_is_number, 'a number'),
  'scores': (_are_numbers, 'an object of numbers'),
}
# Fields that records of a question have all of.
_OF_QUESTIONS = 'question', 'answer', 'prompt', 'questions'


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
  given = [n for n in _OF_QUESTIONS if record.get(n) is not None]
  missing = [n for n in _OF_QUESTIONS if n not in given]
  if given and missing:
    raise ValueError(
      f'it lacks the field {missing[0]!r}, which records with {given[0]!r} have'
    )
  share = record['sent'] / record['vectors']
  if share > 1 or abs(record['ratio'] - share) > 1e-6:
    raise ValueError(
      f'ratio: got {record["ratio"]}, expected sent / vectors ='
      f' {record["sent"]} / {record["vectors"]}, at most 1'
    )


def _short(value: Any) -> str:
  text = json.dumps(value)
  return text if len(text) <= 60 else f'{text[:57]}...'


def agree(
  record: Record,
  where: str,
  known: Known,
  explain: Callable[[str, str], str] = lambda where, place: '',
) -> None:
  """Raises ValueError if an earlier record contradicts one.

  Records of one name, model and data are of one codec and one run, those of one
  picture are of the same pixels, and of the same references; of a task, those
  of one question.

  Args:
    record: A record that passed `check`.
    where: Its file and line.
    known: The first record of each name, to which this may be added.
    explain: Tells how the runs of two files differ, given their lines.
  """
  of = record.get('model'), record.get('data')
  first, place = known.setdefault((record['name'], *of), (record, where))
  for field in ('codec', 'sent', 'vectors', 'decoding'):
    got, expected = (r.get(field, DECODING) for r in (record, first))
    if got != expected:
      raise ValueError(
        f'{where}: {field} of {record["name"]!r}: got {json.dumps(got)},'
        f' expected {json.dumps(expected)} as in {place}; records of one name'
        ' are made by one codec and decoding: read the files apart, or remove'
        ' one of them'
      )
  _check_same_run(record, where, known, explain)
  _check_same_picture(record, where, known, of)


def _check_same_picture(record, where, known, of) -> None:
  """Raises ValueError if records of one picture or question contradict."""
  image, question = record['image_id'], record.get('question')
  first, place = known.setdefault((image, *of), (record, where))
  fields, texts = ('pixels', 'references'), 'captions'
  title = f'picture {image}'
  if question is not None:
    fields, texts = ('prompt', 'kind', 'references'), 'questions'
    _require_same(record, first, ('pixels', 'questions'), where, place, title)
    key = ('question', image, question, *of)
    first, place = known.setdefault(key, (record, where))
    title = f'{title}, question {json.dumps(question)}'
  _require_same(record, first, fields, where, place, title, texts)


def _require_same(
  record, first, fields, where, place, title, texts='questions'
) -> None:
  """Raises ValueError if two records differ in one of some fields."""
  for field in fields:
    if _differ(record, first, field):
      raise ValueError(
        f'{where}: {title}: got other {field} than in {place}; the files are of'
        f' other pictures or {texts}: read them apart, or remove one of them'
      )


def _check_same_run(record, where, known, explain) -> None:
  """Raises ValueError if records of one model and data are of two runs."""
  if record.get('run') is None:
    return  # Of an older version: nothing is known.
  of = 'run', record.get('model'), record.get('data')
  first, place = known.setdefault(of, (record, where))
  if _differ(record, first, 'run'):
    raise ValueError(
      f'{where}: run: got {record["run"]}, expected {first["run"]} as in'
      f' {place}; the records were made with other settings'
      f'{explain(where, place)}: read the files apart, or remove one of them'
    )


def _differ(record: Record, other: Record, field: str) -> bool:
  """Whether two records have a field and do not agree in it."""
  values = record.get(field), other.get(field)
  return None not in values and values[0] != values[1]
