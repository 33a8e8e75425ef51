"""Benchmark of accelerators: limits that hold, rows that are kept."""

import json
import time

import pytest

from benchmarks import accelerator, costs, model_speed
from collab_jax.models import paligemma
from tests import launching


def _context(tmp_path, small=True):
  return accelerator.Context(small, tmp_path, has_torch=False)


def test_a_section_ends_in_time_and_keeps_its_rows():
  outcome = accelerator.Outcome(time.monotonic() + 2)
  start = time.monotonic()
  text = outcome.run(
    '-c', 'print(\'{"a": 1}\', flush=True); import time; time.sleep(60)'
  )
  assert time.monotonic() - start < 10
  outcome.add_json(text)
  assert outcome.rows == [{'a': 1}]
  assert outcome.notes == ['time is up']


def test_a_process_that_fails_says_why():
  outcome = accelerator.Outcome(time.monotonic() + 60)
  outcome.run('-c', 'raise SystemExit("error: nothing there")')
  assert outcome.notes == ['exit 1: error: nothing there']


@pytest.mark.parametrize(
  ('text', 'content'),
  [('[{"a": 1}]', [{'a': 1}]), ('[{"a', None), (None, None)],
)
def test_a_file_that_a_process_writes_is_read(tmp_path, text, content):
  code = (
    'import pathlib, sys; out = sys.argv[1].removeprefix("--out=");'
    f' {text!r} and pathlib.Path(out).write_text({text!r})'
  )
  outcome = accelerator.Outcome(time.monotonic() + 60)
  assert outcome.run_to_file(tmp_path / 'x.json', '-c', code) == content
  assert outcome.notes == []


def test_sections_share_the_time(monkeypatch, tmp_path):
  """Time that a section leaves goes to the later ones."""
  limits = {}

  def quick(context, outcome):
    limits['quick'] = outcome
    outcome.rows.append({'platform': 'cpu', 'products': 1, 'bandwidth': 1})

  monkeypatch.setattr(
    accelerator,
    'sections',
    lambda: {'device': (1, quick), 'one': (4, quick), 'two': (5, quick)},
  )
  results = dict(accelerator.run_all(1.0, 'auto', ('one', 'two'), tmp_path))
  assert list(results) == ['device', 'one', 'two']
  assert results['device']['limit'] == pytest.approx(6, abs=0.5)
  assert results['one']['limit'] == pytest.approx(60 * 4 / 9, abs=0.5)
  assert results['two']['limit'] == pytest.approx(60, abs=0.5)


@pytest.mark.parametrize(
  ('size', 'rates', 'small'),
  [
    ('auto', {'platform': 'cpu', 'memory': None}, True),
    ('auto', {'platform': 'gpu', 'memory': 15e9}, False),
    ('auto', {'platform': 'gpu', 'memory': 8e9}, True),
    ('auto', {}, True),
    ('full', {'platform': 'cpu'}, False),
    ('small', {'platform': 'gpu', 'memory': 100e9}, True),
  ],
)
def test_the_size_follows_from_the_device(size, rates, small):
  assert accelerator._choose_size(size, rates) == small


def test_tables_have_a_column_for_each_key():
  rows = [{'a': 1.23456, 'b': None}, {'a': 4321.0, 'c': 'x', 'd': {}}]
  assert accelerator.table(rows) == (
    '| a | b | c |\n| --- | --- | --- |\n| 1.23 | - | - |\n| 4321 | - | x |'
  )


def test_a_small_model_is_timed(tmp_path):
  """A section as it runs on a CPU, with its smallest sizes."""
  done = launching.run(
    *('-m', 'benchmarks.model_speed', '--decoder=small', '--res=56'),
    *('--batch', 1, '--new_tokens=2', '--runs=1', '--dtype=float32'),
    *('--rates', 1e12, 1e10),
  )
  assert done.returncode == 0, done.stderr
  (row,) = map(json.loads, done.stdout.splitlines())
  assert row['layout'] == 'stacked'
  assert row['encode_ms'] > 0
  assert row['encode_share'] > 0


def test_costs_are_those_of_the_dimensions():
  config = model_speed.dimensions('small', 224)
  cost = costs.Costs(config)
  shapes = paligemma.shapes(config)
  assert cost.table == shapes['llm']['embedder']['input_embedding'].size
  # Keys and values of each layer, head and slot.
  assert cost.cache(2, 10) == 4 * 2 * 2 * 1 * 64 * 2 * 10


@pytest.mark.parametrize(
  ('flag', 'said'),
  [
    (
      '--sections=demos',
      "sections: got 'demos', expected some of device, demo",
    ),
    ('--minutes=0', 'minutes: got 0.0, expected more than 0'),
    ('--out=/none/a.json', 'out: got /none/a.json, expected a folder'),
  ],
)
def test_wrong_flags_are_refused(flag, said):
  done = launching.run('-m', 'benchmarks.accelerator', flag)
  assert done.returncode == 2
  assert said in done.stderr


def test_a_demo_that_is_cut_off_is_not_run_again(tmp_path):
  outcome = accelerator.Outcome(time.monotonic() + 1)
  accelerator.demo(_context(tmp_path), outcome)
  (row,) = outcome.rows
  assert not row['complete']
