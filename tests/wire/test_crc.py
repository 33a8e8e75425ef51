from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from collab_jax.wire import (
  checksum,
  layers,
)
from tests.wire import independent


# RFC 3720, appendix B.4, and the usual example.
@pytest.mark.parametrize(
  ('data', 'want'),
  [
    (b'123456789', 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b'\xff' * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C),
  ],
)
def test_known_answers(data, want):
  assert checksum.rows(np.frombuffer(data, np.uint8)[None]).tolist() == [want]


@settings(max_examples=40, deadline=None)
@given(
  st.integers(1, 3), st.integers(4, 400), st.sampled_from([1, 300]), st.data()
)
def test_equals_bit_by_bit(rows, size, scale, data):
  size *= scale if rows == 1 else 1
  seed = data.draw(st.integers(0, 1000))
  table = np.random.default_rng(seed).integers(0, 256, (rows, size), np.uint8)
  found = checksum.rows(table)
  assert found[0] == independent.crc32c(table[0].tobytes())
  for row, one in zip(table, found, strict=True):
    assert checksum.rows(row[None]) == one


def test_many_long_rows():
  table = np.random.default_rng(0).integers(0, 256, (40, 9001), np.uint8)
  alone = [checksum.rows(row[None])[0] for row in table]
  assert checksum.rows(table).tolist() == alone


def test_rows_of_any_lengths():
  rows = [b'123456789', b'12345', b'123456789']
  assert layers.checks(rows)[::2] == [b'\x83\x92\x06\xe3'] * 2
  assert layers.checks([]) == []
