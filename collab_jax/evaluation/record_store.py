"""Files of records: JSON lines, resumed after a kill, refused if mixed."""

import collections
from collections.abc import Iterable, Mapping, Sequence
import json
import logging
import os
from pathlib import Path
from typing import Any

import tqdm

from collab_jax import _validate, jsonl
from collab_jax import data as datasets
from collab_jax.data import pixels
from collab_jax.evaluation import identity, schema

_LOG = logging.getLogger(__name__)
_SHOWN = 5  # Pictures in a message.

# Settings that files of earlier versions lack. They resume if these are as they
# were then; where that is None, nothing is known.
ADDED = {
  'model.dtype': None,
  'model.compute_dtype': 'float32',
  'precision': 'default',
  'platform': None,
  'model.config': None,
  'model.contents': None,
  'model.tokenizer': None,
  'random.jax_enable_x64': False,
  'random.jax_random_seed_offset': 0,
  'random.jax_threefry_partitionable': True,
}

Record = schema.Record
Key = tuple[int, str, int] | tuple[int, str, int, str]


def key_of(record: Mapping[str, Any]) -> Key:
  """Returns the key of a record: image, codec, seed and question, if any."""
  question = record.get('question')
  return key(record['image_id'], record['name'], record['seed'], question)


def key(image_id: int, name: str, seed: int, question: str | None) -> Key:
  """Returns the key of a text: of an answer with the id of its question."""
  if question is None:
    return image_id, name, seed
  return image_id, name, seed, question


def count_pictures(
  records: Iterable[Mapping[str, Any]],
) -> collections.Counter[tuple[str, int]]:
  """Counts the pictures by codec and seed whose texts are all there."""
  texts: dict[tuple[str, int], collections.Counter[int]] = {}
  wanted: dict[int, int] = {}
  for record in records:
    image = record['image_id']
    group = texts.setdefault(
      (record['name'], record['seed']), collections.Counter()
    )
    group[image] += 1
    wanted[image] = record.get('questions') or 1
  return collections.Counter(
    {
      key: sum(count >= wanted[image] for image, count in group.items())
      for key, group in texts.items()
    }
  )


def record_files(path: str | os.PathLike[str]) -> list[Path]:
  """Returns the files of records that a path names.

  Args:
    path: A file, or the folder of a run: its records.jsonl, else the files of
      its sweep in units/, else its own files.

  Raises:
    ValueError: The folder holds no records.
  """
  path = Path(path)
  if not path.is_dir():
    return [path]
  for pattern in ('records.jsonl', 'units/*.jsonl', '*.jsonl'):
    if files := sorted(path.glob(pattern)):
      return files
  raise _validate.error(
    'records',
    str(path),
    'a folder with records.jsonl, units/*.jsonl or other files of records',
    'name the folder of an evaluation',
  )


def read_records(*paths: str | os.PathLike[str]) -> list[Record]:
  """Reads files of records; drops a torn last line, left by a kill.

  Args:
    *paths: JSONL files written by `evaluate`, or folders of runs, see
      `record_files`.

  Returns:
    The records, in the files' order.

  Raises:
    ValueError: A line is no record, or contradicts an earlier one; the message
      tells the file, the line and the field. Or a folder holds no records.
  """
  records = []
  known: schema.Known = {}
  for named in paths:
    if not isinstance(named, str | os.PathLike):
      raise TypeError(
        f'paths: got a {type(named).__name__}, expected paths; write'
        ' read_records(*paths)'
      )
  for path in (file for named in paths for file in record_files(named)):
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
    schema.agree(record, where, known, _explain)
    records.append(record)
  return records


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """Returns a line for each setting that differs, but names and places."""
  old, new = identity.flat(old), identity.flat(new)
  for name, before in ADDED.items():
    if name in new:
      old.setdefault(name, new[name] if before is None else before)
  if 'platform' not in new:
    # This run's precision or dtype then differs from the file's: enough to say.
    old.pop('platform', None)
  return [
    f'{name}: the file has {old.get(name)!r}, this run {new.get(name)!r}'
    for name in sorted(old.keys() | new.keys())
    if old.get(name) != new.get(name) and not identity.is_name(name)
  ]


