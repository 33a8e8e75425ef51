"""Sweeps: passes of a study, made by this process or by an engine's units.

`define_flags` gives launchers `--engine`, `--workers`, `--units` and `--shard`.
An engine runs the launcher's own command line with `--shard=i/n`, which makes
the records of one unit.
"""

from collections.abc import Callable, Iterable, Sequence
import json
import os
from pathlib import Path
import re
import socket
import sys
import time
from typing import Any, NamedTuple

from absl import flags
import jax

from collab_jax import _validate, engines, evaluation, jsonl
from collab_jax import data as datasets
from collab_jax.engines import base
from collab_jax.evaluation import progress, record_store
from collab_jax.studies import (
  build,
  headline,
  study,
  unit_files,
  unit_watch,
  units,
)

# The flags belong to the launcher that defines them, and to its --help.
flags.disclaim_key_flags()

# Units of a sweep that names no number: as many for each worker, so that a slow
# one does not keep the others waiting, or as many in all.
_UNITS_A_WORKER, _UNITS = 4, 32
# Fields of a config on which records depend, beside names of codecs and seeds.
# Where files lie is none of them.
_FIELDS = (
  *('model', 'dtype', 'compute_dtype', 'precision', 'res', 'data'),
  *('data_split', 'preprocess', 'task', 'prompt', 'max_tokens', 'decoding'),
)
# Flags that a unit's command lacks.
_OF_LAUNCHER = ('engine', 'workers', 'units', 'shard', 'log', 'profile')

Records = list[dict[str, Any]]


class _SweptStudy(NamedTuple):
  """Study of a sweep, with the files of its units."""

  study: study.Study
  files: unit_files.UnitFiles


class SweepOptions:
  """Settings of a launcher's flags; see `define_flags`.

  Attributes:
    engine: Name of the engine; '' for this process.
    workers: Number of units at a time; 0 for the engine's own number.
    units: Number of units; 0 for the engine's own number.
    shard: 'i/n', the unit to make and how many there are; '' for all.
  """

  def __init__(
    self, engine: str = '', workers: int = 0, units: int = 0, shard: str = ''
  ):
    """Checks the settings.

    Args:
      engine: As above.
      workers: As above.
      units: As above.
      shard: As above.

    Raises:
      ValueError: One of them is out of range.
    """
    _validate.choice('engine', engine, ('', *engines.NAMES))
    _validate.integer('workers', workers, 0)
    _validate.integer('units', units, 0)
    self.engine, self.workers, self.units = engine, workers, units
    self.shard = parse_shard(shard) if shard else None

  def run(
    self, planned: study.Study, workdir: str | os.PathLike[str]
  ) -> Records:
    """Makes the records that a folder lacks.

    Args:
      planned: The study, not yet checked.
      workdir: Folder of the run.

    Returns:
      All records.

    Raises:
      SystemExit: A unit was made, and there is nothing to report yet.
      ValueError: A setting is out of range, or units failed.
    """
    if not (self.shard or self.engine):
      planned.validate()
      print(planned.describe(), flush=True)
      return planned.run(Path(workdir) / 'records.jsonl')
    (records,) = self.run_parts([planned], workdir, [workdir])
    return records

  def leave_work(self, planned: Sequence[study.Study]) -> None:
    """Marks studies whose records the engine's processes make, if there is one.

    Neither devices nor weights are for this process then.

    Args:
      planned: The studies, not yet checked.
    """
    if self.engine and not self.shard:
      jax.config.update('jax_platforms', 'cpu')
      for each in planned:
        each.elsewhere = True

  def run_parts(
    self,
    planned: Sequence[study.Study],
    workdir: str | os.PathLike[str],
    folders: Sequence[str | os.PathLike[str]],
  ) -> list[Records]:
    """Makes the records of several studies, by an engine or as its unit.

    Unit i of n is unit i of each study: its process loads the model once.

    Args:
      planned: The studies, of one model, not yet checked.
      workdir: Folder of the run, of which one process at a time is the
        launcher.
      folders: Folder of the records of each study.

    Returns:
      All records of each study.

    Raises:
      SystemExit: A unit was made, and there is nothing to report yet.
      ValueError: A setting is out of range, or units failed.
    """
    for each in planned:
      if each.config.get('distributed'):
        raise _validate.error(
          'config.distributed',
          each.config['distributed'],
          "'' with --engine or --shard, whose units are processes of their own",
        )
    if self.shard:
      for each, folder in zip(planned, folders, strict=True):
        run_unit(each, folder, *self.shard)
      raise SystemExit(0)
    self.leave_work(planned)
    for each in planned:
      each.validate()
    parts = [
      _SweptStudy(each, unit_files.UnitFiles(folder))
      for each, folder in zip(planned, folders, strict=True)
    ]
    with jsonl.locked(workdir):
      return _Launcher(parts, Path(workdir) / 'logs', self).run()


