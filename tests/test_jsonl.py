"""JSON-lines files: locks, recovery after a kill, atomic writes."""

import json
import os

import pytest

from collab_jax import jsonl


def test_lines_are_appended_and_read_back(tmp_path):
  path = tmp_path / 'folder' / 'a.jsonl'
  values = [{'i': i, 'text': 'é\n\udc80'} for i in range(3)]
  with jsonl.JsonlWriter(path) as writer:
    assert writer.objects == []
    writer.append(values[0])
    writer.append(*values[1:])
    writer.sync()
  with jsonl.JsonlWriter(path) as writer:
    assert writer.objects == values


@pytest.mark.parametrize(
  ('tail', 'kept'),
  [(b'{"a": 1', False), (b'{"a": 1}', True), (b'', False)],
)
def test_only_an_unfinished_last_line_is_cut_off(tmp_path, tail, kept):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(b'{"a": 0}\n' + tail)
  with jsonl.JsonlWriter(path) as writer:
    assert writer.objects == [{'a': 0}, {'a': 1}][: 1 + kept]
    writer.append({'a': 2})
  lines = path.read_text().splitlines()
  assert [json.loads(line)['a'] for line in lines] == [0, *[1] * kept, 2]


def test_a_file_that_is_refused_is_left_as_it_is_and_unlocked(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(b'[1]\n{"a"')
  for _ in range(2):
    with pytest.raises(ValueError, match=r'a.jsonl:1: got .*, expected a JSON'):
      jsonl.JsonlWriter(path)
  assert path.read_bytes() == b'[1]\n{"a"'


@pytest.mark.skipif(os.name != 'posix', reason='there are no locks elsewhere')
def test_a_second_writer_is_refused(tmp_path):
  path = tmp_path / 'a.jsonl'
  with (
    jsonl.JsonlWriter(path),
    pytest.raises(BlockingIOError, match='another run'),
  ):
    jsonl.JsonlWriter(path)
  jsonl.JsonlWriter(path).close()


def test_an_atomic_write_replaces_the_file_or_leaves_it(tmp_path, monkeypatch):
  path = tmp_path / 'new' / 'a.json'
  jsonl.write_json(path, {'a': 1})
  jsonl.write_atomically(path, b'whole')
  monkeypatch.setattr(type(path), 'replace', lambda *_: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    jsonl.write_atomically(path, 'half')
  assert path.read_bytes() == b'whole'
