"""Sources of records: the model, data and decoding that made them."""

import collections
from collections.abc import Iterable, Mapping, Sequence
import json
from typing import Any

from collab_jax.evaluation import schema

Record = Mapping[str, Any]


def check_one(records: Sequence[Record]) -> None:
  """Raises ValueError for records that do not belong in one table.

  Fingerprints decide: equal weights that were in two folders are one model, and
  equal pictures one data set. Names decide for records without fingerprints.

  Args:
    records: Of any codecs.
  """
  models, data = _models(records), _data(records)
  groups: dict[tuple[Any, ...], list[Record]] = collections.defaultdict(list)
  for record in records:
    decoding = record.get('decoding') or schema.DECODING
    key = models[_model(record)], data[record.get('data')], decoding
    groups[key].append(record)
  if len(groups) > 1:
    shown = sorted(
      f'{names(group, "model")}, {names(group, "data")}, {key[-1]}'
      for key, group in groups.items()
    )
    runs = {key[0] for key in groups if key[0][0] == 'run'}
    more = f' in {len(runs)} runs' if len(runs) > 1 else ''
    raise ValueError(
      f'records: got several models, data sets or decodings{more},'
      f' {json.dumps(shown)}, expected one; summarize and draw them one by one,'
      ' or draw them beside each other by experiments/plot.py --panels'
    )


def names(records: Iterable[Record], field: str) -> str | None:
  """Returns the names of the model or data of records, joined.

  Args:
    records: Records of one source.
    field: 'model' or 'data'.

  Returns:
    'mine / moved' of a model that was in two folders; None without a name.
  """
  found = dict.fromkeys(record.get(field) for record in records)
  known = [str(name) for name in found if name is not None]
  return ' / '.join(known) if known else None


def _model(record: Record) -> tuple[str, Any]:
  """Returns what tells a record's model: its run, else its name."""
  run = record.get('run')
  return ('name', record.get('model')) if run is None else ('run', run)


def _models(records: Sequence[Record]) -> dict[Any, tuple[str, Any]]:
  """Maps what tells each model to one key for each.

  Records without a run are of the run that alone has their model's name.
  """
  runs = collections.defaultdict(set)
  for record in records:
    if record.get('run') is not None:
      runs[record.get('model')].add(record['run'])
  keys = {}
  for record in records:
    key = _model(record)
    known = runs.get(record.get('model'), ())
    keys[key] = ('run', *known) if len(known) == 1 else key
  return keys


def _data(records: Sequence[Record]) -> dict[Any, Any]:
  """Maps each name of data to one name for each data set.

  Two names are of one if they share a picture, and no picture differs.
  """
  pictures: dict[Any, dict[Any, Any]] = collections.defaultdict(dict)
  for record in records:
    seen = pictures[record.get('data')]
    if (pixels := record.get('pixels')) is not None:
      key = record['image_id'], record.get('question')
      seen[key] = pixels, record['references']
  chosen: dict[Any, Any] = {}
  for name, seen in pictures.items():
    chosen[name] = next(
      (other for other in chosen.values() if _agree(seen, pictures[other])),
      name,
    )
  return chosen


def _agree(seen: dict[Any, Any], other: dict[Any, Any]) -> bool:
  """Whether two data sets share pictures, all of them equal."""
  both = seen.keys() & other.keys()
  return bool(both) and all(seen[i] == other[i] for i in both)
