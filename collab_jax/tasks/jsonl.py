"""Questions about pictures of one's own: a list of lines beside a folder."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

from collab_jax import _validate
from collab_jax.data import files, question
from collab_jax.tasks import base, listed


@dataclasses.dataclass(frozen=True)
class Jsonl(listed.ListedTask):
  """Questions in a JSONL list, with the pictures in its folder.

    Jsonl().load('/data/mine', 'test')
    Jsonl(score='anls', prompt='{question}')

  A line of `<split>.jsonl`; kind and id may be left out, and a prompt may stand
  for the question, which the model then gets as it is:

    {"image": "a.jpg", "question": "what is this", "answers": ["dog", "a dog"],
     "kind": "animal", "id": "q1"}

  Attributes:
    score: metric of the answers, the task's score.
    prompt: text with {question}, as the model gets it.
    length: tokens that an answer may have.
  """

  score: str = 'exact(case=ignore)'
  prompt: str = 'answer en {question}'
  length: int = 32
  label: ClassVar[str] = 'jsonl'
  files: ClassVar[tuple[str, ...]] = ('<split>.jsonl', 'the pictures it names')
  licence: ClassVar[str] = "one's own"

  def __post_init__(self):
    super().__post_init__()
    _validate.integer('length', self.length)

  @property
  def metrics(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
    """The score."""
    return (self.score,)

  @property
  def max_tokens(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
    """The length."""
    return self.length

  def choose_split(self, split: str) -> str:
    """Returns the name of the list, 'test' for ''."""
    return split or 'test'

  def listing(self, folder: Path, split: str) -> listed.Listing:
    """Reads the lines of a split's list."""
    path = listed.find(folder, [f'{split}.jsonl'], 'list of questions')
    lines = [
      (f'{path}:{number}', files.parse(line, f'{path}:{number}'))
      for number, line in enumerate(path.read_bytes().splitlines(), 1)
      if line.strip()
    ]
    names = [files.field(item, 'image', str, where) for where, item in lines]
    ids = files.stable_ids(names)
    used: set[str] = set()
    rows = []
    for index, (name, (where, item)) in enumerate(
      zip(names, lines, strict=True)
    ):
      query = self._question(item, where, index)
      if query.id in used:
        raise _validate.error(f'{where}: id', query.id, 'an id of its own')
      used.add(query.id)
      rows.append(
        listed.Row(files.inside(folder, name, where), ids[name], query)
      )
    return listed.Listing(path, rows)

  def _question(self, item: Any, where: str, index: int) -> question.Question:
    name = 'question' if item.get('prompt') is None else 'prompt'
    text = files.field(item, name, str, where)
    if not text.strip() or text.endswith('\n'):
      raise _validate.error(
        f'{where}: {name}', text, 'a text without a newline at its end'
      )
    prompt = text
    if name == 'question':
      prompt = base.filled(self.prompt, question=text)
    answers = item.get('answers')
    if isinstance(answers, str):
      references = (answers,)
    else:
      references = listed.texts(item, 'answers', where)
    if not all(reference.strip() for reference in references):
      raise _validate.error(f'{where}: answers', answers, 'texts, none blank')
    kind = _name(item, 'kind', '', where)
    return question.Question(
      prompt, references, kind, _name(item, 'id', str(index), where)
    )


def _name(item: Any, field: str, default: str, where: str) -> str:
  """Returns a field that may be left out or null: a text, or an integer."""
  value = item.get(field)
  if value is None or value == '':
    return default
  if not isinstance(value, str) and not _validate.is_integer(value):
    raise _validate.error(f'{where}: {field}', value, 'a text or an integer')
  return str(value)
