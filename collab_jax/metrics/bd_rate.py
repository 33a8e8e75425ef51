"""Bjontegaard delta rate: bytes saved between curves at equal quality.

The logarithm of the rate is interpolated as a function of the quality, and the
difference of two such curves is averaged over their common qualities.

Three interpolations. 'pchip' is the default, as the curves here have many
points and flatten at the full score: it follows them through every point, and
rises wherever they do. 'cubic' is Bjontegaard's own, one polynomial for all
points, which is exact for four of them and swings between many. 'akima' lies
between the two.

Source: G. Bjontegaard, VCEG-M33 (2001); ITU-T HSTP-VID-WPOM (2020) for the
piecewise form, F. N. Fritsch and J. Butland 1984 for its slopes; H. Akima 1970,
C. Herglotz et al. 2022 for its use here. Checked against the package
`bjontegaard`.
"""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float, Int
import numpy as np

from collab_jax import _validate

_LEAST = {'pchip': 2, 'cubic': 4, 'akima': 2}


def pareto_front(rates: Any, scores: Any) -> Int[np.ndarray, ' front']:
  """Returns the points that no other point dominates.

  Args:
    rates: Cost of each point, [points].
    scores: Quality of each point, [points]; more is better.

  Returns:
    Indices into the points by rising rate; their scores rise, too. Of equal
    points the first is kept.

  Raises:
    ValueError: Rates and scores differ in length, or are not finite.
  """
  rates, scores = _checked(rates, scores)
  order = np.lexsort((np.arange(len(rates)), -scores, rates))
  best = np.maximum.accumulate(scores[order])
  first = np.ones(len(order), bool)
  first[1:] = scores[order][1:] > best[:-1]
  return order[first]


def bd_rate(
  anchor_rates: Any,
  anchor_scores: Any,
  rates: Any,
  scores: Any,
  method: str = 'pchip',
) -> float:
  """Computes the mean change of the rate at equal quality.

  10^(mean of log10 r(q) - log10 a(q)) - 1 over the qualities q that both
  curves r and a have.

  Args:
    anchor_rates: Rates of the reference curve, [points], rising.
    anchor_scores: Its scores, rising; any scale, such as BLEU-4 or decibels.
    rates: Rates of the compared curve, [points], rising.
    scores: Its scores, rising.
    method: 'pchip', 'cubic' or 'akima'.

  Returns:
    -0.75 for a curve that needs a quarter of the anchor's bytes.

  Raises:
    ValueError: An unknown method; rates that are not positive; a curve with
      too few points, or that does not rise (`pareto_front` makes one that
      does); curves without a common quality.
  """
  _validate.choice('method', method, _LEAST)
  curves = [
    _curve('anchor', anchor_rates, anchor_scores, _LEAST[method]),
    _curve('curve', rates, scores, _LEAST[method]),
  ]
  low, high = overlap(anchor_scores, scores)
  anchor, compared = (_mean(method, x, y, low, high) for x, y in curves)
  return float(10 ** (compared - anchor) - 1)


def overlap(first: Any, second: Any) -> tuple[float, float]:
  """Returns the range of common qualities of two curves.

  Args:
    first: The scores of a curve.
    second: The scores of another.

  Returns:
    The lowest and the highest common quality.

  Raises:
    ValueError: The curves have no common quality.
  """
  ends = [(float(np.min(x)), float(np.max(x))) for x in (first, second)]
  low, high = max(e[0] for e in ends), min(e[1] for e in ends)
  if not low < high:
    raise ValueError(
      'the curves share no quality: one has'
      f' {ends[0][0]:g} to {ends[0][1]:g}, the other {ends[1][0]:g} to'
      f' {ends[1][1]:g}; evaluate more points of the one that ends early'
    )
  return low, high


def _checked(rates, scores) -> tuple[np.ndarray, np.ndarray]:
  rates, scores = (np.asarray(x, np.float64) for x in (rates, scores))
  if rates.ndim != 1 or rates.shape != scores.shape or not len(rates):
    raise ValueError(
      f'got rates of shape {rates.shape} and scores of shape {scores.shape},'
      ' expected one of each for at least one point'
    )
  if not (np.isfinite(rates).all() and np.isfinite(scores).all()):
    raise ValueError('got rates or scores that are not finite')
  return rates, scores


