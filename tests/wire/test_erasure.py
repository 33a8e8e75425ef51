"""Any so many blocks give all back, and how many are safe."""

import itertools
import math

import numpy as np
import pytest

from collab_jax.wire import erasure


def blocks(needed, count, size=5, seed=0):
  rng = np.random.default_rng(seed)
  data = rng.integers(0, 256, (needed, size)).astype(np.uint8)
  return data, erasure.encode(data, count)


@pytest.mark.parametrize(('needed', 'count'), [(1, 4), (3, 7), (5, 5), (6, 8)])
def test_every_choice_of_blocks_is_enough(needed, count):
  data, sent = blocks(needed, count)
  np.testing.assert_array_equal(sent[:needed], data)
  for some in itertools.combinations(range(count), needed):
    got = erasure.decode(sent[list(some)], some, needed)
    np.testing.assert_array_equal(got, data)


def test_in_any_order_and_more_than_needed():
  data, sent = blocks(20, 60)
  rng = np.random.default_rng(1)
  for _ in range(30):
    some = rng.permutation(60)[: rng.integers(20, 61)].tolist()
    got = erasure.decode(sent[some], some, 20)
    np.testing.assert_array_equal(got, data)


def test_all_blocks_of_the_field():
  data, sent = blocks(128, 256, 2)
  got = erasure.decode(sent[128:], range(128, 256), 128)
  np.testing.assert_array_equal(got, data)


def test_too_few_are_refused():
  _, sent = blocks(4, 6)
  with pytest.raises(ValueError, match='got 3 blocks, expected at least 4'):
    erasure.decode(sent[:3], range(3), 4)
  with pytest.raises(ValueError, match='256 at most'):
    erasure.encode(np.zeros((4, 1), np.uint8), 257)
  with pytest.raises(ValueError, match='got 4 blocks to make 3'):
    erasure.encode(np.zeros((4, 1), np.uint8), 3)


def test_multiplication_is_that_of_the_field():
  def slow(a, b):
    total = 0
    for bit in range(8):
      if b >> bit & 1:
        total ^= a << bit
    for bit in range(14, 7, -1):
      if total >> bit & 1:
        total ^= 0x11D << (bit - 8)
    return total

  every = np.arange(256)
  table = erasure._multiply(every[:, None], every[None])
  for a in range(0, 256, 5):
    assert table[a].tolist() == [slow(a, b) for b in range(256)]
  inverse = erasure._inverse(every[1:])
  assert (erasure._multiply(every[1:], inverse) == 1).all()


@pytest.mark.parametrize('count', [1, 7, 8, 16, 32, 200])
@pytest.mark.parametrize('loss', [0.0, 0.1, 0.4])
def test_as_many_as_are_safe(count, loss):
  def fails(needed):
    return sum(
      math.comb(count, n) * (1 - loss) ** n * loss ** (count - n)
      for n in range(needed)
    )

  best = erasure.needed(count, loss, 1e-3)
  assert 0 <= best <= count
  assert fails(best) <= 1e-3
  assert best == count or fails(best + 1) > 1e-3
