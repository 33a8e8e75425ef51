"""Checks of the contract of metrics, for their authors."""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import numpy as np

from collab_jax import metrics
from collab_jax.metrics import base

# An empty answer, other scripts, repeated words, one word, a long answer, and
# signs that tokenizers treat in their own way.
_ANSWERS = (
  'a small red ring left of a blue star on grass',
  'a small red ring left of a blue star on sand',
  '',
  'Ein Ring liegt über dem Stern',
  '草の上の赤い輪',
  'ring ring ring ring ring ring ring',
  'star',
  "it's an emoji 🎈, isn't it? (yes) -- 3.5%\n\ttwo\u00a0words\u0301",
  ' '.join(['a large yellow square near a green cross'] * 8),
)
_REFERENCES = (
  ('a small red ring left of a blue star on grass', 'a ring and a star'),
  ('a tiny red ring left of a blue star on grass',),
  ('a dog on the mat', 'one dog', 'a brown dog'),
  ('Ein roter Ring liegt über dem Stern', 'Ring'),
  ('草の上の赤い輪', '赤い輪'),
  ('a ring',),
  ('a star', 'star', 'one star', 'a blue star', 'the star'),
  ("it's an emoji 🎈",),
  ('a large yellow square near a green cross',),
)
_DRAWS = 5


def check_metric(
  metric: base.Metric,
  answers: Sequence[Any] | None = None,
  references: Sequence[Sequence[Any]] | None = None,
  seed: int = 0,
) -> None:
  """Checks that a metric keeps the contract of `metrics.Metric`.

      cj.testing.check_metric(WordRecall())

  That is: a hashable frozen dataclass with a label, that its name makes again;
  finite statistics, the same for a second call, in any order and of any part
  of the examples; scores of any sums, alone or in a batch, within the bounds;
  a drawn sample that scores from its sums as if it were scored anew; and, of
  texts, references that score no worse than empty answers.

  Args:
    metric: The metric under test.
    answers: Answers of the kind that it scores; by default captions, among
      them an empty one and some in other scripts.
    references: The references of each answer.
    seed: For the drawn samples.

  Raises:
    AssertionError: It says what was checked, what was found and what is needed.
    TypeError: It is no metric.
    ValueError: Its statistics are not finite rows, one for each answer.
  """
  base.as_metric('metric', metric)
  title = type(metric).__name__
  _check_class(metric, title)
  texts = answers is None
  given = list(_ANSWERS if answers is None else answers)
  refs = [list(r) for r in (references or _REFERENCES)]
  stats = base.checked_statistics(metric, given, refs)
  _check_statistics(metric, title, given, refs, stats)
  _check_scores(metric, title, stats)
  _check_samples(metric, title, (given, refs), stats, seed)
  if texts:
    _check_direction(metric, title, refs)


def _check_class(metric: base.Metric, title: str) -> None:
  same = dataclasses.replace(metric)  # pyright: ignore[reportArgumentType]
  _require(
    same == metric and hash(same) == hash(metric),
    f'{title}: equal settings must compare equal and have equal hashes.',
  )
  _require(
    hash(metric.statistics_key) == hash(same.statistics_key),
    f'{title}.statistics_key must be the same for equal settings.',
  )
  for field, kind in (
    ('label', str),
    ('unit', str),
    ('scale', int | float),
    ('digits', int),
    ('higher_is_better', bool),
  ):
    value = getattr(metric, field)
    _require(
      isinstance(value, kind), f'{title}.{field}: got {value!r}, a {kind}.'
    )
  _require(metric.label.strip(), f'{title}.label must not be empty.')
  low, high = metric.bounds
  _require(low < high, f'{title}.bounds must rise, got {metric.bounds}.')
  name = metrics.name(metric)
  if '<locals>' not in name and '__main__' not in name:
    _require(
      metrics.make(name) == metric,
      f'{title}: the name {name!r} must make the same metric again.',
    )


def _check_statistics(metric, title, answers, references, stats) -> None:
  again = base.checked_statistics(metric, answers, references)
  _require(
    np.array_equal(stats, again),
    f'{title}: statistics() differ for a second call; take no random numbers.',
  )
  order = np.arange(len(answers))[::-1]
  turned = base.checked_statistics(
    metric, [answers[i] for i in order], [references[i] for i in order]
  )
  _require(
    turned.shape == stats.shape and np.allclose(turned, stats[order]),
    f'{title}: statistics() of an example depend on the order of examples.',
  )
  for i, (answer, refs) in enumerate(zip(answers, references, strict=True)):
    alone = base.checked_statistics(metric, [answer], [refs], references)
    _require(
      alone.shape == stats[i : i + 1].shape
      and np.allclose(alone, stats[i : i + 1]),
      f'{title}: statistics() of example {i} alone differ from those among'
      ' others; read what all examples share from `corpus`.',
    )
    twice = base.checked_statistics(
      metric, [answer] * 2, [refs] * 2, references
    )
    _require(
      np.allclose(twice, stats[[i, i]]),
      f'{title}: statistics() of example {i} differ where it is there twice.',
    )


def _check_scores(metric, title, stats) -> None:
  low, high = metric.bounds
  sums = np.concatenate([stats, stats.sum(0, keepdims=True)]).astype(float)
  scores = np.asarray(metric.combine(sums))
  _require(
    scores.shape == (len(sums),),
    f'{title}.combine: got scores of shape {scores.shape} for sums of shape'
    f' {sums.shape}, expected {(len(sums),)}; use axis -1.',
  )
  deep = np.asarray(metric.combine(sums[:, None]))
  alone = np.array([metric.combine(row) for row in sums])
  _require(
    deep.shape == (len(sums), 1)
    and np.allclose(deep[:, 0], scores, equal_nan=True)
    and np.allclose(alone, scores, equal_nan=True),
    f'{title}.combine: scores of sums differ alone, in rows and in a batch.',
  )
  slack = 1e-9 * max(1.0, *(abs(x) for x in (low, high) if math.isfinite(x)))
  for score in scores:
    _require(
      np.isfinite(score) and low - slack <= score <= high + slack,
      f'{title}: got a score of {score}, expected a number within the bounds'
      f' {metric.bounds}, also of one example and of an empty answer.',
    )


def _check_samples(metric, title, examples, stats, seed) -> None:
  answers, references = examples
  rng = np.random.default_rng(seed)
  for _ in range(_DRAWS):
    drawn = rng.integers(0, len(answers), len(answers))
    summed = float(metric.combine(stats[drawn].sum(0).astype(float)))
    anew = metric.score(
      [answers[i] for i in drawn], [references[i] for i in drawn], references
    )
    _require(
      math.isclose(summed, anew, rel_tol=1e-9, abs_tol=1e-9),
      f'{title}: a drawn sample scores {summed} from its sums and {anew} anew;'
      ' the score must be a function of sums of statistics.',
    )


def _check_direction(metric, title, references) -> None:
  best = metric.score([refs[0] for refs in references], references)
  empty = metric.score([''] * len(references), references)
  better = best - empty if metric.higher_is_better else empty - best
  _require(
    better >= 0,
    f'{title}: references score {best}, empty answers {empty}; expected no'
    f' worse, as higher_is_better is {metric.higher_is_better}.',
  )


def _require(condition: Any, message: str) -> None:
  if not condition:
    raise AssertionError(message)
