from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from collab_jax.wire import checksum
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
  assert checksum.crc32c(data) == want


@given(st.binary(max_size=400), st.integers(0, 400))
def test_equals_bit_by_bit_in_any_parts(data, cut):
  want = independent.crc32c(data)
  first = checksum.crc32c(data[:cut])
  assert checksum.crc32c(data) == want
  assert checksum.crc32c(data[:cut], data[cut:]) == want
  assert checksum.crc32c(data[cut:], start=first) == want


def test_bytes_are_little_endian():
  assert checksum.to_bytes(0xE3069283) == b'\x83\x92\x06\xe3'


@pytest.mark.parametrize('reads_arrays', [True, False])
def test_reads_arrays(monkeypatch, reads_arrays):
  if reads_arrays and not checksum._READS_ARRAYS:
    pytest.skip('google-crc32c has no C extension here')
  monkeypatch.setattr(checksum, '_READS_ARRAYS', reads_arrays)
  data = np.frombuffer(b'0123456789', np.uint8)[1:]
  assert checksum.crc32c(data) == 0xE3069283
  assert checksum.crc32c(b'1234', data[4:]) == 0xE3069283
