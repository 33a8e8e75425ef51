"""Grids of records: pictures by seeds, with all questions about a picture.

Questions about one picture are not independent, and share one message: tables,
intervals and curves count and draw pictures, whose statistics are sums over
their questions.
"""

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from collab_jax import _validate, registry, tasks
from collab_jax import metrics as metrics_lib

Record = Mapping[str, Any]
Grid = Sequence[Sequence[Record]]  # By image, then by seed.

# Field of a picture's record that holds the records of its questions.
_ANSWERS = 'answers'
_NAME_THEM = 'name them, as in metrics=[...] or y=...'


def grids_of(records: Sequence[Record]) -> dict[str, Grid]:
  """Groups records by codec name, then by image and seed.

  Args:
    records: Of any codecs.

  Returns:
    Grids in the order of the records, of the images that have every seed, and
    for each of them every question. The record of an image with questions is
    that of the first, which tells bytes and seconds; `answers` returns all.
  """
  groups: dict[str, list[Record]] = collections.defaultdict(list)
  for record in records:
    if record['references']:
      groups[record['name']].append(record)
  return {name: _grid(group) for name, group in groups.items()}


def answers(cell: Record) -> Sequence[Record]:
  """Returns the records of all texts about the image of a grid's record."""
  return cell.get(_ANSWERS) or (cell,)


def key(cell: Record) -> tuple[int, tuple[str, ...]]:
  """Returns the image of a grid's record, and the questions about it."""
  return cell['image_id'], tuple(question(r) for r in answers(cell))


def question(record: Record) -> str:
  """Returns the id of a record's question; '' of a caption."""
  return record.get('question') or ''


def answer(record: Record) -> str:
  """Returns what metrics compare with the references."""
  if record.get('question') is None:
    return record['caption']
  return record['answer']


def _grid(group: Sequence[Record]) -> Grid:
  seeds = sorted({record['seed'] for record in group})
  images: dict[int, dict[int, dict[str, Record]]] = {}
  for record in group:
    by_seed = images.setdefault(record['image_id'], {})
    by_seed.setdefault(record['seed'], {})[question(record)] = record
  return [
    [_cell(by_seed[seed]) for seed in seeds]
    for _, by_seed in sorted(images.items())
    if len(by_seed) == len(seeds) and all(map(_is_whole, by_seed.values()))
  ]


def _is_whole(texts: Mapping[str, Record]) -> bool:
  """Whether all questions about a picture were answered."""
  return len(texts) == (next(iter(texts.values())).get('questions') or 1)


def _cell(texts: Mapping[str, Record]) -> Record:
  if '' in texts:
    return texts['']
  several = [texts[name] for name in sorted(texts)]
  return {**several[0], _ANSWERS: several}


def of_kind(grid: Grid, kind: str) -> Grid:
  """Returns the part of a grid about questions of a kind."""
  part = []
  for row in grid:
    texts = [
      {question(r): r for r in answers(cell) if r.get('kind') == kind}
      for cell in row
    ]
    if texts[0]:
      part.append([_cell(by_question) for by_question in texts])
  return part


def kinds(records: Sequence[Record]) -> list[str]:
  """Returns the kinds of the questions of records, in their order."""
  found = dict.fromkeys(record.get('kind') or '' for record in records)
  return [kind for kind in found if kind]


def of_kinds(records: Sequence[Record], *chosen: str) -> list[Record]:
  """Returns the answers to questions of some kinds.

    rows = cj.evaluation.summarize(cj.evaluation.of_kinds(records, 'count'))

  Each picture's number of questions becomes that of the chosen ones; bytes stay
  those of the message, and 'question_bytes' the share of all its questions.

  Args:
    records: Records of a task.
    *chosen: The kinds.

  Raises:
    ValueError: There is no such question.
  """
  fitting = _answers_to(records, lambda record: record.get('kind') in chosen)
  if not fitting:
    raise ValueError(
      f'kinds: got {", ".join(chosen)}, expected some of'
      f' {", ".join(kinds(records)) or "none: the records are of captions"}'
    )
  return fitting


def of_wrong(
  records: Sequence[Record], name: str, metric: str, right: float = 1.0
) -> list[Record]:
  """Returns the answers to the questions that a codec gets wrong.

  Questions that a picture reduced to a few bytes answers, or a guess, say
  little of other codecs: these are the rest of them.

  Args:
    records: Records of a task, with the codec's among them.
    name: Name of the codec; of its seeds the first counts.
    metric: Name of a metric of the records' scores.
    right: Score of a right answer; lower ones are wrong.

  Source: VTC-Bench's control, samples that a downsampled picture gets wrong.
  """
  wrong, seen = set(), set()
  for record in records:
    key = record['image_id'], question(record)
    if record['name'] == name and key not in seen:
      seen.add(key)
      if record['scores'][metric] < right:
        wrong.add(key)
  return _answers_to(
    records, lambda record: (record['image_id'], question(record)) in wrong
  )


def _answers_to(
  records: Sequence[Record], fits: Callable[[Record], bool]
) -> list[Record]:
  """Returns the fitting records, of pictures of which all are there."""
  whole = _whole_pictures(records)
  fitting = [r for r in records if _place(r) in whole and fits(r)]
  counts: dict[Any, set[str]] = collections.defaultdict(set)
  for record in fitting:
    counts[_place(record)].add(question(record))
  return [{**r, 'questions': len(counts[_place(r)])} for r in fitting]


def _place(record: Record) -> tuple[str, int, int]:
  return record['name'], record['seed'], record['image_id']


def _whole_pictures(records: Sequence[Record]) -> set[tuple[str, int, int]]:
  """Returns codec, seed and image where all questions were answered."""
  texts: dict[Any, dict[str, Record]] = collections.defaultdict(dict)
  for record in records:
    texts[_place(record)][question(record)] = record
  return {place for place, several in texts.items() if _is_whole(several)}


def metrics_of(
  records: Sequence[Record], strict: bool = True
) -> tuple[str, ...]:
  """Returns the metrics of the task of records, those of captions if none.

  Args:
    records: From `evaluate` or `read_records`. Of a task outside of this
      package, which records do not import, or that this version does not know,
      those that they have scores of.
    strict: Refuse metrics of a class of somebody's; else they are left out.

  Raises:
    ValueError: They are of a class of somebody's; it must be named.
  """
  first = records[0] if records else {}
  name = first.get('task')
  if name is None:
    return metrics_lib.DEFAULT
  task = tasks.of_data(name)
  names = task.metrics if task else tuple(first.get('scores') or ())
  if not strict:
    return tuple(metric for metric in names if ':' not in metric)
  if not names:
    raise _validate.error(
      'metrics',
      'none',
      f'those of {name}, which records do not import',
      _NAME_THEM,
    )
  for metric in names:
    registry.check_data('metrics', metric, _NAME_THEM)
  return names
