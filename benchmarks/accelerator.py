r"""Measures this package on whatever device there is, within a few minutes.

python -m benchmarks.accelerator --minutes=6 --out=accelerator.json

Downloads nothing. Sections: the device's own rates; parity with the golden
arrays; k-means beside plain JAX and torch; PaliGemma with random weights at
three picture sizes, both layouts, beside transformers where it is installed;
selectors on edge and server, the tables of `benchmarks.selector_times`;
evaluation beside the model alone; the demo, cold and warm, with its number of
programs. Each runs in a process of its own, which is ended when its time is up:
what it measured until then is kept. A section that takes less leaves its time
to the later ones.

`--size=small` takes a small model and few pictures, as it does by itself on a
CPU; `--size=full` PaliGemma 3B in bfloat16. `--sections=demo,parity` runs some.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import dataclasses
import functools
import importlib.util
import json
import os
from pathlib import Path
import re
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import selector_tables
from tools import markdown_table

_ROOT = Path(__file__).parents[1]
# Sections whose batches a small model has in others.
_FULL_ONLY = 'model-224-16', 'model-896-16'
# Columns of the table of selectors, of those of `selector_times.rows`.
_SELECTOR_COLUMNS = (
  *('selector', 'k', 'form', 'vectors', 'encode_ms', 'quantize_ms', 'pack_ms'),
  *('rebuild_ms', 'prefill_ms', 'decode_ms', 'total_ms', 'ratio', 'joules'),
)
_GRACE = 5.0  # Seconds that a killed process may take to end.


@dataclasses.dataclass(frozen=True)
class Context:
  """Facts that sections depend on.

  Attributes:
    small: Whether a small model is measured.
    folder: Folder for files of this run.
    has_torch: Whether torch and transformers are installed.
    rates: Operations and bytes a second of the device, if measured.
  """

  small: bool
  folder: Path
  has_torch: bool
  rates: tuple[float, float] | None = None


class Outcome:
  """Result of a section, which grows while its processes run.

  Attributes:
    rows: Measurements, a dict each.
    notes: What is to say of them, such as a limit that was reached.
  """

  def __init__(self, deadline: float):
    """Starts with nothing.

    Args:
      deadline: `time.monotonic()` at which its processes are ended.
    """
    self.rows: list[dict[str, Any]] = []
    self.notes: list[str] = []
    self._deadline = deadline

  @property
  def seconds_left(self) -> float:
    """Seconds until the section's time is up."""
    return max(self._deadline - time.monotonic(), 0.0)

  @property
  def is_over(self) -> bool:
    """Whether the section's time is up."""
    return time.monotonic() >= self._deadline

  def run(self, *command: str, **environment: str) -> str:
    """Runs a Python process until it ends, or the section's time is up.

    Args:
      *command: What follows `python`.
      **environment: Variables that differ from this process's.

    Returns:
      Its output, as far as it came.
    """
    # A section alone on a GPU still leaves memory to a desktop's own.
    variables = os.environ | {
      'PYTHONPATH': str(_ROOT),
      'PYTHONUNBUFFERED': '1',
      'XLA_PYTHON_CLIENT_PREALLOCATE': 'false',
      **environment,
    }
    with tempfile.TemporaryFile('w+') as said:
      process = subprocess.Popen(
        [sys.executable, *command],
        cwd=_ROOT,
        env=variables,
        stdout=said,
        stderr=subprocess.STDOUT,
        start_new_session=True,
      )
      try:
        if process.wait(self.seconds_left):
          self.notes.append(f'exit {process.returncode}')
      except subprocess.TimeoutExpired:
        self.notes.append('time is up')
      finally:
        _end(process)
      said.seek(0)
      text = said.read()
    if self.notes and self.notes[-1].startswith('exit '):
      last = text.strip().splitlines()[-1:] or ['']
      self.notes[-1] += f': {last[0][:200]}'
    return text

  def run_to_file(self, out: Path, *command: str) -> Any:
    """Runs a process that writes a JSON file by `--out`.

    Args:
      out: The file.
      *command: As of `run`, without `--out`.

    Returns:
      The file's content; None if the process wrote none in its time, or a
      part.
    """
    self.run(*command, f'--out={out}')
    try:
      return json.loads(out.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
      return None

  def add_json(self, text: str) -> None:
    """Adds the lines of an output that are objects in JSON."""
    for line in text.splitlines():
      if line.startswith('{') and line.endswith('}'):
        self.rows.append(json.loads(line))


def _end(process: subprocess.Popen) -> None:
  """Ends a process and those that it started."""
  try:
    os.killpg(process.pid, signal.SIGKILL)
  except ProcessLookupError:
    return
  process.wait(_GRACE)


Section = Callable[[Context, Outcome], None]


def device(context: Context, outcome: Outcome) -> None:
  """Measures the rates of products and of memory."""
  del context
  code = (
    'import json; from benchmarks import device_rates;'
    ' from collab_jax import provenance;'
    ' rates = device_rates.measure()._asdict();'
    ' print(json.dumps(rates | provenance.provenance()))'
  )
  outcome.add_json(outcome.run('-c', code))


def parity(context: Context, outcome: Outcome) -> None:
  """Compares with the golden arrays, products at the highest precision."""
  del context
  text = outcome.run('-m', 'benchmarks.parity', '--due')
  arrays = len(re.findall(r'^\| \w+/', text, re.MULTILINE))
  wrong = re.search(r'^(\d+) arrays out of tolerance', text, re.MULTILINE)
  outcome.rows.append(
    {
      'arrays': arrays,
      'out of tolerance': int(wrong[1]) if wrong else None,
    }
  )


def kmeans(context: Context, outcome: Outcome) -> None:
  """Times k-means beside plain JAX and torch."""
  sizes = ['--images=64', '--k=8,64', '--repetitions=7']
  if context.small:
    sizes = ['--images=8', '--k=8', '--repetitions=3', '--width=256']
  rows = outcome.run_to_file(
    context.folder / 'kmeans.json',
    *('-m', 'benchmarks.kmeans', *sizes, '--skip=ott,faiss,scikit-learn'),
  )
  outcome.rows += rows or []


def model(
  context: Context,
  outcome: Outcome,
  *,
  res: int,
  batches: Sequence[int],
  layouts: Sequence[str] = ('stacked',),
  systems: Sequence[str] = ('ours',),
) -> None:
  """Times a model with random weights; see `benchmarks.model_speed`."""
  if context.small:  # A CPU would take minutes for larger pictures.
    res, batches = res // 4, sorted({min(batch, 16) for batch in batches})
  flags = ['--new_tokens=9', '--runs=2'] if context.small else []
  if context.rates:
    flags += ['--rates', *map(str, context.rates)]
  for system in systems:
    if system != 'ours' and not context.has_torch:
      outcome.notes.append(f'{system}: transformers is not installed')
      continue
    text = outcome.run(
      '-m',
      'benchmarks.model_speed',
      f'--decoder={"small" if context.small else "paligemma-3b"}',
      f'--system={system}',
      f'--res={res}',
      '--batch',
      *map(str, batches),
      '--layout',
      *layouts,
      *flags,
    )
    outcome.add_json(text)


def sweep(context: Context, outcome: Outcome) -> None:
  """Compares evaluation with the model alone; see `benchmarks.pipeline`."""
  sizes = ['--model=paligemma-3b-pt-224', '--images=256', '--tokens=20']
  if context.small:
    sizes = ['--images=32', '--batch=16', '--tokens=8']
  row = outcome.run_to_file(
    context.folder / 'pipeline.json',
    *('-m', 'benchmarks.pipeline', '--rounds=0', *sizes),
  )
  if row is not None:
    outcome.rows.append(row)


def selectors(context: Context, outcome: Outcome) -> None:
  """Times selectors on edge and server; see `benchmarks.selector_times`.

  Those whose programs are not compiled within half of the time are left out,
  and named in the notes.
  """
  sizes = ['--model=paligemma-3b-pt-224', '--k=8,64,256', '--rounds=7']
  if context.small:
    sizes = ['--model=tiny', '--k=8', '--rounds=3', '--scenes=2']
  limit = f'--limit={max(outcome.seconds_left / 2, 1):.0f}'
  numbers = outcome.run_to_file(
    context.folder / 'selectors.json',
    *('-m', 'benchmarks.selector_times', *sizes, limit),
  )
  if numbers is None:
    return
  outcome.rows += [
    {name: row[name] for name in _SELECTOR_COLUMNS} for row in numbers['rows']
  ]
  outcome.notes.append(selector_tables.render(numbers))


def demo(context: Context, outcome: Outcome) -> None:
  """Runs the demo twice: with an empty compilation cache, and a filled one."""
  limit = ['--config.limit=8'] if context.small else []
  cache = context.folder / 'demo_cache'
  for start in ('cold', 'warm'):
    workdir = context.folder / f'demo_{start}'
    begin = time.monotonic()
    outcome.run(
      'experiments/demo.py',
      *limit,
      f'--workdir={workdir}',
      JAX_COMPILATION_CACHE_DIR=str(cache),
      JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS='0',
      JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES='-1',
    )
    records = workdir / 'records.jsonl'
    captions = 0
    if records.exists():
      with records.open('rb') as file:
        captions = sum(1 for _ in file)
    outcome.rows.append(
      {
        'cache': start,
        'seconds': time.monotonic() - begin,
        'captions': captions,
        'complete': (workdir / 'summary.json').exists(),
        'programs': len(list(cache.glob('*-cache'))),
      }
    )
    if outcome.is_over:
      return


def sections() -> dict[str, tuple[float, Section]]:
  """Returns the sections in order, each with its weight.

  The weight is the share of the time left that a section may take. First come
  those that goals are set for.
  """
  part = functools.partial
  both, peers = ('stacked', 'transposed'), ('theirs', 'theirs_static')
  return {
    'device': (3, device),
    'demo': (16, demo),
    'kmeans': (2, kmeans),
    'model-224': (6, part(model, res=224, batches=(1, 64), layouts=both)),
    'model-896': (5, part(model, res=896, batches=(4, 1))),
    'transformers-224': (
      6,
      part(model, res=224, batches=(1, 64), systems=peers),
    ),
    'transformers-896': (
      4,
      part(model, res=896, batches=(4, 1), systems=peers[:1]),
    ),
    'selectors': (10, selectors),
    'sweep': (5, sweep),
    'parity': (12, parity),
    'model-448': (4, part(model, res=448, batches=(1, 16, 64))),
    'model-224-16': (2, part(model, res=224, batches=(16,))),
    'model-896-16': (
      4,
      part(model, res=896, batches=(16, 64)),
    ),
  }


def _choose_size(size: str, rates: dict[str, Any]) -> bool:
  """Returns whether to measure a small model: by name, or by the memory."""
  if size != 'auto':
    return size == 'small'
  memory = rates.get('memory') or 0
  return rates.get('platform', 'cpu') == 'cpu' or memory < 10e9


def _cell(value: Any) -> str:
  if isinstance(value, bool) or not isinstance(value, float):
    return '-' if value is None else str(value)
  return f'{value:.3g}' if value < 1000 else f'{value:.0f}'


def table(rows: Sequence[dict[str, Any]]) -> str:
  """Returns rows as a table, a column for each key of plain values."""
  keys = list(
    dict.fromkeys(
      key
      for row in rows
      for key, value in row.items()
      if not isinstance(value, dict)
    )
  )
  return markdown_table.render(
    keys, [[_cell(row.get(key)) for key in keys] for row in rows]
  )


def run_all(
  minutes: float, size: str, names: Sequence[str], folder: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
  """Runs sections one after the other.

  Args:
    minutes: Time for all of them.
    size: 'auto', 'small' or 'full'.
    names: Sections to run.
    folder: Folder for files of this run.

  Yields:
    Name and result of each: its rows, notes, seconds and limit.
  """
  end = time.monotonic() + 60 * minutes
  left = {n: s for n, s in sections().items() if n in names or n == 'device'}
  has_torch = all(map(importlib.util.find_spec, ('torch', 'transformers')))
  context = Context(size != 'full', folder, has_torch)
  while left:
    start = time.monotonic()
    total = sum(weight for weight, _ in left.values())
    name = next(iter(left))
    weight, section = left.pop(name)
    limit = max(end - start, 0) * weight / total
    outcome = Outcome(start + limit)
    section(context, outcome)
    if name == 'device' and outcome.rows:
      (row,) = outcome.rows
      context = dataclasses.replace(
        context,
        small=_choose_size(size, row),
        rates=(row['products'], row['bandwidth']),
      )
    if context.small:
      left = {n: s for n, s in left.items() if n not in _FULL_ONLY}
    yield (
      name,
      {
        'seconds': time.monotonic() - start,
        'limit': limit,
        'rows': outcome.rows,
        'notes': outcome.notes,
      },
    )


def main() -> int:
  """Prints the tables, and writes the numbers; returns 1 if none came."""
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  add = parser.add_argument
  add('--minutes', type=float, default=6.0, help='time for all sections')
  sizes = 'auto', 'small', 'full'
  add('--size', default='auto', choices=sizes, help='of model and data')
  add('--sections', default=','.join(sections()), help='some of these')
  add('--out', default='accelerator.json', help='file for the numbers')
  settings = parser.parse_args()
  if not settings.minutes > 0:
    parser.error(f'minutes: got {settings.minutes}, expected more than 0')
  if not Path(settings.out).absolute().parent.is_dir():
    parser.error(f'out: got {settings.out}, expected a folder that exists')
  names = settings.sections.split(',')
  for name in names:
    if name not in sections():
      known = ', '.join(sections())
      parser.error(f'sections: got {name!r}, expected some of {known}')
  results: dict[str, Any] = {}
  with tempfile.TemporaryDirectory(prefix='accelerator_') as folder:
    runs = run_all(settings.minutes, settings.size, names, Path(folder))
    for name, result in runs:
      results[name] = result
      spent = f'{result["seconds"]:.0f} of {result["limit"]:.0f} s'
      print(f'\n## {name} ({spent})\n', flush=True)
      print(table(result['rows']) if result['rows'] else 'nothing measured')
      for note in result['notes']:
        print(f'\n{note}', flush=True)
      content = {'minutes': settings.minutes, 'sections': results}
      Path(settings.out).write_text(json.dumps(content, indent=1) + '\n')
  print(f'\n{settings.out}')
  return int(not any(result['rows'] for result in results.values()))


if __name__ == '__main__':
  sys.exit(main())