def settings_file(path: Path) -> Path:
  """Returns the file of the settings beside a file of records."""
  return path.with_suffix('.settings.json')


def read_settings(path: Path) -> dict[str, Any]:
  """Reads the settings beside a file of records.

  Raises:
    SettingsError: They are missing or damaged.
  """
  sidecar = settings_file(path)
  if not sidecar.exists():
    raise SettingsError(
      f'{path} holds records, but {sidecar.name}, which tells how they'
      ' were made, is missing; choose another file'
    )
  try:
    return jsonl.read_settings(sidecar)
  except ValueError as error:
    raise SettingsError(str(error)) from error


def check_settings(path: Path, settings: Mapping[str, Any]) -> None:
  """Raises SettingsError if records were made with other settings.

  Args:
    path: File of the records, which are not read.
    settings: From `identity.settings`.
  """
  settings = json.loads(json.dumps(settings))
  if differ := _differences(read_settings(path), settings):
    raise _other_settings(path, differ)


def _other_settings(path: Path, differ: Iterable[str]) -> 'SettingsError':
  return SettingsError(
    f'{path} was made with other settings; choose another file (or workdir), or'
    ' remove it:\n  ' + '\n  '.join(differ)
  )


def _explain(where: str, place: str) -> str:
  """Tells how the settings of two files of records differ, where it is known.

  Args:
    where: A file and a line, 'records.jsonl:3'.
    place: Another one.
  """
  try:
    new, old = (
      read_settings(Path(line.rpartition(':')[0])) for line in (where, place)
    )
  except (SettingsError, OSError):
    return ''
  old, new = identity.flat(old), identity.flat(new)
  differ = [
    f'{name} {new.get(name)!r} instead of {old.get(name)!r}'
    for name in sorted(old.keys() | new.keys())
    if old.get(name) != new.get(name) and not identity.is_name(name)
  ]
  return f' ({", ".join(differ)})' if differ else ''


def _compare(
  known: Mapping[int, Mapping[str, Record]],
  examples: Iterable[datasets.Example],
  progress: bool,
) -> tuple[int, list[str]]:
  """Returns how many pictures have records, and those that are not the same.

  Args:
    known: Records with the fingerprint of their picture, by the picture's id
      and the question's, '' of captions.
    examples: The pictures.
    progress: Show a bar.
  """
  compared, differ = 0, []
  bar = tqdm.tqdm(
    examples,
    unit=' pictures',
    desc='comparing pictures',
    disable=not progress or not known,
    leave=False,
    dynamic_ncols=True,
  )
  for example in bar:
    if (records := known.get(example.image_id)) is None:
      continue
    compared += 1
    if not _has_texts(example, records):
      what = 'captions' if '' in records else 'questions'
      differ.append(f'picture {example.image_id}: other {what}')
    elif _pixels(records) != {pixels.fingerprint(example.image)}:
      differ.append(f'picture {example.image_id}: other pixels')
  return compared, differ


def _has_texts(
  example: datasets.Example, records: Mapping[str, Record]
) -> bool:
  """Whether references and prompts of records are those of a picture."""
  if '' in records:
    return records['']['references'] == list(example.captions)
  asked = {q.id: (q.prompt, list(q.references)) for q in example.questions}
  return all(
    asked.get(name) == (record.get('prompt'), record['references'])
    and record.get('questions') == len(asked)
    for name, record in records.items()
  )


def _pixels(records: Mapping[str, Record]) -> set[str]:
  return {record['pixels'] for record in records.values()}


class SettingsError(ValueError):
  """A file of records was made with other settings."""