def define_flags(default: str = '') -> Callable[[], SweepOptions]:
  """Defines `--engine`, `--workers`, `--units` and `--shard`.

  Args:
    default: The default engine.

  Returns:
    A function that makes the `SweepOptions` of the flags once they are read.
  """
  engine = flags.DEFINE_string(
    'engine',
    default,
    "Processes that do the work: 'local', 'slurm' or 'ray', see"
    ' docs/cluster.md; empty for this one alone.',
  )
  workers = flags.DEFINE_integer(
    'workers',
    0,
    'Units at a time; 0 for one a device of this machine, and on a cluster for'
    ' as many as it has room for.',
  )
  count = flags.DEFINE_integer(
    'units',
    0,
    'Parts of about equal cost that the work is divided into; 0 for four a'
    ' worker.',
  )
  shard = flags.DEFINE_string(
    'shard', '', 'Makes unit i of n alone, as i/n; the engines do so.'
  )
  return lambda: SweepOptions(
    engine.value or '', workers.value or 0, count.value or 0, shard.value or ''
  )


def parse_shard(text: str) -> tuple[int, int]:
  """Reads 'i/n', 0 <= i < n."""
  match = re.fullmatch(r'(\d+)/(\d+)', text)
  if not match or int(match[1]) >= int(match[2]):
    raise ValueError(f'shard: got {text!r}, expected i/n with 0 <= i < n')
  return int(match[1]), int(match[2])


def run_unit(
  planned: study.Study,
  workdir: str | os.PathLike[str],
  unit: int,
  count: int,
) -> None:
  """Makes the records of one unit.

  Args:
    planned: The study, not yet checked.
    workdir: Folder of the sweep.
    unit: Number of the unit, from 0.
    count: Number of units.

  Raises:
    ValueError: A setting is out of range, or the sweep has other units.
  """
  start = time.perf_counter()
  planned.validate()
  files = unit_files.UnitFiles(workdir)
  plan = make_plan(planned, files, count)
  # There may be fewer passes than units, and none that is missing.
  if unit >= len(plan.units) or files.path(unit).exists():
    print(f'unit {unit} of {count}: nothing is missing')
    return
  passes = plan.units[unit]
  print(f'unit {unit} of {count}: {", ".join(f"{n} {s}" for n, s in passes)}')
  print(headline.devices(build.make_mesh(planned.config)), flush=True)
  attempt = files.begin(unit)
  if files.records.exists():
    record_store.check_settings(files.records, planned.run_settings)
  records = planned.run_passes(attempt, passes, progress=False)
  info = {
    **planned.made_with,
    'host': socket.gethostname(),
    'seconds': round(time.perf_counter() - start, 1),
    'records': len(records),
  }
  files.finish(unit, attempt, info)
  print(f'unit {unit} of {count}: {len(records):,} records', flush=True)


