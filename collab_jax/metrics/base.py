"""Metrics of answers against references, made of sums over the examples."""

import abc
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

from jaxtyping import Shaped
import numpy as np

from collab_jax import _validate

# Answers and references may be of any kind that a metric knows: captions are
# texts, and an example has one or more references.
Answers = Sequence[Any]
References = Sequence[Sequence[Any]]


class Metric(abc.ABC):
  """Metric of answers against references, named in configs and figures.

    metric = cj.metrics.make('bleu4')
    metric.score(['a red ring'], [['a red ring on grass', 'one red ring']])

  The score of a corpus is computed from statistics that are summed over its
  examples. A bootstrap thus draws sums, and no answer is scored again.

  A subclass is a frozen dataclass, whose fields are plain values. `MeanMetric`
  is the base of metrics that average one score per example.

  Attributes:
    label: Name in tables and figures, such as 'BLEU-4'.
    unit: Unit of the shown numbers, '' for none.
    scale: Factor of the shown numbers; 100 shows shares in percent.
    digits: Decimals in tables.
    higher_is_better: Whether higher scores are better.
    bounds: The lowest and the highest possible score.
    uses_corpus: Whether an example's statistics depend on the references of
      the others; such scores are not in records.
  """

  label: ClassVar[str]
  unit: ClassVar[str] = ''
  scale: ClassVar[float] = 1.0
  digits: ClassVar[int] = 1
  higher_is_better: ClassVar[bool] = True
  bounds: ClassVar[tuple[float, float]] = (0.0, float('inf'))
  uses_corpus: ClassVar[bool] = False

  @abc.abstractmethod
  def statistics(
    self,
    answers: Answers,
    references: References,
    corpus: References | None = None,
  ) -> Shaped[np.ndarray, 'examples numbers']:
    """Computes the statistics of each example.

    Args:
      answers: An answer per example; examples may be there several times.
      references: The references of each example.
      corpus: The references of all examples of an evaluation, each once, for
        metrics that weigh words by how many examples have them; None for
        `references`.

    Returns:
      Numbers per example, finite, always as many.

    Raises:
      ValueError: Answers and references do not match.
    """

  @abc.abstractmethod
  def combine(
    self, sums: Shaped[np.ndarray, '*batch numbers']
  ) -> Shaped[np.ndarray, '*batch']:
    """Computes scores from statistics that are summed over examples.

    Args:
      sums: Sums of `statistics`; the axes in front are kept.

    Returns:
      A score for each of the sums.
    """

  @property
  def statistics_key(self) -> Hashable:
    """Equal for metrics of the same statistics, which are computed once."""
    return self

  def mean_score(
    self, stats: Shaped[np.ndarray, 'examples *seeds numbers']
  ) -> float:
    """Computes the score of a corpus from the statistics of its examples.

    Args:
      stats: From `statistics`; over axes between, such as seeds, the scores
        are averaged.
    """
    return float(np.mean(self.combine(np.asarray(stats).sum(0))))

  def score(
    self,
    answers: Answers,
    references: References,
    corpus: References | None = None,
  ) -> float:
    """Computes the score of a corpus; arguments are those of `statistics`."""
    return self.mean_score(
      checked_statistics(self, answers, references, corpus)
    )

  def describe(self) -> dict[str, Any]:
    """Returns what tables and figures need to show scores, as plain values."""
    return {
      'label': self.label,
      'unit': self.unit,
      'scale': self.scale,
      'digits': self.digits,
      'higher_is_better': self.higher_is_better,
    }


class MeanMetric(Metric):
  """Metric that averages one score per example.

    @dataclasses.dataclass(frozen=True)
    class Exact(cj.metrics.MeanMetric):
      '''Share of answers that equal a reference.'''

      label: ClassVar[str] = 'exact'

      def scores(self, answers, references, corpus=None):
        pairs = zip(answers, references, strict=True)
        return np.array([float(a in refs) for a, refs in pairs])

  The score of a corpus is the mean of its examples' scores.
  """

  @abc.abstractmethod
  def scores(
    self,
    answers: Answers,
    references: References,
    corpus: References | None = None,
  ) -> Shaped[np.ndarray, ' examples']:
    """Computes the score of each example; arguments as of `statistics`."""

  def statistics(
    self,
    answers: Answers,
    references: References,
    corpus: References | None = None,
  ) -> Shaped[np.ndarray, 'examples numbers']:
    """Returns the score of each example, and 1."""
    scores = np.asarray(self.scores(answers, references, corpus), np.float64)
    return np.stack([scores, np.ones_like(scores)], axis=-1)

  def combine(
    self, sums: Shaped[np.ndarray, '*batch numbers']
  ) -> Shaped[np.ndarray, '*batch']:
    """Computes the mean."""
    return np.asarray(sums[..., 0] / sums[..., 1])

  def mean_score(
    self, stats: Shaped[np.ndarray, 'examples *seeds numbers']
  ) -> float:
    """Computes the mean over examples and seeds.

    Rows may be sums over several examples, as of a picture's questions.
    """
    stats = np.asarray(stats)
    return float(stats[..., 0].sum() / stats[..., 1].sum())


