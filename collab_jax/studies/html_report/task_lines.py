"""Lines of a run of several tasks: their records, figures and tables."""

from collections.abc import Mapping, Sequence
import os
from pathlib import Path
import re
from typing import Any, NamedTuple

from matplotlib import figure as figures

from collab_jax import _validate, plots
from collab_jax.evaluation.report import budgets, labels
from collab_jax.evaluation.report import text as text_lib
from collab_jax.studies.html_report import markup

Record = Mapping[str, Any]
Tables = Mapping[str, Sequence[Mapping[str, Any]]]

_K = 8  # Number of vectors that is marked where no config says it.


class LineConfig(NamedTuple):
  """Line of a figure of several tasks, as a config has it.

  Attributes:
    title: Its title.
    task: Name of its task.
    kinds: Kinds of its questions; () for all.
  """

  title: str
  task: str
  kinds: tuple[str, ...]


def stem(task: str) -> str:
  """Returns the name of a task as a part of a file's: letters and digits."""
  return re.sub(r'\W+', '_', task.rpartition(':')[2]).strip('_')


def records_of(workdir: str | os.PathLike[str], task: str) -> Path:
  """Returns the file of a task's records in the folder of a run."""
  return Path(workdir) / stem(task) / 'records.jsonl'


def of_config(config: Mapping[str, Any]) -> list[LineConfig]:
  """Returns the lines of a config as a file has it; none of other runs."""
  lines = config.get('lines')
  if not isinstance(lines, list | tuple):
    return []
  whole = []
  for line in lines:
    match line:
      case (str(title), str(task), list(kinds) | tuple(kinds)):
        whole.append(LineConfig(title, task, tuple(map(str, kinds))))
  return whole


def records_by_title(
  records: Sequence[Record], lines: Sequence[LineConfig], task: str
) -> dict[str, list[Record]]:
  """Returns the records of a task by the titles of its lines.

  Args:
    records: Of the task; of a run that is not finished, perhaps without some
      kinds of questions, whose lines are left out.
    lines: Those of the run.
    task: Name of the task.
  """
  groups = {}
  for line in lines:
    if line.task != task:
      continue
    known = {record.get('kind') for record in records}
    if not line.kinds or known & {*line.kinds}:
      groups[line.title] = budgets.line_of(records, line.kinds)
  return groups


def draw(tables: Tables, k: Any) -> dict[str, figures.Figure]:
  """Draws the figures of lines whose shares are known.

  Args:
    tables: Rows by title.
    k: Number of vectors that is marked, as a config has it.
  """
  whole = {t: rows for t, rows in tables.items() if labels.full(rows)}
  if not whole:
    return {}
  marked = k if _validate.is_integer(k) and k > 0 else _K
  return {
    'tasks': plots.tasks(whole, marked),
    'tasks_rate': plots.task_rates(whole),
  }


def tables(
  tables: Tables, config: Mapping[str, Any], summary: Mapping[str, Any]
) -> list[markup.Element]:
  """Makes the tables of shares, of best codecs and of hard questions.

  Args:
    tables: Rows by title.
    config: The run's.
    summary: Of the same records.
  """
  elements = []
  for share in config.get('shares') or ():
    label = f'Shares kept, and what keeps {text_lib.percent(share)}'
    cells = budgets.kept_cells(tables, config.get('k') or _K, share)
    elements += _table(label, cells, budgets.KEPT_NOTE)
  within = (
    (
      'Best codecs of so many bytes',
      summary.get('best'),
      budgets.budget_cells,
      budgets.BUDGET_NOTE,
    ),
    (
      'Questions that the best picture of so many bytes gets wrong',
      (summary.get('control') or {}).get('within'),
      budgets.control_cells,
      budgets.CONTROL_NOTE,
    ),
  )
  for label, groups, cells_of, note in within:
    known = {t: g for t, g in (groups or {}).items() if t in tables}
    if parts := _table(label, cells_of(known, tables), note):
      elements.append(markup.tag('div', parts, class_='names'))
  return elements


def _table(
  label: str, cells: Sequence[Sequence[str]], note: str
) -> list[markup.Element]:
  """Makes a table with its heading and its note; nothing without lines."""
  head, *lines = cells
  if not lines:
    return []
  return [
    markup.tag('h3', label),
    markup.table(label, head, lines),
    markup.tag('p', note, class_='note'),
  ]
