"""Runs compared on the same pictures: differences, and what settings differ."""

from collections.abc import Iterable, Mapping, Sequence
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from collab_jax import _validate
from collab_jax import metrics as metrics_lib
from collab_jax.evaluation import identity, record_store, schema
from collab_jax.evaluation.report import grids as grids_lib
from collab_jax.evaluation.report import labels, rate, sources, summary

Record = Mapping[str, Any]
Row = Mapping[str, Any]
Source = str | os.PathLike[str] | Sequence[Record]

# Settings of which a picture's pixels depend: where they differ, two runs may
# see one picture in two sizes.
_PIXELS = 'model.config', 'preprocess'
# Settings that records say themselves, as they are called beside the file.
_OF_RECORDS = ('model.name', 'data', 'captioner.decoding')


class Comparison(NamedTuple):
  """Scores of several runs on the same pictures, and their differences.

    comparison = cj.evaluation.compare(['runs/greedy', 'runs/beam'])
    print(cj.evaluation.comparison_table(comparison))
    cj.plots.compare(comparison)

  Attributes:
    rows: Rows of `summarize` by name of the run, of the shared pictures.
    differences: Of codecs of another run and of the first, {'run', 'codec' and
      'other' (names in the first run and in the other one), 'value' (the
      other's score minus the first's), 'low', 'high'}.
    unpaired: Names of the codecs that have no partner, by run.
    settings: Values by run of each setting that differs.
    delta_rates: Bjontegaard delta rates against the first run, by run.
    images: Number of the shared pictures.
    left_out: Number of each run's pictures that are not shared.
    level: Share of the draws in which all intervals hold at once.
  """

  rows: Mapping[str, Sequence[Row]]
  differences: Sequence[Mapping[str, Any]]
  unpaired: Mapping[str, Sequence[str]]
  settings: Mapping[str, Mapping[str, Any]]
  delta_rates: Mapping[str, Mapping[str, Any]]
  images: int
  left_out: Mapping[str, int]
  level: float


class _RunRecords(NamedTuple):
  """Records of a run, and their settings on one level."""

  records: Sequence[Record]
  settings: Mapping[str, Any]


def compare(
  runs: Mapping[str, Source] | Iterable[str | os.PathLike[str]],
  *,
  y: str | metrics_lib.Metric | None = None,
  resamples: int = 1000,
  level: float = 0.95,
  seed: int = 0,
) -> Comparison:
  """Compares runs that differ in model, decoding, prompt or quantizer.

  Codecs of one name are compared, then those left that send as many vectors,
  and at last the only one that each run has left. All are scored on the same
  draws of the pictures; the seeds of a picture are averaged inside, so that
  runs may have more or fewer of them. The intervals of all differences hold at
  once (`metrics.simultaneous`).

  Args:
    runs: Folders or files of records, or records by the name of their run; the
      others are compared with the first.
    y: Metric of the scores; None for the first of the task of the first run.
    resamples: Draws of the bootstrap.
    level: Part of the draws in which all intervals hold.
    seed: Seed of the draws.

  Returns:
    The comparison, of the pictures that all codecs of all runs have.

  Raises:
    ValueError: There are fewer than two runs, or they are of other tasks,
      pictures or captions; else as `read_records` and `summarize`.
  """
  summary.check_draws(resamples, level, seed)
  metric = None if y is None else metrics_lib.make(y)
  read = _read(runs)
  _check_tasks(read)
  if metric is None:
    first = next(iter(read.values())).records
    metric = metrics_lib.make(grids_lib.metrics_of(first)[0])
  _check_pictures(read)
  grids = {name: _grids(name, run.records) for name, run in read.items()}
  shared = _shared_images(grids)
  # All below need the statistics of the captions: they are computed here, once.
  records, scores = {}, {}
  for name, run in read.items():
    group = [r for r in run.records if r['image_id'] in shared]
    records[name] = [r for r in group if r['references']]
    scores[name] = summary.Scores(records[name], [metric])
  draws: dict[str, Any] = {'n': resamples, 'level': level, 'seed': seed}
  by_name = {metrics_lib.name(metric): metric}
  rows = {
    name: summary.rows_of(group, by_name, scores[name], draws)
    for name, group in records.items()
  }
  pairs, unpaired = _pairs(rows)
  return Comparison(
    rows,
    _differences(records, scores, pairs, metric, draws),
    unpaired,
    _differing({name: run.settings for name, run in read.items()}),
    _delta_rates(records, scores, metric, draws),
    len(shared),
    {
      name: len({r['image_id'] for r in run.records} - shared)
      for name, run in read.items()
    },
    level,
  )


