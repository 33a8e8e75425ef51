"""Checks of the contract of tasks, for their authors."""

import dataclasses
import os
from typing import Any

import numpy as np

from collab_jax import metrics, tasks
from collab_jax.data import example, pictures, question
from collab_jax.models import decoding
from collab_jax.tasks import base

# Texts that a model may generate, few of them answers.
_TEXTS = (
  '',
  '\n',
  'red',
  'The answer is B.',
  'it\u2019s \u8349 \U0001f388',
  '<loc0000><loc0000><loc1023><loc1023> ring',
  '<loc0100><loc0100><loc0900><loc0900>' + '<seg003>' * 16,
  '<loc9999>' * 4 + '<seg999>' * 16,
  '{"box": [0, 0, 1, 1]}',
  '[' * 50,
  'word ' * 500,
)
_MOST = 50  # Pictures that are read.


def check_task(
  task: str | base.Task,
  folder: str | os.PathLike[str] = '',
  split: str = '',
  size: int = 32,
) -> None:
  """Checks that a task keeps the contract of `tasks.Task`.

      cj.testing.check_task('mine:Signs', 'tests/data/signs')

  That is: a hashable frozen dataclass that its name makes again; settings that
  metrics, decoding and resizing know; pictures of the size that is asked for,
  with ids and questions of their own, the same when they are read again, and
  fewer with a limit; prompts and references that are texts; answers that are
  read from any text; and right answers: `read` of what `write` writes scores,
  by the first metric, at least what a reference itself does, for each question,
  unless `writes_exactly` is False, and no worse than none.

  Args:
    task: The task under test, by name or itself.
    folder: A folder with a few pictures of the dataset, in its format.
    split: The split; '' for the task's first.
    size: Side of the pictures in pixels.

  Raises:
    AssertionError: It says what was checked, what was found and what is needed.
    TypeError: It is no task.
    ImportError: The module of a name cannot be imported.
    ValueError: There is no task of a name.
  """
  task = tasks.make(task)
  title = type(task).__name__
  _check_settings(task, title)
  reader = task.load(folder, split, size=size)
  _require(
    isinstance(getattr(reader, 'name', None), str) and reader.name,
    f'{title}.load: the reader needs a name, a text.',
  )
  _require(len(reader) > 0, f'{title}.load: the reader has no pictures.')
  count = min(len(reader), _MOST)
  examples = [reader[i] for i in range(count)]
  _check_examples(title, examples)
  _check_reader(task, title, reader, examples, (folder, split, size))
  asked = [q for picture in examples for q in picture.questions]
  _check_questions(title, asked)
  _check_answers(task, title, asked)


def _check_settings(task: base.Task, title: str) -> None:
  same = dataclasses.replace(task)  # pyright: ignore[reportArgumentType]
  _require(
    same == task and hash(same) == hash(task),
    f'{title}: equal settings must compare equal and have equal hashes.',
  )
  name = tasks.name(task)
  if '<locals>' not in name and '__main__' not in name:
    _require(
      tasks.make(name) == task,
      f'{title}: the name {name!r} must make the same task again.',
    )
  _require(
    isinstance(task.max_tokens, int) and task.max_tokens > 0,
    f'{title}.max_tokens must be a positive int, got {task.max_tokens!r}.',
  )
  decoding.make(task.decoding)
  pictures.check_method(1, task.preprocess)
  known = metrics.make_all(task.metrics)
  names = [*task.metrics]
  _require(
    names == [*known],
    f'{title}.metrics: got {names}, expected them as metrics.name writes them,'
    f' {[*known]}.',
  )
  for score in task.published:
    _require(
      score.metric in task.metrics and bool(score.source),
      f'{title}.published: {score} must be of one of the metrics, and have a'
      ' source.',
    )
  _require(
    isinstance(task.warning(), str), f'{title}.warning() must return a text.'
  )


def _check_examples(title: str, examples: list[example.Example]) -> None:
  ids = [picture.image_id for picture in examples]
  _require(
    len({*ids}) == len(ids) and all(0 <= i < 2**32 for i in ids),
    f'{title}: image ids must differ and lie below 2**32, got {ids[:8]}.',
  )
  for i, picture in enumerate(examples):
    image = picture.image
    _require(
      image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3,
      f'{title}: picture {i} must be u8[H W 3], got'
      f' {image.dtype}{image.shape}.',
    )
    _require(
      image.shape == examples[0].image.shape,
      f'{title}: pictures must have one size, got {image.shape}.',
    )
    _require(
      picture.questions, f'{title}: picture {i} has no question to answer.'
    )


