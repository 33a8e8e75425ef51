"""Packets: what arrives is right, and the rest is known to be missing."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from collab_jax import message as messages
from collab_jax import wire
from collab_jax.wire import packets

FIELDS = {
  'assignments': messages.Symbols(5, (30,)),
  'centroids/x': messages.Values('float16', (5, 3)),
  'centroids/code': messages.Symbols(9, (5, 2)),
}
ROWS = ('centroids/x', 'centroids/code')


def make(batch=4, seed=0):
  rng = np.random.default_rng(seed)
  return {
    'assignments': rng.integers(0, 5, (batch, 30)).astype(np.int32),
    'centroids/x': rng.normal(size=(batch, 5, 3)).astype(np.float16),
    'centroids/code': rng.integers(0, 9, (batch, 5, 2)).astype(np.int32),
  }


def same_rows(got, message, n):
  for name in ROWS:
    there = got.rows[n]
    np.testing.assert_array_equal(
      got.message[name][n][there], message[name][n][there]
    )


@pytest.mark.parametrize('per_packet', [1, 2, 3, 5])
@pytest.mark.parametrize('parity', [0, 2])
def test_all_packets_give_the_message(per_packet, parity):
  layout = wire.PacketFormat(FIELDS, ROWS, per_packet, parity, failure=0.5)
  message = make()
  sent = layout.pack(message)
  sizes = layout.sizes()
  for some in sent:
    assert len(some) == layout.count
    assert {len(p) for p in some} == {layout.size}
    assert sum(map(len, some)) == sum(sizes.values())
  assert sizes['centroids/x'] == 30
  got = layout.unpack([some[::-1] for some in sent])  # In any order.
  assert got.whole.all()
  assert got.rows.all()
  assert list(got.message) == list(FIELDS)
  for name, array in message.items():
    np.testing.assert_array_equal(got.message[name], array)


def test_a_lost_packet_costs_its_rows_only():
  layout = wire.PacketFormat(FIELDS, ROWS, per_packet=2, failure=0.1)
  assert layout.count == 3
  message = make()
  sent = layout.pack(message)
  got = layout.unpack([[a, None, c] for a, b, c in sent])
  assert got.whole.all()
  # Neighbours are in different packets.
  assert got.rows[0].tolist() == [True, False, True, True, False]
  for n in range(4):
    same_rows(got, message, n)
    np.testing.assert_array_equal(
      got.message['assignments'][n], message['assignments'][n]
    )


def test_parity_brings_rows_back():
  layout = wire.PacketFormat(FIELDS, ROWS, parity=2, failure=0.01)
  message = make()
  rng = np.random.default_rng(0)
  for sent, n in zip(layout.pack(message), range(4), strict=True):
    some = [sent[i] for i in rng.permutation(7)[:5]]
    got = layout.unpack([some])
    assert got.rows.all()
    for name, array in message.items():
      np.testing.assert_array_equal(got.message[name][0], array[n])


def test_protection_holds_as_long_as_it_says():
  layout = wire.PacketFormat(FIELDS, ROWS, loss=0.2, failure=0.06)
  assert layout.needed == 3
  sent = layout.pack(make(1))[0]
  assert layout.unpack([sent[:3]]).whole.all()
  got = layout.unpack([sent[:2]])
  assert not got.whole.any()
  assert not got.rows.any()
  assert layout.unpack([[]]).message['assignments'].shape == (1, 30)


def test_a_message_of_rows_only():
  fields = {'x': messages.Values('float16', (6, 2))}
  layout = wire.PacketFormat(fields, ['x'], failure=0.01)
  x = np.arange(12, dtype=np.float16).reshape(1, 6, 2)
  sent = layout.pack({'x': x})[0]
  got = layout.unpack([[*sent[:1], None, *sent[2:3]]])
  assert got.rows[0].tolist() == [True, False, True, False, False, False]
  np.testing.assert_array_equal(got.message['x'][0][[0, 2]], x[0][[0, 2]])
  assert not layout.unpack([[None] * 6]).whole.any()


LAYOUT = wire.PacketFormat(FIELDS, ROWS, parity=1, failure=0.01)
SENT = LAYOUT.pack(make(1))[0]


@settings(max_examples=150, deadline=None)
@given(
  st.lists(
    st.one_of(
      st.none(),
      st.binary(max_size=2 * LAYOUT.size),
      st.binary(min_size=LAYOUT.size, max_size=LAYOUT.size),
      st.tuples(st.sampled_from(SENT), st.integers(0, 8 * LAYOUT.size - 1)),
      st.tuples(st.integers(0, 255), st.binary(max_size=LAYOUT.size)),
    ),
    max_size=8,
  )
)
def test_anything_may_arrive(arrived):
  """Damage is loss, and what is no message is told so."""

  def damaged(item):
    if not isinstance(item, tuple):
      return item
    if isinstance(item[0], int):  # A checksum that is right.
      return packets.seal(*item)[: LAYOUT.size]
    packet, bit = bytearray(item[0]), item[1]
    packet[bit // 8] ^= 1 << bit % 8
    return bytes(packet)

  got = LAYOUT.unpack([[damaged(item) for item in arrived]])
  message = got.message
  assert message.keys() == FIELDS.keys()
  for name, field in FIELDS.items():
    assert message[name].shape == (1, *field.shape)
  assert message['assignments'].max() < 5
  assert np.isfinite(message['centroids/x'].astype(float)).all()
  assert got.whole[0] or not got.rows.any()


def test_every_flipped_bit_is_found():
  packet = SENT[2]
  assert packets.unseal(packet) == (2, packet[3:])
  for bit in range(8 * len(packet)):
    wrong = bytearray(packet)
    wrong[bit // 8] ^= 1 << bit % 8
    assert packets.unseal(bytes(wrong)) is None


def test_wrong_layouts_are_refused():
  with pytest.raises(ValueError, match='expected one or more fields'):
    wire.PacketFormat(FIELDS, [])
  with pytest.raises(ValueError, match='with the same number of rows'):
    wire.PacketFormat(FIELDS, ['assignments', 'centroids/x'])
  with pytest.raises(ValueError, match='expected at most 256'):
    wire.PacketFormat({'x': messages.Values('float16', (300, 1))}, ['x'])