def _read(runs: Any) -> dict[str, _RunRecords]:
  """Reads runs by name."""
  if isinstance(runs, str | os.PathLike):
    raise _validate.error(
      'runs', runs, 'two or more runs', 'write a list of folders'
    )
  sources = runs if isinstance(runs, Mapping) else list(runs)
  if len(sources) < 2:
    raise _validate.error('runs', [*sources], 'two or more runs')
  if not isinstance(sources, Mapping):
    sources = dict(zip(_names(sources), sources, strict=True))
  return {
    name: _read_files(source)
    if isinstance(source, str | os.PathLike)
    else _RunRecords(source, _fields(source))
    for name, source in sources.items()
  }


def _names(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
  """Returns the shortest ends of paths that tell them apart."""
  parts = []
  for path in map(Path, paths):
    folder = path.parent if path.name == 'records.jsonl' else path
    parts.append(folder.absolute().parts)
  if len(set(parts)) < len(parts):
    twice = next(p for n, p in enumerate(parts) if p in parts[:n])
    raise ValueError(f'runs: {Path(*twice)} is there twice')
  for depth in range(1, max(map(len, parts)) + 1):
    names = [str(Path(*p[-depth:])) for p in parts]
    if len(set(names)) == len(names):
      return names
  return [str(Path(*p)) for p in parts]


def _read_files(path: str | os.PathLike[str]) -> _RunRecords:
  """Reads the records of a run, and the settings beside them."""
  files = record_store.record_files(path)
  records = record_store.read_records(*files)
  if not records:
    raise _validate.error(
      'runs', os.fspath(path), 'a run with records', 'finish its evaluation'
    )
  fields = _fields(records)
  try:
    settings = identity.flat(record_store.read_settings(files[0]))
  except (record_store.SettingsError, OSError):
    return _RunRecords(records, fields)
  return _RunRecords(records, {**fields, **settings})


def _fields(records: Sequence[Record]) -> dict[str, Any]:
  """Returns the settings that records themselves say.

  Raises:
    ValueError: There are no records with references, or they are of several
      runs.
  """
  if not any(record['references'] for record in records):
    raise ValueError(
      'runs: got no record with references, expected runs that can be scored;'
      ' evaluate pictures that have captions'
    )
  sources.check_one(records)
  values = (
    sources.names(records, 'model'),
    sources.names(records, 'data'),
    records[0].get('decoding') or schema.DECODING,
  )
  return dict(zip(_OF_RECORDS, values, strict=True))


def _differing(
  settings: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
  """Returns the values by run of each setting in which runs differ."""
  names = [*dict.fromkeys(n for values in settings.values() for n in values)]
  if any({*values} == {*_OF_RECORDS} for values in settings.values()):
    names = [*_OF_RECORDS]  # Of some run nothing else is known.
  added = record_store.ADDED
  table = {
    name: {
      run: values.get(name, added.get(name)) for run, values in settings.items()
    }
    for name in names
  }
  return {
    name: values
    for name, values in table.items()
    if len(
      {
        json.dumps(value, sort_keys=True)
        for value in values.values()
        if not (value is None and name in added)  # Of older runs: not known.
      }
    )
    > 1
  }


def _check_tasks(runs: Mapping[str, _RunRecords]) -> None:
  """Raises ValueError unless all runs are of one task, with any settings."""
  names = {
    name: run.records[0].get('task') or 'captions' for name, run in runs.items()
  }
  if len({name.partition('(')[0] for name in names.values()}) > 1:
    shown = ', '.join(f'{task} in {run}' for run, task in names.items())
    raise ValueError(
      f'runs: got several tasks, {shown}, expected one; compare the runs of one'
      ' task with each other'
    )


def _check_pictures(runs: Mapping[str, _RunRecords]) -> None:
  """Raises ValueError unless equal ids are of equal pictures and captions."""
  first, *others = runs
  known = {
    (r['image_id'], grids_lib.question(r)): r for r in runs[first].records
  }
  for name in others:
    other_sizes = any(
      runs[name].settings.get(s) != runs[first].settings.get(s) for s in _PIXELS
    )
    for record in runs[name].records:
      key = record['image_id'], grids_lib.question(record)
      before = known.get(key)
      if before is None or not (before['references'] and record['references']):
        continue
      pixels = {before.get('pixels'), record.get('pixels')} - {None}
      if before['references'] != record['references']:
        what = 'references' if key[1] else 'captions'
      elif before.get('prompt') != record.get('prompt'):
        what = 'prompts'
      elif len(pixels) > 1 and not other_sizes:
        what = 'pixels'
      else:
        continue
      raise ValueError(
        f'runs: picture {record["image_id"]} of {name}: got other {what} than'
        f' in {first}; evaluate both on the same pictures'
      )


def _grids(name: str, records: Sequence[Record]) -> dict[str, grids_lib.Grid]:
  """Groups the records of all codecs but blind ones."""
  seen = [r for r in records if not labels.is_blind(r)]
  if not seen:
    raise ValueError(f'runs: {name} has records of blind captions only')
  return grids_lib.grids_of(seen)


def _shared_images(
  grids: Mapping[str, Mapping[str, grids_lib.Grid]],
) -> set[int]:
  """Returns the pictures that every codec of every run has for all seeds.

  Of a task, with the same questions.
  """
  asked = [
    {grids_lib.key(image[0]) for image in grid}
    for by_codec in grids.values()
    for grid in by_codec.values()
  ]
  shared = set.intersection(*asked)
  if not shared:
    pictures = ({image for image, _ in keys} for keys in asked)
    if set.intersection(*pictures):
      raise ValueError(
        'runs: got other questions about the pictures that all runs have,'
        ' expected the same; give the task the same settings in all of them'
      )
    raise ValueError(
      'runs: got no picture that all codecs of all runs have, expected the same'
      ' pictures; evaluate them on one data set, or finish the evaluations'
    )
  return {image for image, _ in shared}


def _pairs(
  rows: Mapping[str, Sequence[Row]],
) -> tuple[list[tuple[str, Row, Row]], dict[str, list[str]]]:
  """Pairs the codecs of each run with those of the first.

  Returns:
    The run, the row of the first run and that of the other; and the names of
    the codecs that are in no pair, by run.
  """
  first, *others = rows
  pairs = []
  paired: dict[str, set[str]] = {name: set() for name in rows}
  for run in others:
    left, right = (
      [row for row in rows[name] if not labels.is_blind(row)]
      for name in (first, run)
    )
    for key in (_by_name, _by_vectors, _by_being_alone):
      for a, b in _matches(left, right, key):
        pairs.append((run, a, b))
        paired[first].add(a['name'])
        paired[run].add(b['name'])
        left.remove(a)
        right.remove(b)
  unpaired = {
    run: [
      row['name']
      for row in group
      if row['name'] not in paired[run] and not labels.is_blind(row)
    ]
    for run, group in rows.items()
  }
  order = {name: n for n, name in enumerate(rows)}
  place = {row['name']: n for n, row in enumerate(rows[first])}
  pairs.sort(key=lambda pair: (order[pair[0]], place[pair[1]['name']]))
  return pairs, unpaired


def _by_name(row: Row) -> str:
  return labels.text(row)


def _by_vectors(row: Row) -> int | None:
  return None if labels.is_picture(row) else row['sent']


def _by_being_alone(row: Row) -> str:
  del row
  return 'alone'


def _matches(left, right, key) -> list[tuple[Row, Row]]:
  """Pairs rows whose key is the same, where it is that of one row each."""
  keys = [[key(row) for row in group] for group in (left, right)]
  return [
    (a, right[keys[1].index(k)])
    for a, k in zip(left, keys[0], strict=True)
    if k is not None and keys[0].count(k) == keys[1].count(k) == 1
  ]


def _delta_rates(
  records: Mapping[str, Sequence[Record]],
  scores: Mapping[str, summary.Scores],
  metric: metrics_lib.Metric,
  draws: dict[str, Any],
) -> dict[str, dict[str, Any]]:
  """Returns the delta rates of all features against the first run's."""
  first, *others = (
    rate.feature_front(group, scores[name], metric, draws['n'], draws['seed'])
    for name, group in records.items()
  )
  return {
    name: rate.delta_rate(front, first, metric, draws['n'], draws['level'])
    for name, front in zip([*records][1:], others, strict=True)
  }


def _differences(
  records: Mapping[str, Sequence[Record]],
  scores: Mapping[str, summary.Scores],
  pairs: Sequence[tuple[str, Row, Row]],
  metric: metrics_lib.Metric,
  draws: dict[str, Any],
) -> list[dict[str, Any]]:
  """Returns the differences of pairs, with simultaneous intervals."""
  if not pairs:
    return []
  first = next(iter(records))
  grids = {name: grids_lib.grids_of(group) for name, group in records.items()}

  def drawn(run, row):
    stats = scores[run].of(grids[run][row['name']], metric)
    fn, n = metric.combine, draws['n']
    return metrics_lib.drawn_scores(stats, fn, n, draws['seed'])

  name = metrics_lib.name(metric)
  intervals = metrics_lib.simultaneous(
    np.array([b[name] - a[name] for _, a, b in pairs]),
    np.stack([drawn(run, b) - drawn(first, a) for run, a, b in pairs], axis=1),
    draws['level'],
  )
  return [
    {
      'run': run,
      'codec': a['name'],
      'other': b['name'],
      **interval._asdict(),
    }
    for (run, a, b), interval in zip(pairs, intervals, strict=True)
  ]
