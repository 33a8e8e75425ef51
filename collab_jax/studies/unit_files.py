"""Files of a sweep's units, safe where several processes write on any machine.

Each process that computes a unit writes to a file of its own, an attempt, which
begins with the records of an attempt before it. The whole file is renamed to
the unit's once all records are there. Two processes that compute one unit
therefore make the same file, and no lock is needed: a file system has to show
a renamed file as whole or not at all, and a file that was closed to those who
open it later, as NFS, Lustre and GPFS do.
"""

from collections.abc import Iterable, Mapping, Sequence
import contextlib
import os
from pathlib import Path
import shutil
from typing import Any
import uuid

from collab_jax import _validate, evaluation, jsonl
from collab_jax.evaluation import record_store
from collab_jax.studies import units as units_lib

_OF_UNIT = ('host', 'seconds', 'records')
_SIDECARS = ('.settings.json', '.left_out.json')


class UnitFiles:
  """Files of the units of one sweep, below its folder.

  Attributes:
    workdir: Folder of the sweep, whose `records.jsonl` is written last.
    folder: Folder of the units, which is there while one of them is missing.
    logs: Folder of the units' logs.
    plan: File of the plan that was begun.
    summary: File on the units that were gathered.
  """

  def __init__(self, workdir: str | os.PathLike[str]):
    """Names the files; nothing is read.

    Args:
      workdir: Folder of the sweep.
    """
    self.workdir = Path(workdir)
    self.folder = self.workdir / 'units'
    self.logs = self.workdir / 'logs'
    self.plan = self.folder / 'plan.json'
    self.summary = self.workdir / 'sweep.json'
    self._attempts = self.folder / 'attempts'
    self._lines: dict[Path, tuple[int, int]] = {}  # Bytes and lines seen.

  @property
  def records(self) -> Path:
    """File of all records."""
    return self.workdir / 'records.jsonl'

  def count_left_out(self) -> int:
    """Counts the damaged pictures of which there are no records."""
    return _count_left_out(self.records)

  def path(self, unit: int) -> Path:
    """Returns the file of a unit's records, which is whole."""
    return self.folder / f'{unit:03}.jsonl'

  def read_plan(self) -> units_lib.Plan | None:
    """Reads the plan that was begun; None if there is none."""
    if not self.plan.exists():
      return None
    return units_lib.Plan.from_json(jsonl.read_settings(self.plan))

  def write_plan(self, plan: units_lib.Plan) -> None:
    """Writes a plan; processes that do so at once write the same."""
    self.folder.mkdir(parents=True, exist_ok=True)
    draft = self.folder / f'plan.{uuid.uuid4().hex}.draft'
    draft.write_text(jsonl.to_text(plan.to_json(), 'plan', indent=1))
    draft.replace(self.plan)

  def begin(self, unit: int) -> Path:
    """Makes the file of a new attempt, with the longest one's records.

    Args:
      unit: The unit.

    Returns:
      The file, which no other process writes to.
    """
    before = sorted(self._attempts.glob(f'{unit:03}-*.jsonl'), key=_bytes)
    attempt = self._attempts / f'{unit:03}-{uuid.uuid4().hex[:8]}.jsonl'
    attempt.parent.mkdir(parents=True, exist_ok=True)
    for path in reversed(before):
      settings = record_store.settings_file(path)
      with contextlib.suppress(FileNotFoundError):  # Finished meanwhile.
        data = path.read_bytes()
        lines, end = jsonl.split_lines(data)
        if lines and settings.exists():
          copy = record_store.settings_file(attempt)
          jsonl.write_atomically(copy, settings.read_bytes())
          jsonl.write_atomically(attempt, data[:end])
          break
    return attempt

  def finish(self, unit: int, attempt: Path, info: Mapping[str, Any]) -> None:
    """Makes an attempt the unit's file; does nothing if another one is.

    Args:
      unit: The unit.
      attempt: A file from `begin`, whose records are all there.
      info: Plain values on how they were made.
    """
    path = self.path(unit)
    if not self.plan.exists() or path.exists():
      return
    _copy_sidecars(attempt, path)
    jsonl.write_json(path.with_suffix('.json'), info)
    with contextlib.suppress(FileNotFoundError):
      attempt.replace(path)
    for other in self._attempts.glob(f'{unit:03}-*'):
      other.unlink(missing_ok=True)

  def finished(self) -> set[int]:
    """Returns the units whose files are there.

    A folder is opened anew, for which NFS asks its server; of a single file it
    may remember for a minute that there is none.
    """
    return {int(path.stem) for path in self.folder.glob('[0-9]*.jsonl')}

  def count_lines(self, units: Iterable[int]) -> dict[int, int]:
    """Counts the records of units, finished or in the making.

    Args:
      units: The units.
    """
    counts = {unit: self._count(self.path(unit)) for unit in units}
    for path in self._attempts.glob('*.jsonl'):
      unit = int(path.name.partition('-')[0])
      if unit in counts:
        counts[unit] = max(counts[unit], self._count(path))
    return counts

  def _count(self, path: Path) -> int:
    """Counts the lines of a file that grows."""
    seen, lines = self._lines.get(path, (0, 0))
    with contextlib.suppress(FileNotFoundError):
      if _bytes(path) > seen:
        with path.open('rb') as file:
          file.seek(seen)
          data = file.read()
        seen, lines = seen + len(data), lines + data.count(b'\n')
        self._lines[path] = seen, lines
    return lines

  def gather(self, plan: units_lib.Plan, pictures: int) -> list[dict[str, Any]]:
    """Joins the records of all units with those that were there before.

    Args:
      plan: The plan, of which each unit is finished.
      pictures: Number of pictures of the data.

    Returns:
      How the units were made, as `finish` was told.

    Raises:
      ValueError: A record is missing or there twice, or units contradict each
        other; no file is changed.
    """
    paths = [self.path(unit) for unit in range(len(plan.units))]
    before, lines = [], []
    with contextlib.ExitStack() as stack:
      if self.records.exists():  # Another run may be writing to it.
        stack.enter_context(jsonl.JsonlWriter(self.records, lambda *_: None))
        before, lines = [self.records], _lines(self.records)
      records = evaluation.read_records(*before, *paths)
      earlier, units = records[: len(lines)], records[len(lines) :]
      damaged = _count_left_out(paths[0])
      check_complete(units, plan.passes, pictures - damaged)
      keys = {record_store.key_of(record) for record in units}
      earlier = [r for r in earlier if record_store.key_of(r) not in keys]
      infos = [jsonl.read_settings(path.with_suffix('.json')) for path in paths]
      self._write([*earlier, *units], paths[0])
    self._remove()
    return infos

  def _remove(self) -> None:
    """Removes the units' files.

    A kill on the way must not leave some of them without their plan: a later
    plan's units have the same names.
    """
    self.folder.rename(self.workdir / f'units.{uuid.uuid4().hex[:8]}.done')
    for done in self.workdir.glob('units.*.done'):
      shutil.rmtree(done)

  def write_summary(
    self, settings: Mapping[str, Any], infos: Sequence[Mapping[str, Any]]
  ) -> None:
    """Adds gathered units to the summary.

    Args:
      settings: Fields of the config on which records depend.
      infos: From `gather`.
    """
    before = jsonl.read_settings(self.summary) if _is(self.summary) else {}
    units = [*before.get('units', []), *infos]
    jsonl.write_json(self.summary, {'settings': settings, 'units': units})

  def made_with(self) -> dict[str, Any]:
    """Returns software, devices and mesh of the gathered units."""
    if not _is(self.summary):
      return {}
    infos = jsonl.read_settings(self.summary)['units']
    devices = dict.fromkeys(info['device'] for info in infos)
    common = {n: infos[0][n] for n in infos[0] if n not in _OF_UNIT}
    return {**common, 'device': ' and '.join(devices)}

  def _write(self, records: Sequence[Any], first: Path) -> None:
    """Writes all records, and what belongs beside them."""
    draft = self.records.with_name('records.jsonl.draft')
    draft.unlink(missing_ok=True)
    with jsonl.JsonlWriter(draft) as writer:
      writer.append(*records)
      writer.sync()  # The units' files are removed then.
    _copy_sidecars(first, self.records)
    draft.replace(self.records)


