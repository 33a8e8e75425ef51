"""Theoretical limits and error rates of the physical layer.

`ratio` is a signal-to-noise ratio as a number, not in decibels.
"""

import math


def from_db(db: float | int) -> float:
  """Converts decibels to a ratio of powers."""
  return 10 ** (db / 10)


def q(x: float | int) -> float:
  """Returns the probability that a standard normal number exceeds x."""
  return 0.5 * math.erfc(x / math.sqrt(2))


def capacity(ratio: float | int) -> float:
  """Returns the capacity of white Gaussian noise, bits per complex symbol.

  Args:
    ratio: Es/N0.

  Source: Shannon 1948: log2(1 + SNR).
  """
  return math.log2(1 + ratio)


def ber_awgn(bits: int, ratio: float | int) -> float:
  """Returns the bit error rate of Gray labels in white Gaussian noise.

  Args:
    bits: Bits per symbol: 1 (BPSK), 2 (QPSK), 4 (16-QAM) or 6 (64-QAM).
    ratio: Eb/N0.

  Returns:
    The exact rate of hard decisions: Q(sqrt(2 Eb/N0)) for 1 and 2 bits.

  Source: Cho and Yoon 2002, 'On the general BER expression of one- and
    two-dimensional amplitude modulations', equations 14 and 16.
  """
  if bits == 1:
    return q(math.sqrt(2 * ratio))
  side = 2 ** (bits // 2)
  spread = math.sqrt(3 * bits * ratio / (2 * (side**2 - 1)))
  total = 0.0
  for k in range(1, bits // 2 + 1):
    for i in range(side - side // 2**k):
      step = i * 2 ** (k - 1)
      sign = -1 if step // side % 2 else 1
      weight = 2 ** (k - 1) - (2 * step + side) // (2 * side)
      total += sign * weight * math.erfc((2 * i + 1) * spread)
  return total / side / (bits // 2)


def ber_rayleigh(ratio: float | int) -> float:
  """Returns the bit error rate of BPSK or QPSK in known Rayleigh fading.

  Args:
    ratio: Mean Eb/N0.

  Source: Proakis, 'Digital Communications', chapter 14:
    (1 - sqrt(g / (1 + g))) / 2.
  """
  return (1 - math.sqrt(ratio / (1 + ratio))) / 2


def analog_error(ratio: float | int) -> float:
  """Returns the mean squared error of uncoded Gaussian numbers of power 1.

  Args:
    ratio: Es/N0 of white Gaussian noise.

  Returns:
    1 / (1 + SNR), the error of the best linear estimate. With two numbers a
    complex symbol of capacity C it is 2^-C, the theoretical limit.

  Source: Goblick 1965, 'Theoretical limitations on the transmission of data
    from analog sources'.
  """
  return 1 / (1 + ratio)
