"""Tasks: examples of a dataset, prompts, answers and their scores."""

import abc
from collections.abc import Collection
import dataclasses
import os
import re
from typing import Any, ClassVar

from collab_jax import _validate, metrics
from collab_jax.data import question

# Scores of the released checkpoints in all files of this folder are from here.
PUBLISHED_IN = (
  'google-research/big_vision at 0127fb6,'
  ' big_vision/configs/proj/paligemma/README.md'
)

_PLACE = re.compile(r'\{(\w+)\}')


@dataclasses.dataclass(frozen=True)
class Published:
  """Published score, to compare with before anything is compressed.

  Attributes:
    checkpoint: name in `models.zoo`.
    score: as papers print it, of all vectors.
    metric: name in `metrics.NAMES` or with settings, as in `Task.metrics`.
    split: name of the split.
    kind: the kind of questions that are scored; '' for all.
    source: where it is published.
  """

  checkpoint: str
  score: float
  metric: str
  split: str
  kind: str = ''
  source: str = PUBLISHED_IN


def published(
  checkpoint: str,
  metric: str,
  split: str,
  *scores: float,
  kind: str = '',
  sizes: tuple[int, ...] = (224, 448, 896),
) -> tuple[Published, ...]:
  """Returns the scores of a fine-tuned checkpoint by the picture's size."""
  return tuple(
    Published(
      f'paligemma-3b-ft-{checkpoint}-{size}', score, metric, split, kind
    )
    for size, score in zip(sizes, scores, strict=False)
  )


class Task(abc.ABC):
  """Dataset that a model is asked about, and what its answers are worth.

    task = cj.tasks.make('okvqa')
    reader = task.load('/data/okvqa', limit=100)
    question = reader[0].questions[0]
    answer = task.read('red', question)
    metric = cj.metrics.make(task.metrics[0])
    metric.score([answer], [question.references])

  A subclass is a frozen dataclass, whose fields are plain values and make its
  name: 'refcoco(dataset=refcoco+)'. `tasks.ListedTask` is the base of those
  that read a list of pictures and questions. Where there is a field `prompt`,
  every prompt must have the places of its default, such as {question}, and no
  others; a field `score` names a metric. A `__post_init__` of one's own calls
  this one's.

  Attributes:
    label: name in tables and figures.
    max_tokens: tokens that an answer may have.
    decoding: method, as `Captioner` takes it.
    preprocess: method of resizing, a name in `data.METHODS`.
    metrics: names as `metrics.make` takes them; the first is the task's score.
    splits: names of the splits; the first is that of the protocol.
    seen: splits that the fine-tuned checkpoints were trained on.
    published: scores of released checkpoints.
    checkpoints: their names in `models.zoo` without the size.
    files: what the folder must hold, for people.
    url: where the files are from.
    licence: of the files.
    writes_exactly: whether `write` knows a text of the whole reference; False
      where the text is a coding that only a model makes, as of masks.
  """

  label: ClassVar[str]
  max_tokens: ClassVar[int] = 32
  decoding: ClassVar[str] = 'greedy'
  preprocess: ClassVar[str] = 'bv_bilinear_aa'
  metrics: ClassVar[tuple[str, ...]]
  splits: ClassVar[tuple[str, ...]] = ('test',)
  seen: ClassVar[tuple[str, ...]] = ()
  published: ClassVar[tuple[Published, ...]] = ()
  checkpoints: ClassVar[tuple[str, ...]] = ()
  files: ClassVar[tuple[str, ...]] = ()
  url: ClassVar[str] = ''
  licence: ClassVar[str] = ''
  writes_exactly: ClassVar[bool] = True

  def __post_init__(self):
    """Raises ValueError for a prompt or a score that cannot be used."""
    check_prompt(self)
    score = getattr(self, 'score', None)
    # A class of one's own is imported where the task is used.
    if isinstance(score, str) and ':' not in score:
      metrics.make(score)

  @property
  def kinds(self) -> tuple[str, ...]:
    """Kinds of questions, as far as they are known without the files."""
    return ()

  @abc.abstractmethod
  def load(
    self,
    folder: str | os.PathLike[str] = '',
    split: str = '',
    limit: int | None = None,
    size: int = 224,
    method: str = '',
  ) -> Any:
    """Makes a reader of pictures with questions about each.

    Args:
      folder: holds the dataset's files.
      split: a name in `splits`; '' for the first.
      limit: largest number of pictures, in the list's order; None for all.
      size: side of the pictures in pixels.
      method: method of resizing; '' for `preprocess`.

    Returns:
      A reader with `name`, `__len__` and `__getitem__(int) -> data.Example`,
      whose questions have prompts and references.

    Raises:
      FileNotFoundError: a file is missing; it says where to get it.
      ValueError: a file holds something else, or an unknown split.
    """

  def read(self, text: str, asked: question.Question) -> str:
    """Reads the answer in a model's text, as metrics compare it.

    Args:
      text: what the model generated.
      asked: the question, for what the answer depends on.

    Returns:
      The answer; '' where the text holds none.
    """
    del asked
    return text

  def write(self, asked: question.Question) -> str:
    """Returns a text that is a right answer, from which `read` reads it.

    What `read` reads scores at least what a reference itself does, by the
    first metric, unless `writes_exactly` is False.
    """
    return asked.references[0]

  def choose_split(self, split: str) -> str:
    """Returns a split, the first for ''; ValueError if there is none such."""
    if split and split not in self.splits:
      raise _validate.unknown('split', split, self.splits)
    return split or self.splits[0]

  def warning(self, split: str = '') -> str:
    """Returns what to know before a split's score is told; '' for nothing."""
    split = self.choose_split(split)
    if split not in self.seen:
      return ''
    names = ', '.join(self.checkpoints)
    return (
      f'{self.label}: {names} were trained on {" and ".join(self.seen)}, so'
      f' that scores on {split} are of answers that were seen; compare codecs'
      ' with each other, or take a mix checkpoint'
    )

  def describe(self) -> dict[str, Any]:
    """Returns what records and tables say of the task, as plain values."""
    return {
      'label': self.label,
      'max_tokens': self.max_tokens,
      'decoding': self.decoding,
      'preprocess': self.preprocess,
      'metrics': [*self.metrics],
      'published': [dataclasses.asdict(p) for p in self.published],
    }


