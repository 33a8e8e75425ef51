"""Writes the tables of docs/tasks.md: what each task asks, and of what files.

  python -m tools.tasks_table

The classes in collab_jax/tasks are the source. It replaces what stands between
the page's marks.
"""

import pathlib
import re

from collab_jax import metrics, tasks
from tools import markdown_table

PAGE = pathlib.Path(__file__).parents[1] / 'docs/tasks.md'
_MARK = '<!-- table: {} -->'


def asked() -> str:
  """Returns the table of prompts, answers and scores."""
  rows = []
  for name, task in _tasks():
    score = metrics.make(task.metrics[0])
    split = task.splits[0] if task.splits else "the file's name"
    rows.append(
      [
        f'`{name}`',
        _code(getattr(task, 'prompt', _PROMPTS.get(name, ''))),
        f'{task.max_tokens}',
        '' if task.decoding == 'greedy' else f'`{task.decoding}`',
        f'`{task.preprocess}`',
        f'`{task.metrics[0]}` {score.label}',
        split + (', **seen**' if split in task.seen else ''),
        _published(task),
      ]
    )
  head = [
    *('task', 'prompt', 'tokens', 'decoding', 'resized by', 'score'),
    *('split', 'published at 224 / 448 / 896 px'),
  ]
  return markdown_table.render(head, rows)


def folders() -> str:
  """Returns the table of files."""
  rows = [
    [
      f'`{name}`',
      '<br>'.join(_names(line) for line in task.files),
      f'<{task.url}>' if task.url else '',
      task.licence,
      '<br>'.join(f'`{c}`' for c in task.checkpoints),
    ]
    for name, task in _tasks()
    if task.files
  ]
  head = ['task', 'in the folder', 'from', 'licence', 'checkpoints']
  return markdown_table.render(head, rows)


def page(text: str) -> str:
  """Returns the page with both tables anew."""
  for name, table in (('asked', asked()), ('folders', folders())):
    mark = _MARK.format(name)
    text = re.sub(
      f'{mark}\n\n(.*?\n\n)?{mark}',
      lambda match, m=mark, t=table: f'{m}\n\n{t}\n\n{m}',
      text,
      count=1,
      flags=re.S,
    )
  return text


def main() -> None:
  """Writes the page."""
  PAGE.write_text(page(PAGE.read_text('utf-8')), 'utf-8')


# Tasks whose datasets have the prompt.
_PROMPTS = {
  'scenes': 'answer en what colour is the ring',
  'scenes_box': 'detect red ring',
}


def _tasks() -> list[tuple[str, tasks.Task]]:
  instances = [(name, tasks.make(name)) for name in tasks.NAMES]
  others = [f'refcoco(dataset={d})' for d in ('refcoco+', 'refcocog')]
  place = [name for name, _ in instances].index('refcoco') + 1
  instances[place:place] = [(name, tasks.make(name)) for name in others]
  return instances


def _code(text: str) -> str:
  shown = text.replace('\n', '\\n')
  return f'`{shown}`'


def _published(task: tasks.Task) -> str:
  kinds: dict[str, list[str]] = {}
  for score in task.published:
    kinds.setdefault(score.kind, []).append(f'{score.score:.2f}')
  split = {p.split for p in task.published} - {*task.splits[:1]}
  ends = f' ({", ".join(sorted(split))})' if split else ''
  return '<br>'.join(
    f'{kind} {" / ".join(scores)}'.strip() + ends
    for kind, scores in kinds.items()
  )


def _names(line: str) -> str:
  """Returns a line of files with the names as code."""
  name, space, words = line.partition(' (')
  return f'`{name}`' + (f' ({words}' if space else '')


if __name__ == '__main__':
  main()
