"""Files of records: JSON lines, resumed after a kill, refused if mixed."""

from collections.abc import Iterable, Mapping, Sequence
import json
import os
from pathlib import Path
from typing import Any

from collab_jax import jsonl
from collab_jax.evaluation import schema

# Settings that files of earlier versions lack. They resume if these are as they
# were then; where that is None, nothing is known.
_ADDED = {
  'model.dtype': None,
  'model.compute_dtype': 'float32',
  'precision': 'default',
  'platform': None,
}

Record = schema.Record
Key = tuple[int, str, int]


def key_of(record: Record) -> Key:
  """Returns the key of a record: image, codec and seed."""
  return record['image_id'], record['name'], record['seed']


def read_records(*paths: str | os.PathLike[str]) -> list[Record]:
  """Reads files of records; drops a torn last line, left by a kill.

  Args:
    *paths: JSONL files written by `evaluate`.

  Returns:
    The records, in the files' order.

  Raises:
    ValueError: A line is no record, or contradicts an earlier one; the message
      tells the file, the line and the field.
  """
  records = []
  known: schema.Known = {}
  for path in map(Path, paths):
    lines, _ = jsonl.split_lines(path.read_bytes())
    records += _parse(path, lines, known)
  return records


def _parse(
  path: Path, lines: Sequence[bytes], known: schema.Known
) -> list[Record]:
  """Parses and checks a record from each line."""
  records = []
  shared: dict[str, Any] = {}
  for number, line in enumerate(lines, 1):
    where = f'{path}:{number}'
    try:
      record = json.loads(line)
      schema.check(record)
    except (ValueError, ArithmeticError, RecursionError) as error:
      raise ValueError(
        f'{where} is no record of an evaluation: {error}; move the file away,'
        ' or repair it'
      ) from error
    # Thousands of records repeat the same few lists and names.
    for field in record.keys() & {'references', 'codec', 'settings'}:
      text = repr(record[field])
      record[field] = shared.setdefault(text, record[field])
    schema.agree(record, where, known)
    records.append(record)
  return records


def _flat(settings: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  flat = {}
  for name, value in settings.items():
    if isinstance(value, Mapping):
      flat |= _flat(value, f'{prefix}{name}.')
    else:
      flat[f'{prefix}{name}'] = value
  return flat


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  old, new = _flat(old), _flat(new)
  for name, before in _ADDED.items():
    if name in new:
      old.setdefault(name, new[name] if before is None else before)
  if 'platform' not in new:
    # This run's precision or dtype then differs from the file's: enough to say.
    old.pop('platform', None)
  return [
    f'{name}: the file has {old.get(name)!r}, this run {new.get(name)!r}'
    for name in sorted(old.keys() | new.keys())
    if old.get(name) != new.get(name)
  ]


class SettingsError(ValueError):
  """A file of records was made with other settings."""


class RecordStore:
  """Appends records to a file and holds those already in it.

  The settings that all records share (model, data, decoding) lie beside the
  file, in `<name>.settings.json`.

  Attributes:
    records: Records in the file when it was opened, by key.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    settings: Mapping[str, Any],
    codecs: Mapping[str, Mapping[str, Any]],
  ):
    """Opens or makes a file; cuts off an incomplete last line.

    Args:
      path: The JSONL file.
      settings: Plain values that all records depend on.
      codecs: Settings of each codec by name.

    Raises:
      SettingsError: The file was made with other settings.
      ValueError: A line of the file is no record.
      BlockingIOError: Another run is writing to the file.
    """

    def parse(path: Path, lines: list[bytes]) -> dict[Key, Record]:
      return _read_matching(path, lines, settings, codecs)

    self._writer = jsonl.JsonlWriter(path, parse)
    self.records = self._writer.objects

  def append(self, records: Iterable[Record]):
    """Writes records out to the operating system."""
    self._writer.append(*records)

  def sync(self):
    """Flushes the records to disk, so that they survive a power cut."""
    self._writer.sync()

  def __enter__(self) -> 'RecordStore':
    """Returns the store."""
    return self

  def __exit__(self, *unused):
    """Closes the file and releases its lock."""
    self._writer.close()


def _read_sidecar(path: Path) -> dict[str, Any]:
  """Reads the settings of a file of records.

  Raises:
    SettingsError: The file is damaged, or holds something else.
  """
  try:
    return jsonl.read_settings(path)
  except ValueError as error:
    raise SettingsError(str(error)) from error


def _read_matching(
  path: Path,
  lines: list[bytes],
  settings: Mapping[str, Any],
  codecs: Mapping[str, Mapping[str, Any]],
) -> dict[Key, Record]:
  """Returns the records by key; refuses those of other settings."""
  sidecar = path.with_suffix('.settings.json')
  settings = json.loads(json.dumps(settings))
  if not path.stat().st_size:
    text = json.dumps(settings, indent=2, sort_keys=True)
    jsonl.write_atomically(sidecar, text + '\n')
    return {}
  records = _parse(path, lines, {})
  if not sidecar.exists():
    raise SettingsError(
      f'{path} holds records, but {sidecar.name}, which tells how they'
      ' were made, is missing; choose another file'
    )
  differ = _differences(_read_sidecar(sidecar), settings)
  for name in sorted({r['name'] for r in records} & codecs.keys()):
    new = json.loads(json.dumps(codecs[name]))
    old = {str(r['codec']): r['codec'] for r in records if r['name'] == name}
    for codec in old.values():
      differ += [f'{name} {line}' for line in _differences(codec, new)]
  if differ:
    raise SettingsError(
      f'{path} was made with other settings; choose another file (or'
      ' workdir), or remove it:\n  ' + '\n  '.join(differ)
    )
  return {key_of(record): record for record in records}
