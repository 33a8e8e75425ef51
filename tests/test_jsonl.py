"""JSON-lines files: locks, recovery after a kill, atomic writes."""

import json
import math
import os

import hypothesis
from hypothesis import strategies as st
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


# A high surrogate before a low one is JSON's own form of another letter.
_TEXT = st.text(st.characters(exclude_categories=()), max_size=9).filter(
  lambda text: not any('\ud800' <= letter <= '\udbff' for letter in text)
)
_PLAIN = st.recursive(
  st.none()
  | st.booleans()
  | _TEXT
  | st.integers()
  | st.integers(min_value=1).map(lambda digits: 10 ** (digits % 5000))
  | st.floats(),
  lambda inner: (
    st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3)
  ),
  max_leaves=8,
)


@hypothesis.given(st.lists(st.dictionaries(_TEXT, _PLAIN, max_size=4)))
@hypothesis.settings(max_examples=300, deadline=None)
def test_what_is_written_is_read_and_nothing_else_is_written(
  tmp_path_factory, values
):
  folder = tmp_path_factory.mktemp('written')
  with jsonl.JsonlWriter(folder / 'a.jsonl') as writer:
    before, kept = b'', []
    for value in values:
      error = ''
      try:
        writer.append(value)
        kept.append(value)
      except ValueError as refused:
        error = str(refused)
      if error:
        assert error.startswith(str(folder / 'a.jsonl'))
        assert writer.path.read_bytes() == before
        with pytest.raises(ValueError, match=r'b\.json'):
          jsonl.write_json(folder / 'b.json', value)
        assert not (folder / 'b.json').exists()
        continue
      before = writer.path.read_bytes()
      jsonl.write_json(folder / 'c.json', value)
      assert jsonl.read_settings(folder / 'c.json') == value
  lines, end = jsonl.split_lines(before)
  assert end == len(before)
  assert jsonl.parse_objects(writer.path, lines) == kept
  with jsonl.JsonlWriter(writer.path) as writer:
    assert writer.objects == kept


@pytest.mark.parametrize('number', [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_named(tmp_path, number):
  with (
    jsonl.JsonlWriter(tmp_path / 'a.jsonl') as writer,
    pytest.raises(ValueError, match=r'a\.jsonl: x\.y\[1\]: got -?(nan|inf)'),
  ):
    writer.append({'good': 1}, {'x': {'y': [0.5, number]}})
  assert (tmp_path / 'a.jsonl').read_bytes() == b''
  # As other programs write it, also in a last line without its end.
  text = json.dumps({'x': number}).encode()
  (tmp_path / 'a.jsonl').write_bytes(b'{}\n' + text)
  with pytest.raises(
    ValueError, match=r'a\.jsonl:2: .*number: got .*(NaN|Inf)'
  ):
    jsonl.JsonlWriter(tmp_path / 'a.jsonl')
  assert (tmp_path / 'a.jsonl').read_bytes() == b'{}\n' + text


@pytest.mark.parametrize(
  'data',
  [
    *(b'', b'{"a": 1', b'3', b'[1, 2]', b'null', b'"text"', b'\x00\xff\x80'),
    *(b'{"a": NaN}', b'[' * 100_000, b'{"a": ' + b'1' * 5000 + b'}'),
  ],
)
def test_damaged_settings_are_one_line(tmp_path, data):
  path = tmp_path / 'run.settings.json'
  path.write_bytes(data)
  with pytest.raises(ValueError, match='expected a JSON object') as raised:
    jsonl.read_settings(path)
  assert str(raised.value).startswith(str(path))
  assert '\n' not in str(raised.value)
  assert len(str(raised.value)) < 400