class AnswerMetric(MeanMetric):
  """Metric that scores each answer by itself, 0 to 1; shown in percent.

  ::

    @dataclasses.dataclass(frozen=True)
    class Begins(cj.metrics.AnswerMetric):
      '''Share of answers with which a reference begins.'''

      label: ClassVar[str] = 'beginnings'

      def score_answer(self, answer, references):
        return float(any(ref.startswith(answer) for ref in references))
  """

  unit: ClassVar[str] = '%'
  scale: ClassVar[float] = 100.0
  bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)

  @abc.abstractmethod
  def score_answer(self, answer: str, references: Sequence[str]) -> float:
    """Computes the score of an answer, 0 to 1, of one reference or more."""

  def scores(
    self,
    answers: Answers,
    references: References,
    corpus: References | None = None,
  ) -> Shaped[np.ndarray, ' examples']:
    """Computes the score of each answer.

    Raises:
      ValueError: As of `check_examples`, or there is something else than texts.
    """
    del corpus
    check_examples(answers, references)
    for i, (answer, each) in enumerate(zip(answers, references, strict=True)):
      _check_text(f'answers[{i}]', answer)
      for j, reference in enumerate(each):
        _check_text(f'references[{i}][{j}]', reference)
    pairs = zip(answers, references, strict=True)
    return np.array([float(self.score_answer(*pair)) for pair in pairs])


def as_metric(name: str, value: Any) -> Metric:
  """Returns a metric as it is, or raises an error that says what it lacks.

  Args:
    name: Name of the argument, for errors.
    value: Expected to be an instance of a frozen dataclass.

  Raises:
    TypeError: It is no metric.
  """
  _validate.instance(name, value, Metric)
  if not isinstance(getattr(value, 'label', None), str):
    raise _validate.error(
      name,
      value,
      'a metric with a label',
      "write label: ClassVar[str] = 'BLEU-4' in its class",
      TypeError,
    )
  return value


def check_examples(answers: Answers, references: References) -> None:
  """Checks that there is something to score, and what to compare it with.

  Args:
    answers: An answer per example.
    references: The references of each example.

  Raises:
    ValueError: There are no answers, not as many lists of references, or one
      of these is empty; or a text or a number stands in place of a list.
  """
  for name, values in (('answers', answers), ('references', references)):
    if not _is_list(values):
      raise _validate.error(
        name, values, 'a list with an entry for each example'
      )
  if not len(answers):  # An array has no truth value.
    raise _validate.error('answers', [], 'at least one to score')
  if len(references) != len(answers):
    expected = f'{len(answers)}, a list for each answer'
    raise _validate.error('references: number', len(references), expected)
  for i, each in enumerate(references):
    if not _is_list(each) or not len(each):
      raise _validate.error(
        f'references[{i}]', each, 'a list of one or more references'
      )


def _is_list(values: Any) -> bool:
  """Returns whether there are several values: a list, a tuple, an array."""
  return hasattr(values, '__len__') and not isinstance(values, str | bytes)


def _check_text(name: str, value: Any) -> None:
  if not isinstance(value, str):
    raise _validate.error(name, value, 'a text')


def checked_statistics(
  metric: Metric,
  answers: Answers,
  references: References,
  corpus: References | None = None,
) -> Shaped[np.ndarray, 'examples numbers']:
  """Computes the statistics of a metric and checks them.

  Args:
    metric: The metric.
    answers: As of `Metric.statistics`.
    references: As of `Metric.statistics`.
    corpus: As of `Metric.statistics`.

  Returns:
    float64, or integers as the metric returned them.

  Raises:
    ValueError: They have another shape, or are not finite; else as of
      `check_examples` and of the metric.
  """
  check_examples(answers, references)
  stats = np.asarray(metric.statistics(answers, references, corpus))
  title = f'{type(metric).__name__}.statistics'
  if stats.ndim != 2 or len(stats) != len(answers):
    raise _validate.error(
      title,
      stats.shape,
      f'a shape of ({len(answers)} examples, numbers)',
      'return a row for each answer',
    )
  if stats.dtype.kind not in 'iufb' or not np.isfinite(stats).all():
    raise ValueError(
      f'{title}: got values that are not finite numbers; divide in combine,'
      ' after the sum'
    )
  return stats if stats.dtype.kind == 'i' else stats.astype(np.float64)