def as_task(name: str, value: Any) -> Task:
  """Returns a task as it is, or raises an error that says what it lacks.

  Args:
    name: name of the argument, for errors.
    value: expected to be an instance of a frozen dataclass.

  Raises:
    TypeError: it is no task.
  """
  _validate.instance(name, value, Task)
  for member in ('label', 'metrics'):
    if not getattr(value, member, None):
      raise _validate.error(
        name,
        value,
        f'a task with {member}',
        f'write {member} in its class',
        TypeError,
      )
  return value


def read_answer(task: Task, text: str, asked: question.Question) -> str:
  """Reads the answer in a text, by `Task.read`, and checks it.

  Raises:
    ValueError: `read` raised an error; it says of which text.
    TypeError: It returned no text.
  """
  title = f'{type(task).__name__}.read of {text!r:.60}'
  do = "return '' where a text holds no answer"
  try:
    answer: Any = task.read(text, asked)
  except Exception as error:
    raise _validate.error(title, error, 'a text', do) from error
  if not isinstance(answer, str):
    raise _validate.error(title, answer, 'a text', do, TypeError)
  return answer


def places(template: str) -> list[str]:
  """Returns the names that stand in braces in a template, each once."""
  return [*dict.fromkeys(_PLACE.findall(template))]


def check_prompt(task: Task) -> None:
  """Raises ValueError if a prompt has not the places that its default has."""
  fields = dataclasses.fields(task)  # pyright: ignore[reportArgumentType]
  default = next((f.default for f in fields if f.name == 'prompt'), None)
  prompt = getattr(task, 'prompt', None)
  if not isinstance(default, str):
    return
  if not isinstance(prompt, str):
    raise _validate.error('prompt', prompt, 'a text')
  if prompt.endswith('\n'):  # The tokenizer adds it.
    raise _validate.error(
      'prompt', prompt, 'a text without a newline at its end'
    )
  if names := places(default):
    check_places(prompt, names)


def check_places(template: str, names: Collection[str]) -> None:
  """Raises ValueError if a template has not the places of some texts."""
  surplus = [name for name in places(template) if name not in names]
  lacking = not {*names} <= {*places(template)}
  if lacking or surplus:
    listed = ' and '.join(f'{{{name}}}' for name in names)
    only = 'a text' if lacking else f'no {{{surplus[0]}}}, but a text'
    raise _validate.error('prompt', template, f'{only} with {listed} in it')


def filled(template: str, **texts: str) -> str:
  """Returns a prompt: a template with its texts, braces in them as they are.

  Raises:
    ValueError: the template lacks the place of a text, or has another.
  """
  check_places(template, texts)
  return _PLACE.sub(lambda match: texts[match[1]], template)