class RecordStore:
  """Appends records to a file and holds those already in it.

  The settings that all records share (model, data, decoding) lie beside the
  file, in `<name>.settings.json`.

  Attributes:
    records: Records in the file when it was opened, by key.
    model: Name of the model when the file was begun.
    data: Name of the data when the file was begun.
    run: Fingerprint of the settings when the file was begun.
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
    self.model = identity.flat(settings).get('model.name')
    self.data = self._new_data = settings.get('data')
    self.run = identity.of_run(settings)

    def parse(path: Path, lines: list[bytes]) -> dict[Key, Record]:
      found, before = _read_matching(path, lines, settings, codecs)
      # Records of earlier versions have no names, the settings beside them do.
      first = next(iter(found.values()), {})
      names = identity.flat(before)
      self.run = identity.of_run(before)
      self.data = _name(first.get('data'), names.get('data'), self.data)
      self.model = _name(
        first.get('model'), names.get('model.name'), self.model
      )
      return found

    self._writer = jsonl.JsonlWriter(path, parse)
    self.records = self._writer.objects

  def check_pictures(
    self, examples: Iterable[datasets.Example], progress: bool = False
  ) -> None:
    """Compares the pictures of a run with those that the records are of.

    Nothing is read if the file is new. Where all are the same, the name of the
    data does not matter; for files of versions that kept no fingerprints of
    pictures it decides.

    Args:
      examples: The pictures of the run.
      progress: Show a bar.

    Raises:
      SettingsError: A picture has other pixels, captions or questions.
    """
    known: dict[int, dict[str, Record]] = {}
    for record in self.records.values():
      if record.get('pixels') is not None:
        by_question = known.setdefault(record['image_id'], {})
        by_question[record.get('question') or ''] = record
    compared, differ = _compare(known, examples if known else (), progress)
    names = (
      f'data: the file has {self.data!r}, this run {self._new_data!r}'
      if self.data != self._new_data
      else ''
    )
    if differ or (names and self.records and not compared):
      more = len(differ) - _SHOWN
      shown = differ[:_SHOWN] + ([f'and {more} more'] if more > 0 else [])
      lines = [names] * bool(names) + shown
      asks = any(record.get('question') for record in self.records.values())
      texts = 'questions' if asks else 'captions'
      raise SettingsError(
        f'{self._writer.path} has records of other pictures or {texts}; choose'
        ' another file (or workdir), or remove it:\n  ' + '\n  '.join(lines)
      )

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


def _name(*values: Any) -> str | None:
  """Returns the first text of some values."""
  return next((v for v in values if isinstance(v, str)), None)


def _read_matching(
  path: Path,
  lines: list[bytes],
  settings: Mapping[str, Any],
  codecs: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[Key, Record], Mapping[str, Any]]:
  """Returns the records by key and the settings beside them.

  Raises:
    SettingsError: They are not the settings of this run.
  """
  settings = json.loads(json.dumps(settings))
  if not path.stat().st_size:
    name = str(settings_file(path))
    text = jsonl.to_text(settings, name, indent=2, sort_keys=True)
    jsonl.write_atomically(name, text + '\n')
    return {}, settings
  records = _parse(path, lines, {})
  before = read_settings(path)
  differ = _differences(before, settings)
  for name in sorted({r['name'] for r in records} & codecs.keys()):
    new = json.loads(json.dumps(codecs[name]))
    old = {str(r['codec']): r['codec'] for r in records if r['name'] == name}
    for codec in old.values():
      differ += [f'{name} {line}' for line in _differences(codec, new)]
  if differ:
    raise _other_settings(path, differ)
  _check_run(path, records, identity.of_run(before))
  _warn_of_versions(path, before, settings)
  return {key_of(record): record for record in records}, before


def _check_run(path: Path, records: Iterable[Record], run: str) -> None:
  """Raises SettingsError where records are not of the settings beside them."""
  for record in records:
    if record.get('run') not in (None, run):
      raise SettingsError(
        f'{path}: run: got {record["run"]} in its records, expected {run}, of'
        f' {settings_file(path).name}, which belongs to other records; put back'
        ' the one that was beside them, or choose another file (or workdir)'
      )


def _warn_of_versions(
  path: Path, old: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
  """Warns of records of other versions, whose numbers may be rounded apart."""
  before, now = old.get('versions'), new.get('versions')
  if not isinstance(before, Mapping) or not isinstance(now, Mapping):
    return
  if before != now:
    _LOG.warning(
      '%s was begun with %s, and goes on with %s: last digits may differ',
      path,
      *(
        ', '.join(f'{n} {v.get(n)}' for n in now if before.get(n) != now.get(n))
        for v in (before, now)
      ),
    )