def make_plan(
  planned: study.Study, files: unit_files.UnitFiles, count: int
) -> units.Plan:
  """Returns the plan that was begun, or begins one of what is missing.

  Args:
    planned: The study, checked.
    files: Files of the sweep.
    count: Number of units; 0 for that of the plan that was begun.

  Raises:
    ValueError: The plan that was begun has other units, or is of codecs that
      the study does not have, or the folder's records were made with other
      settings.
  """
  _check_settings(planned, files)
  if plan := files.read_plan():
    if others := plan.passes - set(planned.passes):
      raise _validate.error(
        str(files.plan),
        sorted(others)[0],
        'codecs and seeds of this config',
        'end that sweep with its own command, or choose another workdir',
      )
    if count and count != plan.count:
      raise _validate.error(
        'units',
        count,
        f'{plan.count}, as of the sweep that {files.folder} is of',
        f'write --units={plan.count}, or --shard=i/{plan.count} of one unit',
      )
    return plan
  missing = missing_passes(planned, files)
  plan = units.divide(planned, missing, count, _settings(planned))
  if missing:
    files.write_plan(plan)
  return plan


def missing_passes(
  planned: study.Study, files: unit_files.UnitFiles
) -> list[study.Pass]:
  """Returns the passes of which a picture's record is missing.

  Args:
    planned: The study.
    files: Files of the sweep.
  """
  if not files.records.exists():
    return planned.passes
  records = evaluation.read_records(files.records)
  counts = record_store.count_pictures(records)
  pictures = len(planned.data) - files.count_left_out()
  return [one for one in planned.passes if counts[one] < pictures]


def _settings(planned: study.Study) -> dict[str, Any]:
  """Returns the fields on which records depend, as JSON has them."""
  settings = planned.config.to_dict()
  return {name: settings[name] for name in _FIELDS if name in settings}


def _check_settings(planned: study.Study, files: unit_files.UnitFiles) -> None:
  """Raises ValueError if the folder's records were made with others.

  The units compare weights and pictures, too; that takes the model.
  """
  now = json.loads(json.dumps(_settings(planned)))
  for path in (files.plan, files.summary):
    if path.exists():
      before = jsonl.read_settings(path)['settings']
      for name, value in now.items():
        if before.get(name, value) != value:
          raise _validate.error(
            f'config.{name}',
            value,
            f'{before[name]!r}, of which {path} is',
            'choose another workdir',
          )


class _PartFiles:
  """Files of the units of several studies, as `UnitWatch` asks for them."""

  def __init__(self, parts: Sequence[_SweptStudy], plans: Sequence[units.Plan]):
    self._parts = list(zip(parts, plans, strict=True))

  def finished(self) -> set[int]:
    """Returns the units that are finished in each of the studies."""
    count = max(len(plan.units) for _, plan in self._parts)
    finished = {*range(count)}
    for part, plan in self._parts:
      finished -= {*range(len(plan.units))} - part.files.finished()
    return finished

  def count_lines(self, numbers: Iterable[int]) -> dict[int, int]:
    """Counts the records of units in all studies."""
    counts = dict.fromkeys(numbers, 0)
    for part, plan in self._parts:
      own = [unit for unit in counts if unit < len(plan.units)]
      for unit, lines in part.files.count_lines(own).items():
        counts[unit] += lines
    return counts


