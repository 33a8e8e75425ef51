"""Captions over channels, from a config to figures."""

import contextlib
import json
import os
from pathlib import Path
import re
import signal
import time

import pytest

from collab_jax import (
  channels,
  evaluation,
  plots,
  studies,
)
from collab_jax.evaluation import record_store
from collab_jax.studies import channel as channel_lib
from configs import channel
from tests import launching, standin

ROOT = Path(__file__).parents[2]
SMOKE = '--config=configs/channel.py:mode=smoke'


@pytest.fixture(scope='module')
def run(launch, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('channel')
  model = f'--config.model={standin.folder()}'
  return launch('channel', SMOKE, model, f'--workdir={workdir}'), workdir


def test_from_config_to_figures(run):
  done, workdir = run
  assert done.returncode == 0, done.stderr
  names = {path.name for path in workdir.iterdir()}
  assert names >= {'channel.png', 'channel.svg', 'summary.json', 'table.txt'}
  assert 'erasure(rate=1000000.0,delay=0.02)' in done.stdout
  assert 'kmeans(k=4) | analog' in done.stdout
  records = evaluation.read_records(workdir / 'records.jsonl')
  # 6 pictures: 4 codecs at 2 values, all vectors, blind.
  assert len(records) == 6 * (4 * 2 + 2)
  # The table has all metrics, the terminal the first.
  table = (workdir / 'table.txt').read_text()
  for text, others in ((table, 2), (done.stdout, 0)):
    assert re.findall(r'^BLEU-4$', text, re.M) == 2 * ['BLEU-4']
    assert len(re.findall(r'^ROUGE-L$', text, re.M)) == others


def test_curves_are_the_rows(run):
  records = evaluation.read_records(run[1] / 'records.jsonl')
  rows = evaluation.summarize(records, resamples=5)
  families = evaluation.link_curves(rows)
  assert [f.setting for f in families] == ['p', 'snr']
  figure = plots.channel(rows)
  assert len(figure.axes) == 2
  for family, axes in zip(families, figure.axes, strict=True):
    assert len(family.curves) == 2
    drawn = {line.get_label(): line for line in axes.lines}
    for name, curve in family.curves.items():
      line = next(drawn[n] for n in drawn if n.startswith(f'{name}, '))
      assert line.get_xdata().tolist() == [x for x, _ in curve]
      assert line.get_ydata().tolist() == [row['bleu4'] for _, row in curve]
      # Bytes say nothing of analog symbols, so time is what curves share.
      row = curve[-1][1]
      size = f'{row["bytes"]:,.0f} B'
      if family.setting == 'snr':
        size = f'{1000 * row["link"]["airtime"]:.1f} ms on air'
      assert line.get_label() == f'{name}, {size}'
  with pytest.raises(ValueError, match='no records of links'):
    plots.channel([r for r in rows if 'channel' not in r['codec']])


def test_costs_follow_the_formula(run):
  records = evaluation.read_records(run[1] / 'records.jsonl')
  rows = evaluation.summarize(records, resamples=5)
  row = next(r for r in rows if '| rows(' in r['name'])
  budget = channels.Budget(edge=2, server=3, edge_watts=7, idle_watts=0)
  text = evaluation.link_table(rows, budget)
  spent = row['seconds']
  edge = 2 * sum(spent[s] for s in ('encode', 'quantize', 'pack'))
  server = 3 * sum(spent[s] for s in ('decode', 'caption'))
  joules = 7 * edge + row['link']['airtime']
  line = next(
    line
    for line in text.split('\n')
    if line.startswith('kmeans(k=4) | rows') and line.count('.') >= 6
  )
  assert line.split()[-2:] == [
    f'{1000 * (edge + row["link"]["seconds"] + server):.1f}',
    f'{1000 * joules:.1f}',
  ]


def test_a_link_of_all_vectors_is_not_what_100_percent_means():
  row = {'codec': {'codec': 'feature', 'quantizer': 'identity'}}
  assert evaluation.full([row]) is row
  row['codec']['channel'] = 'erasure(p=0.4)'
  assert evaluation.full([row]) is None


@pytest.mark.parametrize('mode', channel.MODES)
def test_every_mode_can_be_made(mode):
  config = channel.get_config(f'mode={mode}')
  studies.ChannelStudy(config).validate()
  for study in config.studies.values():
    assert len(channel_lib.parse_channels(study)) == len(study['values'])


def test_every_field_is_read():
  source = ''.join(
    path.read_text() for path in (ROOT / 'collab_jax/studies').glob('*.py')
  )
  read = set(re.findall(r'(?:config|fields)\.(\w+)', source))
  assert set(channel.get_config()) - read == set()


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    ({'sent': ('kmeans(k=4)',)}, "expected 'codec | transport'"),
    ({'sent': ('kmeans(k=400) | rows',)}, 'k: got 400, expected at most'),
    ({'sent': ('jpg | whole',)}, "did you mean 'jpeg'"),
    ({'channel': 'erasure(q={})'}, "field of erasure: got 'q'"),
    ({'values': (2,)}, 'p: got 2, expected a number from 0 to 1'),
    ({'values': ()}, 'values: got none, expected one or more'),
    ({'sent': ()}, "sent: got none in 'erasure'"),
    ({'sent': ('jpeg | rows',)}, 'rows: jpeg(quality=75) has no vectors'),
    ({'sent': ('kmeans(k=4) | analog',)}, 'analog: symbols need a radio link'),
    ({'sent': ('kmeans(k=4) | rows',)}, 'add parity, or raise failure'),
    ({'sent': ('identity | whole(mtu=5)',)}, 'choose a larger mtu'),
    ({'sent': ('jpeg | whole(mtu=5)',)}, 'of jpeg(quality=75) (a picture of'),
    ({'sent': ('webp(size=16) | filled(mtu=5)',)}, 'larger mtu, or less loss'),
    (
      {'sent': ('shared_vq(book=none) | whole',)},
      "book: got 'none', expected one of",
    ),
  ],
)
def test_mistakes_are_told_before_anything_is_loaded(change, said):
  config = channel.get_config('mode=smoke')
  for name, value in change.items():
    config.studies.erasure[name] = value
  with pytest.raises(ValueError, match=re.escape(said)):
    studies.ChannelStudy(config).validate()


