"""The delta rate against another implementation, and curves made by hand."""

import bjontegaard
import numpy as np
import pytest

from collab_jax import metrics

ANCHOR = ([40.0, 90, 200, 480, 1100], [12.0, 31.5, 55, 78, 90.5])
OTHER = ([12.0, 30, 70, 160, 500, 900], [18.0, 40, 62.25, 80, 91, 93.5])


@pytest.mark.parametrize('method', ['pchip', 'cubic', 'akima'])
@pytest.mark.parametrize('points', [4, 5])
def test_another_implementation_agrees(method, points):
  curves = [x[:points] for x in ANCHOR] + [x[-points:] for x in OTHER]
  for first, second in ((curves[:2], curves[2:]), (curves[2:], curves[:2])):
    expected = bjontegaard.bd_rate(
      *first, *second, method, require_matching_points=False, min_overlap=0
    )
    got = metrics.bd_rate(*first, *second, method)
    assert 100 * got == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('method', ['pchip', 'akima'])
def test_random_curves_agree(method):
  rng = np.random.default_rng(0)
  for _ in range(50):
    curves = [
      np.cumsum(rng.uniform(0.01, scale, rng.integers(4, 12)))
      for scale in (1, 9)
      for _ in range(2)
    ]
    rates, scores = curves[:2], curves[2:]
    n = [min(len(r), len(s)) for r, s in zip(rates, scores, strict=True)]
    args = [
      x[:m] for r, s, m in zip(rates, scores, n, strict=True) for x in (r, s)
    ]
    expected = bjontegaard.bd_rate(
      *args, method, require_matching_points=False, min_overlap=0
    )
    assert 100 * metrics.bd_rate(*args, method) == pytest.approx(expected)


@pytest.mark.parametrize('method', ['pchip', 'cubic', 'akima'])
def test_a_quarter_of_the_bytes_is_minus_three_quarters(method):
  rates, scores = np.array(ANCHOR[0]), ANCHOR[1]
  assert metrics.bd_rate(rates, scores, rates / 4, scores, method) == (
    pytest.approx(-0.75)
  )
  assert metrics.bd_rate(rates, scores, rates, scores, method) == (
    pytest.approx(0, abs=1e-12)
  )
  # The unit of either axis does not matter.
  assert metrics.bd_rate(
    8 * rates, np.array(scores) / 100, 16 * rates, np.array(scores) / 100
  ) == pytest.approx(1)


def test_two_points_are_a_line_of_the_logarithm():
  # At every score the second is twice the first, though the ends differ.
  first = [10.0, 1000.0], [0.0, 2.0]
  second = [20.0, 20000.0], [0.0, 3.0]
  for method in ('pchip', 'akima'):
    assert metrics.bd_rate(*first, *second, method) == pytest.approx(1)


def test_only_shared_scores_count():
  cheap = [1.0, *ANCHOR[0]], [0.1, *ANCHOR[1]]
  assert metrics.overlap(cheap[1], ANCHOR[1]) == (12.0, 90.5)
  assert metrics.bd_rate(*cheap, *ANCHOR) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
  ('args', 'said'),
  [
    ((*ANCHOR, [1, 2], [95, 96]), 'share no quality: one has 12 to 90.5, the'),
    ((*ANCHOR, [1, 2], [90.5, 96]), 'share no quality'),
    ((*ANCHOR, [1, 2], [20, 20]), 'curve: rates .* rise .*pareto_front'),
    ((*ANCHOR, [2, 1], [20, 30]), 'curve: rates .* rise'),
    (([3, 2], [1, 2], *OTHER), 'anchor: rates .* rise'),
    ((*ANCHOR, [0, 1], [20, 30]), 'curve: got a rate of 0, expected > 0'),
    ((*ANCHOR, [1], [20]), 'curve: got 1 points, expected at least 2'),
    ((*ANCHOR, [1, 2], [20]), r'rates of shape \(2,\) and scores of shape'),
    ((*ANCHOR, [1, np.nan], [20, 30]), 'not finite'),
    ((*ANCHOR, *OTHER, 'spline'), "method: got 'spline', expected one of pch"),
    ((*ANCHOR, [1, 2, 3], [20, 30, 40], 'cubic'), 'at least 4'),
  ],
)
def test_what_is_no_curve_is_refused(args, said):
  with pytest.raises(ValueError, match=said):
    metrics.bd_rate(*args)


def test_the_front_is_what_nothing_beats():
  rates = np.array([5, 1, 3, 3, 4, 1, 9])
  scores = np.array([7, 2, 5, 6, 6, 2, 7])
  front = metrics.pareto_front(rates, scores)
  assert front.tolist() == [1, 3, 0]
  rng = np.random.default_rng(1)
  rates, scores = rng.integers(0, 30, (2, 60))
  front = metrics.pareto_front(rates, scores)
  beaten = [
    any(
      rates[j] <= rates[i]
      and scores[j] >= scores[i]
      and (rates[j], scores[j]) != (rates[i], scores[i])
      for j in range(60)
    )
    for i in range(60)
  ]
  points = {(rates[i], scores[i]) for i in range(60) if not beaten[i]}
  assert {(rates[i], scores[i]) for i in front} == points
  assert (np.diff(rates[front]) > 0).all()
  assert (np.diff(scores[front]) > 0).all()