def _check_reader(
  task: base.Task,
  title: str,
  reader: Any,
  examples: list[example.Example],
  arguments: tuple[Any, str, int],
) -> None:
  folder, split, size = arguments
  try:
    reader[len(reader)]
  except IndexError:
    pass
  else:
    raise AssertionError(f'{title}: an IndexError must end the reader.')
  again = task.load(folder, split, limit=1, size=size)
  _require(
    len(again) == 1, f'{title}: limit=1 must leave 1 picture, not {len(again)}.'
  )
  first, same = examples[0], again[0]
  _require(
    np.array_equal(first.image, same.image)
    and first.image_id == same.image_id
    and first.questions == same.questions,
    f'{title}: the first picture, or its questions, differ with limit=1.',
  )


def _check_questions(title: str, asked: list[question.Question]) -> None:
  ids = [q.id for q in asked]
  _require(
    len({*ids}) == len(ids),
    f'{title}: ids of questions must differ, got {ids[:8]}.',
  )
  for q in asked:
    _require(
      isinstance(q.prompt, str) and q.prompt and not q.prompt.endswith('\n'),
      f'{title}: a prompt must be a text without a newline at its end, got'
      f' {q.prompt!r:.80}.',
    )
    _require(
      isinstance(q.references, tuple)
      and q.references
      and all(isinstance(ref, str) for ref in q.references),
      f'{title}: references must be a tuple of texts, one at least, got'
      f' {q.references!r:.80}.',
    )


def _check_answers(
  task: base.Task, title: str, asked: list[question.Question]
) -> None:
  references = [list(q.references) for q in asked]

  def scores(texts: list[str], metric: Any) -> float:
    answers = []
    for text, q in zip(texts, asked, strict=True):
      answers.append(_read(task, text, q))
    return metric.score(answers, references)

  for metric in metrics.make_all(task.metrics).values():
    low, high = metric.bounds
    for text in _TEXTS:
      score = scores([text] * len(asked), metric)
      _require(
        low <= score <= high,
        f'{title}: {metric.label} of {text[:40]!r} is {score}, beyond its'
        ' bounds.',
      )
  first = metrics.make(task.metrics[0])
  right = scores([task.write(q) for q in asked], first)
  none = scores([''] * len(asked), first)
  _require(
    right >= none if first.higher_is_better else right <= none,
    f'{title}: right answers of `write` score {right}, none {none}.',
  )
  if task.writes_exactly:
    _check_written(task, title, asked, first)


def _check_written(
  task: base.Task, title: str, asked: list[question.Question], metric: Any
) -> None:
  """Checks that what is read of right texts is worth as much as references."""
  references = [q.references for q in asked]

  def worth(answers: list[str]) -> np.ndarray:
    sums = metrics.checked_statistics(metric, answers, references)
    scores = np.asarray(metric.combine(sums))
    return scores if metric.higher_is_better else -scores

  texts = [task.write(q) for q in asked]
  answers = [_read(task, *pair) for pair in zip(texts, asked, strict=True)]
  got = worth(answers)
  # Of several references some may be worth less: one of ten people's answers.
  most = max(len(refs) for refs in references)
  needed = np.min(
    [
      worth([refs[min(i, len(refs) - 1)] for refs in references])
      for i in range(most)
    ],
    axis=0,
  )
  for i in np.flatnonzero(got < needed - 1e-6):
    raise AssertionError(
      f'{title}: question {asked[i].id!r}: `write` writes {texts[i]!r:.80},'
      f' `read` of it is {answers[i]!r:.80}, whose {metric.label} is'
      f' {abs(got[i]):g}, and that of a reference, {references[i][0]!r:.80},'
      f' {abs(needed[i]):g}; let `read` return what metrics compare with'
      ' references.'
    )


def _read(task: base.Task, text: str, asked: question.Question) -> str:
  try:
    return base.read_answer(task, text, asked)
  except (TypeError, ValueError) as error:
    raise AssertionError(str(error)) from error


def _require(condition: Any, message: str) -> None:
  if not condition:
    raise AssertionError(message)
