"""Tasks: what a model is asked about pictures, and what answers are worth."""

from collections.abc import Mapping
import dataclasses
import json
from typing import Any

from collab_jax import config, registry
from collab_jax.data import readers
from collab_jax.tasks.ai2d import Ai2d
from collab_jax.tasks.base import Published, Task, as_task
from collab_jax.tasks.captions import (
  Captions,
  CocoCaptions,
  NoCaps,
  TextCaps,
)
from collab_jax.tasks.charts import ChartQa, OcrVqa
from collab_jax.tasks.detections import (
  Detection,
  ParsedAnswer,
  parse_answer,
)
from collab_jax.tasks.gqa import Gqa
from collab_jax.tasks.jsonl import Jsonl
from collab_jax.tasks.listed import ListedTask, Listing, Row
from collab_jax.tasks.refcoco import RefCoco, RefCocoBox
from collab_jax.tasks.scenes import SceneBoxes, SceneQuestions
from collab_jax.tasks.science_qa import ScienceQa
from collab_jax.tasks.tallyqa import TallyQa
from collab_jax.tasks.tsv import Tsv
from collab_jax.tasks.vqa import OkVqa, TextVqa, VqaV2

__all__ = [
  'NAMES',
  'Ai2d',
  'Captions',
  'ChartQa',
  'CocoCaptions',
  'Detection',
  'Gqa',
  'Jsonl',
  'ListedTask',
  'Listing',
  'NoCaps',
  'OcrVqa',
  'OkVqa',
  'ParsedAnswer',
  'Published',
  'RefCoco',
  'RefCocoBox',
  'Row',
  'SceneBoxes',
  'SceneQuestions',
  'ScienceQa',
  'TallyQa',
  'Task',
  'TextCaps',
  'TextVqa',
  'Tsv',
  'VqaV2',
  'as_task',
  'make',
  'name',
  'of_data',
  'parse_answer',
]
__dir__ = __all__.copy

NAMES: Mapping[str, type] = {
  'captions': Captions,
  'coco': CocoCaptions,
  'nocaps': NoCaps,
  'textcaps': TextCaps,
  'okvqa': OkVqa,
  'vqav2': VqaV2,
  'textvqa': TextVqa,
  'gqa': Gqa,
  'tallyqa': TallyQa,
  'science_qa': ScienceQa,
  'ai2d': Ai2d,
  'chartqa': ChartQa,
  'ocrvqa': OcrVqa,
  'refcoco': RefCoco,
  'refcoco_box': RefCocoBox,
  'scenes': SceneQuestions,
  'scenes_box': SceneBoxes,
  'tsv': Tsv,
  'jsonl': Jsonl,
}


def make(task: Any) -> Task:
  """Makes a task by name, as configs have it.

      make('okvqa')
      make('refcoco(dataset=refcoco+,weights=/data/vae-oid.npz)')
      make('package.module:Class(setting=1)')

  Args:
    task: A key of `NAMES` or 'package.module:Class', settings in parentheses;
      a task is returned as it is.

  Returns:
    The task.

  Raises:
    ValueError: The name or a setting is unknown, with the nearest known one.
    ImportError: The module cannot be imported.
    TypeError: It is no task.
  """
  if not isinstance(task, str):
    return as_task('task', task)
  made = _make(task)
  if isinstance(made, Captions):  # Of records it may be on another machine.
    readers.check_name(made.data)
  return made


def _make(text: str) -> Task:
  title, settings = config.call(text, 'task', 'okvqa')
  return as_task('task', registry.make(NAMES, 'task', title, **settings))


def of_data(name: str) -> Task | None:
  """Makes the task that a record names; no module is imported.

  Args:
    name: Out of a record or another file. Settings may be any text: none of
      them is imported when the task is made.

  Returns:
    The task; None for a class outside of this package, and for what this
    version does not know.
  """
  try:
    title, _ = config.call(name, 'task', 'okvqa')
    registry.check_data('task', title)
    return _make(name)
  except ValueError:
    return None


def name(task: Any) -> str:
  """Returns the name of a task, from which `make` makes an equal one.

  Args:
    task: The task.

  Returns:
    'okvqa', or 'package.module:Class(setting=1)'; defaults are left out, and
    texts that `make` would split stand in double quotes.
  """
  settings = [
    f'{field.name}={_setting(value)}'
    for field in dataclasses.fields(task)
    for value in [getattr(task, field.name)]
    if value != field.default
  ]
  title = registry.title(NAMES, type(task))
  return f'{title}({",".join(settings)})' if settings else title


def _setting(value: Any) -> Any:
  """Returns a setting as `config.call` reads it back."""
  if not isinstance(value, str):
    return value
  try:
    _, read = config.call(f'task(setting={value})', 'task', 'okvqa')
  except ValueError:
    read = {}
  if read == {'setting': value}:
    return value
  return json.dumps(value, ensure_ascii=False)
