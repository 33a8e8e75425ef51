r"""Compares a model over several processes with the same in one process.

python -m benchmarks.hosts --processes=1,2,4

Starts groups of processes on this machine, which talk through gloo and share
out four devices of a CPU; each group captions and trains the same. Records and
losses are compared with those of the first group, whose mesh is equal; beside
them stand the bytes that each process reads of the checkpoint. With `--model=2`
parameters are split over two devices: of two processes, if each has one. Prints
a table in Markdown.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import json
import os
from pathlib import Path
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

from absl import app, flags
import jax

from collab_jax import (
  captioner,
  checkpoints,
  codecs,
  data,
  distributed,
  evaluation,
  quantizers,
  sharding,
  tasks,
  training,
)
from collab_jax.checkpoints import npz, shards
from collab_jax.evaluation import record_store
from configs import train_questions, train_tiny
from tools import markdown_table

# Threads of XLA's pool: each that waits for another device takes one.
_THREADS = '64'


@dataclasses.dataclass(frozen=True)
class Group:
  """Results of processes that ran together.

  Attributes:
    records: Records without seconds.
    losses: Lines of metrics.jsonl.
    read: Bytes read of the checkpoint, by process.
    seconds: Wall time.
  """

  records: Sequence[Mapping[str, Any]]
  losses: Sequence[Mapping[str, Any]]
  read: Sequence[int]
  seconds: float


def count_reads() -> dict[str, int]:
  """Lets files count the bytes that are read of their arrays from now on."""
  counts = {'bytes': 0}

  def counted(make: Callable[..., Any]) -> Callable[..., Any]:
    def entry(*args):
      array = make(*args)

      def fill(out):
        counts['bytes'] += out.size * array.dtype.itemsize
        array.fill(out)

      def window(index):
        part = array.window(index)
        counts['bytes'] += part.nbytes
        return part

      return dataclasses.replace(
        array, fill=fill, window=array.window and window
      )

    return entry

  for module in (npz, shards):
    vars(module)['_entry'] = counted(vars(module)['_entry'])
  return counts


def job(
  out: Path,
  images: int,
  steps: int,
  model_devices: int,
  resume: bool,
  asks: bool,
) -> None:
  """Captions and trains, in each process of a group.

  Args:
    out: Folder of the group.
    images: Scenes to caption.
    steps: Steps to train.
    model_devices: Devices that split parameters.
    resume: Drop half of the records, and make them again.
    asks: Answer and learn questions instead of captions.
  """
  counts = count_reads()
  mesh = sharding.make_mesh(data=-1, model=model_devices)
  model = checkpoints.load('tiny', mesh=mesh)
  read = distributed.gather(counts['bytes'])
  codec = codecs.FeatureCodec(model, quantizers.KMeans(k=4, init='++'))
  task = tasks.make('scenes(kind=count)') if asks else None
  compared = [
    codec,
    codecs.ImageCodec(model, 'jpeg', 30),
    codecs.Link(codec, 'erasure(p=0.6)', 'rows(failure=0.2)'),
    codecs.Link(codec, 'erasure(p=0.7)'),
  ]

  scenes = data.scenes('test', limit=images)

  def evaluate() -> None:
    evaluation.evaluate(
      compared,
      captioner=captioner.Captioner(model, 8),
      data=task.load(limit=images) if task else scenes,
      task=task,
      seeds=(0, 1),
      path=path,
      batch_size=8,
      blind=('zeroed', 'mean', 'shuffled'),
      progress=False,
    )

  path = out / 'records.jsonl'
  evaluate()
  if resume:
    if distributed.is_first():
      lines = path.read_bytes().splitlines(keepends=True)
      path.write_bytes(b''.join(lines[: len(lines) // 2]))
    distributed.wait()
    evaluate()
  if steps:
    train, config = training.train, train_tiny.get_config('mode=smoke')
    if asks:
      train = training.train_questions
      config = train_questions.get_config('mode=smoke')
      config.packed_steps = 1
    else:
      config.label_steps = 0
    config.steps = config.eval_every = config.save_every = steps
    config.warmup_steps = config.log_every = 1
    train(config, out / 'train')
  if distributed.is_first():
    (out / 'read.json').write_text(json.dumps(read))


def run_group(
  processes: int,
  devices: int,
  out: Path,
  options: Sequence[str] = (),
  timeout: float = 600,
) -> Group:
  """Runs a group of processes.

  Args:
    processes: Number of processes.
    devices: Number of devices of all together.
    out: Folder that gets their files.
    options: Further flags of this program.
    timeout: Seconds after which they are killed.

  Raises:
    RuntimeError: One of them failed; the message has the end of its output.
  """
  with socket.create_server(('127.0.0.1', 0)) as free:
    port = free.getsockname()[1]
  count = f'--xla_force_host_platform_device_count={devices // processes}'
  flags_before = os.environ.get('XLA_FLAGS', '')
  environment = {
    **os.environ,
    'XLA_FLAGS': f'{flags_before} {count}',
    'NPROC': _THREADS,
  }
  out.mkdir(parents=True, exist_ok=True)
  start = time.perf_counter()
  started = []
  for i in range(processes):
    place = f'127.0.0.1:{port},{i}/{processes}' if processes > 1 else 'alone'
    command = [sys.executable, '-m', 'benchmarks.hosts', *options]
    with open(out / f'process{i}.log', 'wb') as log:
      started.append(
        subprocess.Popen(
          [*command, f'--place={place}', f'--out={out}'],
          env=environment,
          stdout=log,
          stderr=subprocess.STDOUT,
        )
      )
  try:
    codes = [process.wait(timeout) for process in started]
  finally:
    for process in started:
      process.kill()
  seconds = time.perf_counter() - start
  for i, code in enumerate(codes):
    if code:
      log = (out / f'process{i}.log').read_text(errors='replace')
      raise RuntimeError(f'process {i} of {processes}: {code}\n{log[-3000:]}')
  records = _lines(out / 'records.jsonl')
  for record in records:
    del record['seconds']
  read = json.loads((out / 'read.json').read_text())
  return Group(records, _lines(out / 'train/metrics.jsonl'), read, seconds)


def _lines(path: Path) -> list[dict[str, Any]]:
  if not path.exists():
    return []
  return [json.loads(line) for line in path.read_text().splitlines()]


def largest_difference(
  a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]
) -> float:
  """Returns the largest difference of losses, relative to the first's."""
  pairs = [
    (one[name], other[name])
    for one, other in zip(a, b, strict=True)
    for name in one
  ]
  return max((abs(x - y) / max(abs(x), 1e-9) for x, y in pairs), default=0.0)


