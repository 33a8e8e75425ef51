import base64
import hashlib
import json
import tracemalloc
import zlib

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from collab_jax import message as messages
from collab_jax import wire
from tests.wire import drawing


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(wire.CODINGS))
def test_json_builds_the_same_session(seed, coding):
  rng = np.random.default_rng(seed)
  session = drawing.session(rng, coding)
  message = drawing.message(rng, session)
  text = session.to_json(priors=True)
  assert wire.Session.from_json(text).digest == session.digest
  bare = session.to_json()
  again = wire.Session.from_json(bare, session.priors)
  assert drawing.same(message, again.unpack(session.pack(message)))
  assert session.differences(bare) == []
  if session.priors:
    with pytest.raises(wire.FormatError, match='priors'):
      wire.Session.from_json(bare)


def test_differences_say_what():
  fields = {'a': messages.Symbols(8, (16,))}
  here = wire.Session(fields, spec={'quantizer': 'kmeans(k=8)', 'n': 16})
  other = {'a': messages.Symbols(4, (16,)), 'b': messages.Symbols(2, ())}
  there = wire.Session(other, spec={'n': 16}, coding='fixed')
  assert here.differences(there.to_json()) == [
    'coding: here "best", there "fixed"',
    'fields.a.alphabet: here 8, there 4',
    'fields.b.alphabet: here nothing, there 2',
    'fields.b.kind: here nothing, there "symbols"',
    'fields.b.layer: here nothing, there 0',
    'fields.b.name: here nothing, there "b"',
    'fields.b.shape: here nothing, there []',
    'fields.order: here ["a"], there ["a", "b"]',
    'spec.quantizer: here "kmeans(k=8)", there nothing',
  ]


@pytest.mark.parametrize(
  'listed',
  [
    [],
    [{'b': 1}],
    [{'name': 1}, 2],
    [{'name': 1}, {'name': 2}],
    [{'name': 'c'}, {'name': 'c', 'd': 1}],
    [{'name': 'c'}, {'name': 'd', 'e': [{'name': []}]}],
  ],
)
def test_a_spec_may_hold_lists_of_objects(listed):
  fields = {'a': messages.Symbols(2, (1,))}
  session = wire.Session(fields, spec={'a': listed})
  text = session.to_json()
  assert wire.Session.from_json(text).digest == session.digest
  plain = json.loads(text)
  swapped = json.dumps(dict(reversed(plain.items())), sort_keys=True)
  assert session.differences(swapped) == []
  other = wire.Session(fields, spec={'a': [*listed, {'f': 1}]})
  assert any('spec.a' in line for line in session.differences(other.to_json()))


@pytest.mark.parametrize(
  'change',
  [
    {'format': 'other'},
    {'version': 2},
    {'coding': 'worst'},
    {'coding': []},
    {'fields': None},
    {'fields': [3]},
    {'fields': []},
    {'fields': [{'name': 'a', 'kind': 'symbols', 'alphabet': '8'}]},
    {'priors': {'b': {}}},
    {'priors': {'a': {'rows': 1, 'sha256': '', 'table': 'eJw='}}},
    {'priors': {'a': {'rows': 10**9, 'sha256': '', 'table': 'eJw='}}},
    {'priors': {'a': {'rows': 16, 'sha256': '', 'table': 'x'}}},
    {'spec': None},
    {'spec': {'x': 1}},
    {'digest': 'abc'},
  ],
)
def test_bad_json_is_told(change):
  session = wire.Session({'a': messages.Symbols(8, (16,))})
  text = json.dumps({**json.loads(session.to_json()), **change})
  with pytest.raises(wire.FormatError):
    wire.Session.from_json(text)


@pytest.mark.parametrize(
  'text', [b'', b'\xff', b'[1]', b'{}', b'[' * 10**5, b'1e999']
)
def test_what_is_no_json_is_told(text):
  with pytest.raises(wire.FormatError):
    wire.Session.from_json(text)


def test_large_sessions_are_refused():
  session = wire.Session({'a': messages.Symbols(8, (10**6, 10**6))})
  with pytest.raises(
    wire.FormatError, match='got 4000000000000 bytes, expected'
  ):
    wire.Session.from_json(session.to_json())


def test_large_tables_are_refused_together():
  table = bytes(2 * 1024 * 64)
  entry = {
    'rows': 64,
    'sha256': hashlib.sha256(table).hexdigest(),
    'table': base64.b64encode(zlib.compress(table)).decode(),
  }
  names = [f'f{i}' for i in range(20)]
  session = wire.Session({n: messages.Symbols(1024, (64,)) for n in names})
  plain = json.loads(session.to_json())
  del plain['digest']
  one = json.dumps({**plain, 'priors': {'f0': entry}})
  every = json.dumps({**plain, 'priors': dict.fromkeys(names, entry)})
  assert wire.Session.from_json(one, limit=1 << 20).priors.keys() == {'f0'}
  tracemalloc.start()
  with pytest.raises(wire.FormatError, match='tables: got 10485760 bytes'):
    wire.Session.from_json(every, limit=1 << 20)
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < 1 << 20
