"""Remark on pictures unlike those that a model was trained on."""

from collections.abc import Mapping, Sequence
from typing import Any


def unlike_pictures(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns a sentence on pictures unlike those of the training.

  Args:
    rows: From `summarize`.

  Returns:
    The sentence; '' if there are none, or nothing is known of the training.
  """
  row = max(rows, key=lambda row: row.get('unlike', 0), default={})
  if not (count := row.get('unlike', 0)):
    return ''
  return describe(
    count, row['images'], row['data'], row['model'], bool(row.get('questions'))
  )


def of_records(records: Sequence[Mapping[str, Any]]) -> str:
  """Returns the sentence of `unlike_pictures` on records of one run."""
  unlike = {r['image_id'] for r in records if r.get('unlike')}
  if not unlike:
    return ''
  total = len({r['image_id'] for r in records})
  first = records[0]
  return describe(
    len(unlike), total, first.get('data'), first.get('model'), 'task' in first
  )


def describe(
  count: int,
  total: int,
  data: str | None,
  model: str | None,
  is_task: bool = False,
) -> str:
  """Says how many pictures are unlike those of the training.

  Args:
    count: Number of these pictures.
    total: Number of all pictures.
    data: Name of the dataset.
    model: Name of the model.
    is_task: Whether the texts answer a task's questions.
  """
  verb, whose = ('is', 'its') if count == 1 else ('are', 'their')
  texts = 'caption means' if count == 1 else 'captions mean'
  if is_task:
    texts = 'answers mean'
  return (
    f'{count:,} of {total:,} pictures of {data} {verb} unlike those that the'
    f' {model} model was trained on: {whose} {texts} nothing.'
  )
