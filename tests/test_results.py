"""Pages whose blocks and tables are made anew from runs."""

import importlib.util
import pathlib
import sys

import pytest

TOOLS = pathlib.Path(__file__).resolve().parents[1] / 'tools'


def load(name, monkeypatch):
  monkeypatch.syspath_prepend(str(TOOLS))
  spec = importlib.util.spec_from_file_location(name, TOOLS / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  monkeypatch.setitem(sys.modules, name, module)
  spec.loader.exec_module(module)
  return module


PAGE = """
<!-- records: runs/mine -->

| with `smooth=2` | bytes | largest | assignments | vectors | BLEU-4 | kept |
|---|---|---|---|---|---|---|
| all vectors | 1 | 1 | 1 | 1 | 1 | 1 |
| `merge(k=4)` |  |  |  |  |  |  |

Text.
"""


def test_tables_of_codecs_hold_what_the_records_say(monkeypatch):
  tables = load('codec_tables', monkeypatch)
  rows = {
    'identity/best': {
      'bytes': 65536.4,
      'largest': 70000,
      'fields': {'header': 5.0, 'x': 65531.4},
      'bleu4': 80.0,
    },
    'merge(k=4,smooth=2)/best': {
      'bytes': 120.25,
      'largest': 131,
      'fields': {'header': 5.0, 'assignments': 15.25, 'centroids/x': 100.0},
      'bleu4': 60.0,
    },
  }
  monkeypatch.setattr(tables, 'read', lambda run: rows)
  lines = tables.fill(PAGE).splitlines()
  assert lines[5] == (
    '| all vectors | 65,536 | 70,000 |  | 65,531 | 80.0 | 100.0% |'
  )
  assert lines[6] == (
    '| `merge(k=4)` | 120.2 | 131 | 15.2 | 100.0 | 60.0 | 75.0% |'
  )
  assert lines[8] == 'Text.'
  with pytest.raises(KeyError, match=r'merge\(k=5,smooth=2\)/best'):
    tables.fill(PAGE.replace('k=4', 'k=5'))


def test_blocks_keep_their_first_line_and_number_of_paragraphs(monkeypatch):
  load('codec_tables', monkeypatch)
  results = load('results', monkeypatch)
  printed = 'data 1\nfirst\nnew 1\n\nsecond\nnew 2\n\nthird'
  monkeypatch.setattr(results, 'run', lambda command: printed)
  page = 'A\n\n```\n$ python x.py\n\n{}\n```\n\nB\n'
  for old, new in (
    ('first\nold\n\nsecond\nold', 'first\nnew 1\n\nsecond\nnew 2'),
    ('gone\nold\n\nthird', 'second\nnew 2\n\nthird'),
  ):
    assert results.refilled(page.format(old), ['x.py']) == page.format(new)
    assert results.refilled(page.format(old), ['z']) == page.format(old)