def _copy_sidecars(source: Path, path: Path) -> None:
  """Copies the files that stand beside a file of records, if they do."""
  for suffix in _SIDECARS:
    if _is(beside := source.with_suffix(suffix)):
      jsonl.write_atomically(path.with_suffix(suffix), beside.read_bytes())


def _is(path: Path) -> bool:
  return path.is_file()


def _count_left_out(path: Path) -> int:
  listing = path.with_suffix('.left_out.json')
  return len(jsonl.parse(listing.read_bytes())) if _is(listing) else 0


def _lines(path: Path) -> list[bytes]:
  return jsonl.split_lines(path.read_bytes())[0]


def _bytes(path: Path) -> int:
  try:
    return path.stat().st_size
  except FileNotFoundError:
    return 0


def check_complete(
  records: Sequence[Mapping[str, Any]],
  passes: Iterable[units_lib.Pass],
  pictures: int,
) -> None:
  """Raises ValueError if a record is missing or there twice.

  Args:
    records: The records.
    passes: Names and seeds of which there must be all pictures.
    pictures: Number of pictures.
  """
  by_pass: dict[units_lib.Pass, list[record_store.Key]]
  by_pass = {one: [] for one in passes}
  for record in records:
    by_pass.setdefault((record['name'], record['seed']), []).append(
      record_store.key_of(record)
    )
  asks = any(record.get('question') is not None for record in records)
  one = 'one a question' if asks else 'one a picture'
  whole = record_store.count_pictures(records)
  for (name, seed), keys in by_pass.items():
    if len(set(keys)) < len(keys):
      raise _validate.error(
        f'records of {name}, seed {seed}',
        f'{len(keys) - len(set(keys))} of them twice',
        one,
        'move the folder units away, and start again',
      )
    if whole[name, seed] != pictures:
      raise _validate.error(
        f'records of {name}, seed {seed}',
        whole[name, seed],
        f'{pictures}, one a picture'
        if not asks
        else f'those of {pictures} pictures',
        'move the folder units away, and start again',
      )