def main(argv):
  """Runs the groups and prints the table, or is a process of a group."""
  del argv
  if flags.FLAGS.place:
    place = '' if flags.FLAGS.place == 'alone' else flags.FLAGS.place
    with distributed.together(place):
      settings = (
        flags.FLAGS.images,
        flags.FLAGS.steps,
        flags.FLAGS.model,
        flags.FLAGS.resume,
        flags.FLAGS.asks,
      )
      job(Path(flags.FLAGS.out), *settings)
    return
  options = [
    f'--{name}={flags.FLAGS[name].value}'
    for name in ('model', 'images', 'steps', 'resume', 'asks')
  ]
  rows, first = [], None
  with tempfile.TemporaryDirectory() as folder:
    for count in map(int, flags.FLAGS.processes):
      out = Path(folder, f'{count}')
      group = run_group(count, flags.FLAGS.devices, out, options)
      first = first or group
      known = {record_store.key_of(r): r for r in first.records}
      same = [r == known.get(record_store.key_of(r)) for r in group.records]
      difference = largest_difference(first.losses, group.losses)
      rows.append(
        [
          f'{count}',
          f'{flags.FLAGS.devices // count}',
          f'{len(group.records)}',
          f'{sum(same)}',
          f'{len(group.losses)}',
          f'{difference:.1e}',
          ', '.join(f'{n / 1e6:.2f}' for n in group.read),
          f'{group.seconds:.0f}',
        ]
      )
  titles = [
    'processes',
    'devices each',
    'records',
    'equal',
    'lines of losses',
    'difference',
    'MB read by each',
    's',
  ]
  print(f'jax {jax.__version__}, parameters over {flags.FLAGS.model}')
  print(markdown_table.render(titles, rows))


def _define_flags() -> None:
  # Not on import: tests import several programs.
  flags.DEFINE_list('processes', ['1', '2', '4'], 'Numbers of them.')
  flags.DEFINE_integer('devices', 4, 'Devices of each group.')
  flags.DEFINE_integer('model', 1, 'Devices that split parameters.')
  flags.DEFINE_integer('images', 10, 'Scenes to caption.')
  flags.DEFINE_integer('steps', 4, 'Steps to train; 0 for none.')
  flags.DEFINE_bool('resume', False, 'Drop and make half once more.')
  flags.DEFINE_bool('asks', False, 'Questions instead of captions.')
  flags.DEFINE_string('place', '', 'Of a started process: its group.')
  flags.DEFINE_string('out', '', 'Of a started process: where to write.')


if __name__ == '__main__':
  _define_flags()
  app.run(main)
