"""Files that a run leaves, read for its report."""

from collections.abc import Mapping, Sequence
import os
from pathlib import Path
from typing import Any, NamedTuple

from collab_jax import evaluation, jsonl
from collab_jax.evaluation import record_store
from collab_jax.studies.html_report import task_lines

Record = Mapping[str, Any]


class Part(NamedTuple):
  """Records of one model, or of one task of several.

  Attributes:
    label: Name of the model among several, or titles of the task's lines; ''
      if there is one.
    records: The records.
    settings: Settings beside them; empty if they are missing.
    task: Name of the task among several; '' in other runs.
  """

  label: str
  records: Sequence[Record]
  settings: Mapping[str, Any]
  task: str = ''


class RunFolder(NamedTuple):
  """Contents of a run's folder.

  Attributes:
    folder: The folder.
    parts: Records by model, or by task.
    config: The run's config; empty if it is unknown.
    summary: What its last report found; empty before the first.
  """

  folder: Path
  parts: list[Part]
  config: Mapping[str, Any]
  summary: Mapping[str, Any]


def read(run: str | os.PathLike[str]) -> RunFolder:
  """Reads a run, which may not be finished, or be of an older version.

  Args:
    run: Its folder, or a file of records.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: There are no records, or a file is damaged; the message tells
      which.
  """
  path = Path(run)
  folder = path if path.is_dir() else path.parent
  files = read_settings(folder)
  lines = task_lines.of_config(files.config) if path.is_dir() else []
  parts = _task_parts(folder, lines) if lines else _model_parts(path)
  parts = [part for part in parts if part.records]
  if not parts:
    raise ValueError(
      f'{folder}: got no record yet, expected one or more; start the run again,'
      ' it goes on'
    )
  return files._replace(parts=parts)


def _model_parts(path: Path) -> list[Part]:
  """Reads the records of each model, of which most runs have one."""
  return [
    Part(label, evaluation.read_records(*group), _beside(group[0]))
    for label, group in _records(path).items()
  ]


def _task_parts(
  folder: Path, lines: Sequence[task_lines.LineConfig]
) -> list[Part]:
  """Reads the records of each task of lines, of those that have some."""
  parts = []
  for task in dict.fromkeys(line.task for line in lines):
    own = task_lines.records_of(folder, task).parent
    if any(own.glob('records.jsonl')) or any(own.glob('units/*.jsonl')):
      files = record_store.record_files(own)
      records = evaluation.read_records(*files)
      parts.append(
        Part(titles_of(lines, task), records, _beside(files[0]), task)
      )
  return parts


def titles_of(lines: Sequence[task_lines.LineConfig], task: str) -> str:
  """Returns the titles of a task's lines in one text."""
  return ', '.join(line.title for line in lines if line.task == task)


def read_settings(folder: Path) -> RunFolder:
  """Reads config and summary of a run, and no records."""
  summary = _json(folder / 'summary.json')
  config = _json(folder / 'config.json') or summary.get('settings') or {}
  return RunFolder(folder, [], config, summary)


def part(folder: Path, label: str, records: Sequence[Record]) -> Part:
  """Returns records that are at hand as a part of a run's folder."""
  path = model_folder(folder, label) / 'records.jsonl'
  return Part(label, records, _beside(path))


def noun(records: Sequence[Record]) -> str:
  """Returns what the texts of records are: 'captions', or 'answers'."""
  asks = any(record.get('task') for record in records)
  return 'answers' if asks else 'captions'


def task_part(
  folder: Path, task: str, records: Sequence[Record], config: Mapping[str, Any]
) -> Part:
  """Returns records of a task that are at hand as a part of a run's folder."""
  label = titles_of(task_lines.of_config(config), task)
  path = task_lines.records_of(folder, task)
  return Part(label, records, _beside(path), task)


def model_folder(folder: str | os.PathLike[str], label: str) -> Path:
  """Returns the folder of one of a run's models, by its label.

  Args:
    folder: The run's folder.
    label: Name of the model among several; '' if there is one.
  """
  return Path(folder) / label.replace(' ', '_')


def _records(path: Path) -> dict[str, list[Path]]:
  """Returns files of records by the label of their model."""
  if path.is_dir() and not (path / 'records.jsonl').exists():
    models = sorted(
      path.glob('*/records.jsonl'), key=lambda file: file.stat().st_mtime
    )
    if models:  # Of a comparison of trained models.
      return {file.parent.name.replace('_', ' '): [file] for file in models}
  return {'': record_store.record_files(path)}


def _beside(path: Path) -> dict[str, Any]:
  return _json(record_store.settings_file(path))


def _json(path: Path) -> dict[str, Any]:
  return jsonl.read_settings(path) if path.exists() else {}
