"""Columns of rows that hold the scores of a metric."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from collab_jax import _validate, metrics

Row = Mapping[str, Any]
# A metric that rows have, by name or itself; None for their first.
Y = str | metrics.Metric | None

# Compact tables leave these out where BLEU-4 stands, which they follow.
FOLLOWERS = ('bleu1', 'bleu2', 'bleu3', 'rouge_l')


class Column(NamedTuple):
  """Column of a metric, with the way in which its scores are shown.

  Attributes:
    name: Field of the score in a row; its interval ends in f'{name}_low' and
      f'{name}_high'.
    label: Name of the metric for people.
    unit: Unit of the shown numbers, '' for none.
    scale: Factor of the shown numbers.
    digits: Decimals in tables.
    higher_is_better: Whether higher scores are better.
  """

  name: str
  label: str
  unit: str = ''
  scale: float | int = 1.0
  digits: int = 1
  higher_is_better: bool = True

  @property
  def title(self) -> str:
    """Label with the unit, for axes."""
    return f'{self.label}, {self.unit}' if self.unit else self.label

  @property
  def sign(self) -> int:
    """1 where higher scores are better, else -1."""
    return 1 if self.higher_is_better else -1

  def quality(self, row: Row) -> float | int:
    """Returns the score with the sign by which more is better."""
    return self.sign * row[self.name]

  def reaches(self, row: Row, score: float | int) -> bool:
    """Whether a row is at least as good as a score."""
    return self.quality(row) >= self.sign * score

  def shown(self, row: Row, end: str = '') -> float | int:
    """Returns a score as people read it; `end` is '_low' or '_high'."""
    return self.scale * row[f'{self.name}{end}']

  def text(self, row: Row, digits: int = 1) -> str:
    """Returns a score as text."""
    return self.write(row[self.name], digits)

  def write(self, score: float | int, digits: int = 1) -> str:
    """Returns a number of this metric as text."""
    return f'{self.scale * score:.{digits}f}'

  def interval(self, row: Row, between: str = ' ') -> str:
    """Returns both ends of the interval as text."""
    ends = (self.shown(row, end) for end in ('_low', '_high'))
    return between.join(f'{value:.1f}' for value in ends)

  def half_width(self, row: Row) -> float | int:
    """Returns half the width of the interval, as shown."""
    return (self.shown(row, '_high') - self.shown(row, '_low')) / 2

  def kept(self, row: Row, end: str = '') -> float | int | None:
    """Returns the kept share of all vectors' score; `end` as of `shown`."""
    # Rows of older versions have it of BLEU-4 alone.
    old = f'kept{end}' if self.name == 'bleu4' else ''
    return row.get(f'{self.name}_kept{end}', row.get(old))


def columns(rows: Sequence[Row]) -> dict[str, Column]:
  """Returns the columns of rows by name, the first that of curves.

  Args:
    rows: From `summarize`, or of an older version, which knew no names of
      metrics.
  """
  if rows and 'metrics' in rows[0]:
    described = rows[0]['metrics']
  else:
    described = {
      name: metrics.make(name).describe()
      for name in metrics.DEFAULT
      if not rows or name in rows[0]
    }
  return {name: Column(name, **how) for name, how in described.items()}


def column(rows: Sequence[Row], y: Y = None) -> Column:
  """Returns the column of a metric.

  Args:
    rows: From `summarize`.
    y: Name of the metric, or the metric; None for the first of the rows.

  Raises:
    ValueError: The rows have no such column.
  """
  known = columns(rows)
  if y is None:
    return next(iter(known.values()))
  if not isinstance(y, str):
    y = metrics.name(metrics.make(y))
  if y not in known:
    missing = _validate.suggest(y, known)
    hint = '; name it in the metrics of summarize' if ':' in y else ''
    raise ValueError(f'y: got {y!r}{missing}{hint}')
  return known[y]


def others(rows: Sequence[Row], y: Column, without=FOLLOWERS) -> list[Column]:
  """Returns the other columns of a compact table.

  Args:
    rows: From `summarize`.
    y: Column that the table is of.
    without: Names to leave out where the rows have BLEU-4.
  """
  known = columns(rows)
  left_out = {y.name, *(without if 'bleu4' in known else ())}
  return [c for name, c in known.items() if name not in left_out]
