from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from collab_jax import message as messages
from collab_jax import wire
from tests.wire import drawing


@pytest.fixture(scope='module')
def saved():
  rng = np.random.default_rng(1)
  declared = {
    'a': messages.Symbols(5, (4,)),
    'x': messages.Values('float16', (3,), 1),
  }
  table = rng.integers(1, 100, (4, 5))
  session = wire.Session(declared, {'a': table}, {'d': 3})
  sent = [drawing.message(rng, session) for _ in range(3)]
  packets = [session.pack(m) for m in sent]
  # A message in part, too.
  packets.append(session.split(packets[0])[0])
  return session, sent, packets


def test_a_file_needs_nothing_else(saved, tmp_path):
  session, sent, packets = saved
  wire.save(tmp_path / 'some.cjw', session, packets)
  read = wire.load(tmp_path / 'some.cjw')
  assert read.packets == packets
  assert read.session.digest == session.digest
  for one, packet in zip(sent, read.packets, strict=False):
    assert drawing.same(one, read.session.unpack(packet))
  assert read.session.unpack(packets[-1]).keys() == {'a'}


def test_cut_files_are_told(saved):
  session, _, packets = saved
  data = wire.dumps(session, packets)
  whole = 0
  for size in range(len(data)):
    try:
      read = wire.loads(data[:size])
    except wire.FormatError:
      continue
    # Between two messages.
    whole += 1
    assert read.packets == packets[: len(read.packets)]
  assert whole == len(packets)


@given(st.binary(max_size=80), st.integers(0, 2000), st.integers(1, 255))
def test_any_file(saved, junk, at, flip):
  session, _, packets = saved
  data = bytearray(wire.dumps(session, packets))
  data[at % len(data)] ^= flip
  for file in (junk, wire.container.MAGIC + junk, bytes(data)):
    try:
      read = wire.loads(file)
    except wire.FormatError:
      continue
    assert read.session.digest == session.digest


def test_large_messages_are_refused(saved):
  session, _, packets = saved
  with pytest.raises(
    wire.FormatError, match='got 28 bytes, expected at most 20'
  ):
    wire.loads(wire.dumps(session, packets), limit=20)