def _curve(name, rates, scores, least) -> tuple[np.ndarray, np.ndarray]:
  """Checks a curve; returns its scores and the logarithms of its rates."""
  rates, scores = _checked(rates, scores)
  if len(rates) < least:
    raise ValueError(
      f'{name}: got {len(rates)} points, expected at least {least}'
    )
  if rates.min() <= 0:
    raise ValueError(f'{name}: got a rate of {rates.min():g}, expected > 0')
  if (np.diff(rates) <= 0).any() or (np.diff(scores) <= 0).any():
    raise ValueError(
      f'{name}: rates and scores must rise from point to point; take'
      ' pareto_front of them first'
    )
  return scores, np.log10(rates)


def _mean(method: str, x, y, low: float, high: float) -> float:
  """Averages the interpolated y over [low, high]."""
  if method == 'cubic':
    # Centred, as powers of scores near 100 would lose digits.
    middle = x.mean()
    whole = np.polyint(np.polyfit(x - middle, y, 3))
    ends = np.polyval(whole, np.array([low, high]) - middle)
    return float((ends[1] - ends[0]) / (high - low))
  slopes = _SLOPES[method](np.diff(x), np.diff(y) / np.diff(x))
  ends = _integral(x, y, slopes, np.array([low, high]))
  return float((ends[1] - ends[0]) / (high - low))


def _integral(
  x: Float[np.ndarray, ' points'],
  y: Float[np.ndarray, ' points'],
  slopes: Float[np.ndarray, ' points'],
  at: Float[np.ndarray, ' ends'],
) -> Float[np.ndarray, ' ends']:
  """Integrates the cubic with these values and slopes from x[0]."""
  h = np.diff(x)
  rise = np.diff(y) / h
  square = (3 * rise - 2 * slopes[:-1] - slopes[1:]) / h
  cube = (slopes[:-1] + slopes[1:] - 2 * rise) / h**2

  def piece(i, t):
    powers = (y[i], slopes[i] / 2, square[i] / 3, cube[i] / 4)
    return sum(c * t ** (n + 1) for n, c in enumerate(powers))

  before = np.concatenate([[0], np.cumsum(piece(np.arange(len(h)), h))])
  i = np.clip(np.searchsorted(x, at, 'right') - 1, 0, len(h) - 1)
  return before[i] + piece(i, at - x[i])


def _pchip(h: np.ndarray, rise: np.ndarray) -> np.ndarray:
  """Computes slopes: weighted harmonic means, three-point ones at the ends."""
  if len(h) == 1:
    return np.repeat(rise, 2)
  before, after = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
  same = rise[:-1] * rise[1:] > 0
  with np.errstate(divide='ignore', invalid='ignore'):
    mean = (before + after) / (before / rise[:-1] + after / rise[1:])
  inside = np.where(same, mean, 0.0)
  ends = [
    _end(h[0], h[1], rise[0], rise[1]),
    _end(h[-1], h[-2], rise[-1], rise[-2]),
  ]
  return np.concatenate([ends[:1], inside, ends[1:]])


def _end(h0, h1, rise0, rise1) -> float:
  """Computes a slope at an end that keeps the curve monotone."""
  slope = ((2 * h0 + h1) * rise0 - h0 * rise1) / (h0 + h1)
  if slope * rise0 <= 0:
    return 0.0
  if rise0 * rise1 < 0 and abs(slope) > 3 * abs(rise0):
    return 3 * rise0
  return slope


def _akima(h: np.ndarray, rise: np.ndarray) -> np.ndarray:
  """Computes Akima's slopes, weighted by the change of their neighbours."""
  if len(h) == 1:
    return np.repeat(rise, 2)
  head = [3 * rise[0] - 2 * rise[1], 2 * rise[0] - rise[1]]
  tail = [2 * rise[-1] - rise[-2], 3 * rise[-1] - 2 * rise[-2]]
  m = np.concatenate([head, rise, tail])
  right, left = np.abs(m[3:] - m[2:-1]), np.abs(m[1:-2] - m[:-3])
  total = right + left
  flat = total <= 1e-9 * total.max()
  with np.errstate(divide='ignore', invalid='ignore'):
    slopes = (right * m[1:-2] + left * m[2:-1]) / total
  return np.where(flat, (m[1:-2] + m[2:-1]) / 2, slopes)


_SLOPES: dict[str, Callable] = {'pchip': _pchip, 'akima': _akima}
