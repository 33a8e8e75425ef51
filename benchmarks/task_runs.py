"""Ten-picture runs of every released task, from folder to figure.

  python -m benchmarks.task_runs
  python -m benchmarks.task_runs --tasks=okvqa,gqa --config.limit=4

Of each task a small folder in its dataset's own format is written, and
`experiments/evaluate.py` is started with `configs/paligemma_tasks.py` and a
small random model in the layout of the released ones. It prints a row of a
table for each, and ends with 1 if one of them fails. The scores are worth
nothing: what is shown is that files, prompts, answers and figures fit.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
import re
import sys
import tempfile
import time
from typing import Any, NamedTuple

from benchmarks import flag_names
from collab_jax import evaluation, studies
from collab_jax import tasks as tasks_lib
from configs import paligemma_tasks
from tests import launching
from tests.checkpoints import released
from tests.tasks import folders
from tools import markdown_table

LAYOUTS = ('huggingface', 'npz')
PICTURES = 10
HEAD = (
  *('task', 'pictures', 'questions', 'records', 'score', 'figure files'),
  'seconds',
)
_DATASETS = {'refcoco+': 'unc', 'refcocog': 'umd'}


class Run(NamedTuple):
  """Task whose files were written.

  Attributes:
    task: its name with settings.
    base: its name in the config.
    folder: holds the files; '' where there are none.
  """

  task: str
  base: str
  folder: str


def names() -> list[str]:
  """Returns the names of all runs: tasks, and RefCOCO's other datasets."""
  runs = []
  for name in paligemma_tasks.CHECKPOINTS:
    runs.append(name)
    if name in ('refcoco', 'refcoco_box'):
      runs += [f'{name}(dataset={dataset})' for dataset in _DATASETS]
  return runs


def write(name: str, folder: Path, pictures: int = PICTURES) -> Run:
  """Writes the files of a run.

  Args:
    name: one of `names`.
    folder: an empty folder.
    pictures: pictures of the protocol's split, of which there is one more.
  """
  base, _, dataset = name.removesuffix(')').partition('(dataset=')
  settings: dict[str, Any] = folders.FOLDERS[base](folder, pictures + 1) or {}
  if dataset:
    folders.refer(folder, dataset, _DATASETS[dataset], pictures + 1)
    settings['dataset'] = dataset
  elif base == 'refcoco_box':
    folders.refer(folder, 'refcoco', 'unc', pictures + 1)
    settings = {}
  task = tasks_lib.NAMES[base](**settings)
  return Run(tasks_lib.name(task), base, str(folder))


def flags_of(run: Run, model: Path, protocol: str, workdir: Path) -> list[str]:
  """Returns the flags of `experiments/evaluate.py`."""
  config = f'task={run.base},protocol={protocol},model={model},res=224'
  return [
    f'--config=configs/paligemma_tasks.py:{config}',
    f'--config.task={run.task}',
    f'--config.data_dir={run.folder}',
    f'--workdir={workdir}',
  ]


def row(run: str, workdir: Path, seconds: float) -> list[str]:
  """Returns the row of a run whose files are written."""
  records = evaluation.read_records(workdir / 'records.jsonl')
  asked = {(r['image_id'], r['question']) for r in records}
  score = evaluation.summarize(records, resamples=1)[0]
  names = studies.list_files(workdir).split()
  figures = [name for name in names if name.endswith(('.png', '.svg'))]
  return [
    f'`{run}`',
    f'{len({image for image, _ in asked})}',
    f'{len(asked)}',
    f'{len(records)}',
    f'`{next(iter(score["metrics"]))}`',
    ', '.join(f'`{name}`' for name in sorted({Path(n).stem for n in figures})),
    f'{seconds:.0f}',
  ]


def rows(
  chosen: list[str], layout: str, protocol: str, more: list[str]
) -> Iterator[list[str]]:
  """Runs tasks one after the other.

  Args:
    chosen: some of `names`.
    layout: a name in `LAYOUTS`.
    protocol: of the config.
    more: further flags of the launcher.

  Yields:
    A row of the table for each.

  Raises:
    SystemExit: one of them fails; what it says is printed.
  """
  with tempfile.TemporaryDirectory(prefix='collab_jax_tasks_') as root:
    model = released.at_224(layout, Path(root, layout))
    for number, name in enumerate(chosen):
      folder, workdir = Path(root, f'{number}'), Path(root, f'run{number}')
      folder.mkdir()
      flags = flags_of(write(name, folder), model, protocol, workdir)
      start = time.perf_counter()
      done = launching.run('experiments/evaluate.py', *flags, *more)
      seconds = time.perf_counter() - start
      if done.returncode:
        raise SystemExit(f'{name}: exit {done.returncode}\n{done.stderr}')
      yield row(name, workdir, seconds)


def main() -> None:
  """Runs, and prints the table."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--tasks', default='', help='names, by commas')
  parser.add_argument('--layout', default=LAYOUTS[0], choices=LAYOUTS)
  parser.add_argument(
    '--protocol', default='smoke', choices=paligemma_tasks.PROTOCOLS
  )
  # What is left are fields of the config.
  arguments, more = parser.parse_known_args()
  chosen = re.split(r',(?![^(]*\))', arguments.tasks)
  chosen = chosen if arguments.tasks else names()
  flag_names.choices('tasks', chosen, names())
  table = []
  for line in rows(chosen, arguments.layout, arguments.protocol, more):
    print(' | '.join(line), file=sys.stderr, flush=True)
    table.append(line)
  print(markdown_table.render(HEAD, table))


if __name__ == '__main__':
  main()