def processes_of(workdir):
  """Returns ids of processes whose arguments name a folder."""
  found = []
  for path in Path('/proc').glob('[0-9]*/cmdline'):
    with contextlib.suppress(OSError):
      if f'--workdir={workdir}\0' in path.read_text():
        found.append(int(path.parent.name))
  return found


@pytest.mark.skipif(
  not Path('/proc/self/cmdline').exists(), reason='there is no /proc'
)
def test_units_make_the_same_after_kills(run, launch, tmp_path):
  """Kills a unit, then the launcher; the same command goes on."""
  model = f'--config.model={standin.folder()}'
  flags = SMOKE, model, f'--workdir={tmp_path}'
  engine = '--engine=local', '--units=4', '--workers=2'
  first = launching.Launched('experiments/channel.py', *flags, *engine)

  def wait_until(condition):
    start = time.monotonic()
    while not condition():
      assert first.runs(), first.wait().stderr
      assert time.monotonic() < start + 300
      time.sleep(0.02)

  wait_until(lambda: list(tmp_path.glob('units/attempts/*.jsonl')))
  killed = next(tmp_path.glob('units/attempts/*.jsonl')).name[:3]
  for pid in processes_of(tmp_path):
    arguments = Path(f'/proc/{pid}/cmdline').read_text().split('\0')
    if f'--shard={int(killed)}/4' in arguments:
      os.kill(pid, signal.SIGKILL)
  wait_until(lambda: list(tmp_path.glob('units/0*.jsonl')))
  assert first.kill().returncode == -signal.SIGKILL
  deadline = time.monotonic() + 60
  while processes_of(tmp_path):  # Units notice, and end.
    assert time.monotonic() < deadline
    time.sleep(0.1)
  done = launch('channel', *flags, *engine)
  assert done.returncode == 0, done.stderr
  got, want = (
    {
      record_store.key_of(record): {**record, 'seconds': 0}
      for record in evaluation.read_records(folder)
    }
    for folder in (tmp_path, run[1])
  )
  assert got == want
  lines = (tmp_path / 'records.jsonl').read_text().splitlines()
  assert len(lines) == len(want)
  assert (tmp_path / 'channel.svg').exists()
  units = json.loads((tmp_path / 'sweep.json').read_text())['units']
  assert sum(unit['records'] for unit in units) == len(want)
  assert len(list(tmp_path.glob('logs/*.log'))) == 4


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (['--engine=slrum'], "error: engine: got 'slrum', expected one of"),
    (['--engine=local', '--workers=-1'], 'error: workers: got -1'),
    (
      ['--engine=local', '--config.engine.cpus=-1'],
      'error: engine.cpus: got -1',
    ),
    (
      [
        *('--engine=local', '--config.engine.retries=0'),
        *('--units=2', '--config.engine.setup=("echo no room; exit 3",)'),
      ],
      'error: unit 0: got exit status 3 (no room), expected its records; see',
    ),
  ],
)
def test_failures_of_engines_are_told_in_a_line(launch, tmp_path, flags, said):
  model = f'--config.model={standin.folder()}'
  done = launch('channel', SMOKE, model, f'--workdir={tmp_path}', *flags)
  assert done.returncode == 1
  assert said in done.stderr.splitlines()[-1]
  assert 'Traceback' not in done.stderr
