"""Remark on questions that a model cannot know the answers of."""

import re

from collab_jax import data, tasks
from collab_jax.models import paligemma

_TOKEN = re.compile(r'<(?:loc\d{4}|seg\d{3})>')
# The model of this package is trained on prompts that begin so; before it had
# tokens of places, on the first alone.
_SCENES_MODEL, _FORMS = 'tiny', ('caption en', 'answer en ', 'detect ')
_PLACE = '<loc0000>'


def remark(
  task: tasks.Task, picture: data.Example, model: paligemma.Model
) -> str:
  """Returns why answers of a task mean nothing, of a model; '' if they may.

  Args:
    task: The task.
    picture: Its first picture, with questions.
    model: The model, with its tokenizer.
  """
  asked, name = picture.questions[0], model.config.name
  needed = _TOKEN.findall(f'{asked.prompt} {task.write(asked)}')
  unknown = [token for token in needed if not _knows(model, token)]
  if unknown:
    return (
      f'{task.label}: answers have tokens such as {unknown[0]}, which the'
      f' vocabulary of {name} has not: it can give none, and scores 0'
    )
  forms = _FORMS if _knows(model, _PLACE) else _FORMS[:1]
  if name == _SCENES_MODEL and not asked.prompt.startswith(forms):
    begins = ', '.join(repr(form.strip()) for form in forms)
    return (
      f'{task.label}: asks {asked.prompt!r:.60}, and {name} was trained on'
      f' prompts that begin with {begins} alone: its answers mean nothing'
    )
  return ''


def _knows(model: paligemma.Model, token: str) -> bool:
  """Whether a token is one piece of a model's vocabulary."""
  return model.tokenizer is None or model.tokenizer.pieces(token) == [token]