class _Launcher:
  """Sweep of one run: plans, runs and gathers the units of its studies."""

  def __init__(
    self, parts: Sequence[_SweptStudy], logs: Path, sweep: SweepOptions
  ):
    self._parts = parts
    self._logs = logs
    self._sweep = sweep
    config: Any = parts[0].study.config
    # A config of one's own need not have it.
    fields = config.engine if 'engine' in config else {}
    self._resources = base.Resources(**fields)

  def run(self) -> list[Records]:
    """Makes what is missing, and returns all records of each study."""
    plans = self._make_plans()
    while any(plan.units for plan in plans):
      print(self._describe(plans), flush=True)
      self._make(plans)
      for part, plan in zip(self._parts, plans, strict=True):
        if plan.units:
          infos = part.files.gather(plan, len(part.study.data))
          part.files.write_summary(_settings(part.study), infos)
      plans = self._make_plans()
    return [_collect(part) for part in self._parts]

  def _make_plans(self) -> list[units.Plan]:
    """Returns a plan for each study, all of as many units."""
    count = self._sweep.units
    if not count:
      begun = (part.files.read_plan() for part in self._parts)
      count = next((plan.count for plan in begun if plan is not None), 0)
    if not count:
      workers = engines.workers(
        self._sweep.engine, self._resources, self._sweep.workers
      )
      count = _UNITS_A_WORKER * workers or _UNITS
    return [make_plan(part.study, part.files, count) for part in self._parts]

  def _describe(self, plans: Sequence[units.Plan]) -> str:
    """Returns the headline: the work ahead, and who does it."""
    planned = self._parts[0].study
    model = headline.describe_dimensions(planned.dimensions)
    lines = {'model': f'{model}, split after the {planned.config["split"]}'}
    several = len(self._parts) > 1
    for part, plan in zip(self._parts, plans, strict=True):
      passes, pictures = len(plan.passes), len(part.study.data)
      work = f'{passes} passes x {pictures:,} pictures = {passes * pictures:,}'
      if several:
        lines[str(part.study.config['task'])] = work
      else:
        lines |= {'data': headline.data(part.study.data), 'captions': work}
    costs = [
      sum(plan.costs[unit] for plan in plans if unit < len(plan.costs))
      for unit in range(max(len(plan.units) for plan in plans))
    ]
    lines['units'] = (
      f'{len(costs)}, each of {min(costs):.3g} to {max(costs):.3g} times the'
      f' model a picture, by --engine={self._sweep.engine}'
    )
    return headline.render({**lines, 'logs': str(self._logs)})

  def _make(self, plans: Sequence[units.Plan]) -> None:
    """Runs an engine until each unit of all plans is finished.

    Raises:
      ValueError: Units failed.
    """
    files = _PartFiles(self._parts, plans)
    number = max(len(plan.units) for plan in plans)
    missing = sorted({*range(number)} - files.finished())
    if not missing:
      return
    python = self._resources.python or sys.executable
    command = base.UnitCommand(
      (python, os.path.abspath(sys.argv[0]), *unit_arguments(sys.argv[1:])),
      plans[0].count,
      self._logs,
      setup=self._resources.setup,
    )
    engine = engines.make(
      self._sweep.engine,
      command,
      self._logs / 'slurm',
      self._resources,
      self._sweep.workers,
    )
    watch = unit_watch.UnitWatch(
      files, command, engine, self._resources.retries
    )
    total, unit = 0, 'captions'
    for part, plan in zip(self._parts, plans, strict=True):
      questions = headline.questions(part.study.data)
      unit = 'captions' if questions is None else 'answers'
      total += len(plan.passes) * (questions or len(part.study.data))
    name = self._parts[0].study.data.name
    with progress.Progress(total, name, False, unit) as bar:
      try:
        watch.run(missing, number, bar)
      finally:
        if words := engine.close():
          print(f'\n{words}', file=sys.stderr, flush=True)


def _collect(part: _SweptStudy) -> Records:
  """Returns a study's records, in the order of its passes."""
  planned, files = part
  planned.made_with = files.made_with() or planned.made_with
  order = {one: place for place, one in enumerate(planned.passes)}
  records = [
    record
    for record in evaluation.read_records(files.records)
    if (record['name'], record['seed']) in order
  ]
  counts = record_store.count_pictures(records)
  if counts.total() > len(order) * len(planned.data):
    # Of a run with more pictures.
    images = {e.image_id for e in datasets.prefetch(planned.data)}
    records = [r for r in records if r['image_id'] in images]
  return sorted(records, key=lambda r: order[r['name'], r['seed']])


def unit_arguments(arguments: Sequence[str]) -> list[str]:
  """Returns a launcher's arguments without those that units do not get.

  Args:
    arguments: Arguments of the command line, '--engine=ray' or '--engine',
      'ray'.
  """
  kept, skips = [], False
  for argument in arguments:
    name, equals, _ = argument.partition('=')
    dropped = name.startswith('-') and name.lstrip('-') in _OF_LAUNCHER
    if not dropped and not skips:
      kept.append(argument)
    skips = dropped and not equals
  return kept
