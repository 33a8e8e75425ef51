"""Checks of an evaluation's settings."""

from collections.abc import Sequence
from typing import Any

from collab_jax import _validate
from collab_jax import data as datasets
from collab_jax.evaluation import blind as blinds


def check_arguments(
  codecs: Sequence[Any], captioner: Any, data: Any, blind: Sequence[str]
) -> None:
  """Checks that there is something to evaluate, with what it needs.

  Args:
    codecs: See `evaluate`.
    captioner: See `evaluate`.
    data: See `evaluate`.
    blind: See `evaluate`.

  Raises:
    TypeError: The captioner or the data are something else.
    ValueError: There is neither a codec nor a blind baseline.
  """
  if not codecs and not blind:
    raise ValueError('codecs: got none, expected one or more')
  if not hasattr(captioner, 'generate') or not hasattr(captioner, 'model'):
    raise TypeError(
      f'captioner: got {type(captioner).__name__}, expected a Captioner; make'
      ' one by collab_jax.Captioner(model)'
    )
  if isinstance(data, str):
    raise TypeError(
      f'data: got {data!r}, expected a reader; make one by'
      f' collab_jax.data.make({data!r})'
    )
  members = ('name', '__len__', '__getitem__')
  if lacking := [name for name in members if not hasattr(data, name)]:
    raise TypeError(
      f'data: got {type(data).__name__} without {" and ".join(lacking)},'
      ' expected a reader of Examples; docs/extend.md has one of your own'
    )


def check_questions(task: Any, data: Any) -> datasets.Example:
  """Checks that the first picture of a reader has questions of a task.

  Args:
    task: See `evaluate`.
    data: See `evaluate`; of at least one picture.

  Returns:
    The picture.

  Raises:
    ValueError: It has none, or as of `check_picture`.
  """
  picture = data[0]
  if not picture.questions:
    raise _validate.error(
      'data',
      f'{data.name}, whose pictures have no questions',
      f'a reader of {task.label}',
      'make one by task.load(folder, split)',
    )
  check_picture(picture)
  return picture


def check_picture(picture: datasets.Example) -> None:
  """Checks the questions about a picture: records can tell them and score them.

  Args:
    picture: A picture of a task.

  Raises:
    ValueError: It has no question, two of one id, or one without references.
  """
  where = f'questions of picture {picture.image_id}'
  ids = [asked.id for asked in picture.questions]
  if not ids:
    raise _validate.error(where, [], 'at least one')
  if not all(ids) or len({*ids}) < len(ids):
    raise _validate.error(f'{where}: id', ids[:8], 'a text of its own for each')
  for asked in picture.questions:
    if not asked.references:
      raise _validate.error(
        f'{where}: references of {asked.id}',
        asked.references,
        'one or more',
        'leave questions out whose answer is not known',
      )


def check_passes(
  seeds: Sequence[int],
  batch_size: int = 1,
  workers: int = 1,
  blind: Sequence[str] = (),
) -> None:
  """Checks the settings that do not depend on model and data.

  Args:
    seeds: See `evaluate`.
    batch_size: See `evaluate`.
    workers: See `evaluate`.
    blind: See `evaluate`.

  Raises:
    ValueError: One of them is out of range.
  """
  listed = isinstance(seeds, Sequence) and not isinstance(seeds, str)
  whole = listed and all(type(seed) is int for seed in seeds)
  if not whole or not seeds or len(set(seeds)) < len(seeds):
    raise ValueError(
      f'seeds: got {seeds}, expected one or more whole numbers, all different'
    )
  for name, value in (('batch_size', batch_size), ('workers', workers)):
    if not isinstance(value, int) or value < 1:
      raise ValueError(f'{name}: got {value}, expected at least 1')
  blinds.check(blind)
