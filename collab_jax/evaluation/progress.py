"""Progress bar of an evaluation, with the time that is left."""

import time
from typing import Any

import tqdm

_FORMAT = '{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]'


class Progress:
  """Bar that says how long the rest takes, once that was measured.

  While the first batch is computed, programs are compiled: its captions say
  nothing of the others' speed, and neither do those that were there before.
  """

  def __init__(
    self, total: int, name: str, disable: bool, unit: str = 'captions'
  ):
    """Shows the bar.

    Args:
      total: Number of captions.
      name: Name of the data.
      disable: Show nothing.
      unit: Plural of what is counted, where not captions.
    """
    self._unit = unit
    self._bar: Any = tqdm.tqdm(
      total=total,
      unit=f' {unit}',
      disable=disable,
      dynamic_ncols=True,
      desc=name,
      bar_format=_FORMAT,
    )
    self._start: float | None = None
    self._measured = 0
    self._left = ''
    self._note = ''

  def skip(self, captions: int) -> None:
    """Counts captions that were there before."""
    self._bar.update(captions)

  def note(self, text: str) -> None:
    """Shows words behind the time that is left.

    Args:
      text: The words.
    """
    if text != self._note:
      self._note = text
      self._show(refresh=True)

  def _show(self, refresh: bool) -> None:
    words = ', '.join(filter(None, (self._left, self._note)))
    self._bar.set_postfix_str(words, refresh=refresh)

  def update(self, captions: int) -> None:
    """Counts captions that were made."""
    if self._start is not None:
      self._measured += captions
      seconds = time.perf_counter() - self._start
      speed = self._measured / max(seconds, 1e-9)
      left = (self._bar.total - self._bar.n - captions) / max(speed, 1e-9)
      self._left = f'{speed:,.1f} {self._unit}/s, {duration(left)} left'
      self._show(refresh=False)
    self._bar.update(captions)

  def end_batch(self) -> None:
    """Begins to measure once a batch was computed."""
    if self._start is None:
      self._start = time.perf_counter()

  def __enter__(self) -> 'Progress':
    """Returns the progress."""
    return self

  def __exit__(self, *unused):
    """Leaves the bar as it is."""
    self._bar.close()


def duration(seconds: float) -> str:
  """Returns a duration as people say it: '40 s', '12 min', '3.5 h'."""
  if seconds < 90:
    return f'{seconds:.0f} s'
  if seconds < 90 * 60:
    return f'{seconds / 60:.0f} min'
  return f'{seconds / 3600:.1f} h'
