"""Numbers of runs in TensorBoard and W&B, and errors where they cannot go."""

import json
import pathlib
import struct
import sys

import pytest

from collab_jax import monitoring
from collab_jax.monitoring import writers
from collab_jax.studies import study


class Numbers:
  """A writer that keeps what it is given."""

  def __init__(self, workdir, settings):
    self.workdir, self.settings = workdir, settings
    self.lines, self.closed = [], False

  def write(self, *line):
    assert not self.closed
    self.lines.append(line)

  def close(self):
    self.closed = True


@pytest.fixture
def numbers(monkeypatch):
  made = []

  def make(workdir, settings):
    made.append(Numbers(workdir, settings))
    return made[-1]

  monkeypatch.setitem(writers.NAMES, 'kept', lambda: make)
  return made


def test_numbers_go_to_the_open_monitor(tmp_path, numbers):
  monitoring.write(1, {'loss': 1.0})  # To nothing.
  with monitoring.Monitor(['kept'], tmp_path, {'seed': 3}):
    monitoring.write(5, {'loss': 0.5, 'name': 'x', 'none': None})
    with monitoring.group('second'):
      monitoring.write(2, {'bleu4': 90}, axis='vectors')
    monitoring.write(6, {'loss': 0.25})
  monitoring.write(7, {'loss': 1.0})
  (writer,) = numbers
  assert writer.lines == [
    (5, {'loss': 0.5}, 'step', ''),
    (2, {'bleu4': 90.0}, 'vectors', 'second'),
    (6, {'loss': 0.25}, 'step', ''),
  ]
  assert writer.closed
  assert (writer.workdir, writer.settings) == (tmp_path, {'seed': 3})


def test_one_monitor_is_open_at_a_time(tmp_path, numbers):
  with monitoring.Monitor(['kept'], tmp_path):
    with pytest.raises(ValueError, match='one at a time'):  # noqa: SIM117
      with monitoring.Monitor([], tmp_path):
        pass
    monitoring.write(1, {'loss': 1.0})
  assert len(numbers[0].lines) == 1


def test_writers_are_closed_if_the_run_fails(tmp_path, numbers):
  monitor = monitoring.Monitor(['kept', 'kept'], tmp_path)
  with pytest.raises(KeyError), monitor:
    raise KeyError
  assert all(writer.closed for writer in numbers)
  with monitoring.Monitor([], tmp_path):
    pass


def test_unknown_names_are_refused(tmp_path):
  with pytest.raises(ValueError, match=r"log: got 'tensorbord'; did you mean"):
    monitoring.Monitor(['tensorbord'], tmp_path)


@pytest.mark.parametrize(
  ('name', 'package'), [('tensorboard', 'tensorboardX'), ('wandb', 'wandb')]
)
def test_a_missing_package_is_named_with_its_extra(
  tmp_path, monkeypatch, name, package
):
  monkeypatch.setitem(sys.modules, package, None)
  said = rf"--log={name} needs the extra 'logging', .*pip install 'collab_jax\["
  with pytest.raises(ModuleNotFoundError, match=said):
    monitoring.Monitor([name], tmp_path)
  assert not [*tmp_path.iterdir()]


def test_scores_of_a_method_are_one_curve(tmp_path, numbers):
  def row(k):
    codec = {'codec': 'feature', 'quantizer': {'quantizer': 'pool', 'k': k}}
    scores = dict.fromkeys(('bleu4', 'cider', 'bytes'), 10 * k)
    common = {'name': f'pool(k={k})', 'codec': codec, 'settings': codec}
    return (
      common
      | {'sent': float(k), 'vectors': 16}
      | scores
      | {'metrics': {'cider': {}, 'bleu4': {}}}
    )

  with monitoring.Monitor(['kept'], tmp_path):
    study.write_scores([row(4), row(1)])
  (first, second) = numbers[0].lines
  assert (first[0], second[0]) == (1, 4)
  assert first[1].keys() == second[1].keys()
  fields = [name.partition('/')[0] for name in first[1]]
  assert fields == ['cider', 'bleu4', 'bytes']
  assert first[2] == 'vectors'


def _events(folder):
  """Returns the events of a folder's files, in the order of the files."""
  proto = pytest.importorskip('tensorboardX.proto.event_pb2')
  events = []
  for path in sorted(folder.glob('events*')):
    data = path.read_bytes()
    while data:
      # Length, its check, the event, its check.
      (length,) = struct.unpack_from('<Q', data)
      events.append(proto.Event.FromString(data[12 : 12 + length]))
      data = data[16 + length :]
  return events


def _numbers(events):
  return [
    (value.tag, event.step, value.simple_value)
    for event in events
    for value in event.summary.value
    if value.HasField('simple_value')
  ]


def test_tensorboard_has_event_files(tmp_path):
  pytest.importorskip('tensorboardX', reason='needs the extra `logging`')
  for run, steps in enumerate((range(1, 5), range(3, 7))):
    # The second run goes on from step 2: its file says what is outdated.
    with monitoring.Monitor(['tensorboard'], tmp_path / f'{run}', {'seed': 0}):
      for step in steps:
        monitoring.write(step, {'caption': step / 2})
      with monitoring.group('other'):
        monitoring.write(1, {'bleu4/pool': 50.0}, axis='vectors')
  folder = tmp_path / '1' / 'tensorboard'
  assert {p.name for p in folder.iterdir() if p.is_dir()} == {'other'}
  events = _events(folder)
  assert _numbers(events) == [('caption', i, i / 2) for i in range(3, 7)]
  starts = [e.step for e in events if e.session_log.status == 1]
  assert starts == [3]
  texts = [
    v for e in events for v in e.summary.value if v.tag.startswith('conf')
  ]
  assert b'"seed": 0' in texts[0].tensor.string_val[0]
  curve = _events(folder / 'other/vectors')
  assert _numbers(curve) == [('bleu4/pool', 1, 50.0)]


def test_wandb_keeps_an_offline_run(tmp_path, monkeypatch):
  pytest.importorskip('wandb', reason='needs the extra `logging`')
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_SILENT', 'true')
  for value in (1.0, 0.5):
    with monitoring.Monitor(['wandb'], tmp_path / 'run', {'seed': 0}):
      monitoring.write(1, {'caption': value})
      with monitoring.group('other'):
        monitoring.write(2, {'bleu4/pool': 50.0}, axis='vectors')
  run_id = json.loads((tmp_path / 'run/wandb_run.json').read_text())['id']
  runs = [*(tmp_path / 'run/wandb').glob('offline-run-*')]
  # Both have the id of one run; the seconds in their names may be equal.
  assert runs
  assert all(run.name.endswith(run_id) for run in runs)
  files = [file for run in runs for file in run.glob('*.wandb')]
  assert files
  assert any(b'caption' in pathlib.Path(f).read_bytes() for f in files)


def test_wandb_without_a_login_says_what_to_do(tmp_path):
  class Refused(Exception):
    pass

  class Module:
    class errors:
      Error = Refused

    @staticmethod
    def Settings(**fields):
      return fields

    @staticmethod
    def init(**fields):
      raise Refused('no API key')

  with pytest.raises(ValueError, match=r'log: got wandb.*WANDB_MODE=offline'):
    writers.WandbWriter(Module, tmp_path, {})
