"""Watch over the units of a sweep: progress, failures and new starts."""

from collections.abc import Iterable, Sequence
import contextlib
from pathlib import Path
import sys
import time
from typing import Protocol, runtime_checkable

import tqdm

from collab_jax.engines import base
from collab_jax.evaluation import progress

# Seconds until a file that another machine renamed is seen here.
_VISIBLE_AFTER = 10.0


@runtime_checkable
class GrowingFiles(Protocol):
  """Files of units that grow, as `unit_files.UnitFiles` has them."""

  def finished(self) -> set[int]:
    """Returns the units whose records are all there."""
    ...

  def count_lines(self, units: Iterable[int], /) -> dict[int, int]:
    """Counts the records of units, finished or in the making."""
    ...


class UnitWatch:
  """Starts units by an engine, until each has its file of records.

  A unit that failed is started again, as often as it makes new records, and a
  few times if it makes none.
  """

  def __init__(
    self,
    files: GrowingFiles,
    command: base.UnitCommand,
    engine: base.SweepEngine,
    retries: int,
  ):
    """Binds an engine.

    Args:
      files: Files of the sweep.
      command: Command of a unit, whose log failures name.
      engine: The engine.
      retries: Starts of a unit that fails and makes no record, after the first.
    """
    self._files = files
    self._command = command
    self._engine = engine
    self._retries = retries
    self._open: set[int] = set()
    self._ended: dict[int, tuple[str, float]] = {}
    self._lines: dict[int, int] = {}  # When a unit was started.
    self._failures: dict[int, int] = {}
    self._failed: dict[int, str] = {}

  def run(
    self, missing: Sequence[int], units: int, bar: progress.Progress
  ) -> None:
    """Runs units to their ends.

    Args:
      missing: Units without a file of records.
      units: Number of all units.
      bar: Bar of records.

    Raises:
      ValueError: Units failed.
    """
    self._open = set(missing)
    lines = self._files.count_lines(range(units))
    bar.skip(sum(lines.values()))
    attached = self._open & set(self._engine.attach())
    self._lines = {unit: lines[unit] for unit in missing}
    self._engine.submit([unit for unit in missing if unit not in attached])
    growing = set(missing)
    while self._open:
      now = time.monotonic()
      ended = self._engine.poll()
      self._ended |= {unit: (why, now) for unit, why in ended.items()}
      self._settle(now)
      for unit, count in self._files.count_lines(growing).items():
        if grown := count - lines[unit]:
          bar.update(grown)
          bar.end_batch()  # Programs are compiled before the first record.
          lines[unit] = count
      growing = set(self._open)
      bar.note(self._engine.status)
      if self._open:
        time.sleep(self._engine.interval)
    if self._failed:
      unit, reason = min(self._failed.items())
      others = len(self._failed) - 1
      more = f', and {others} more units failed' if others else ''
      raise ValueError(f'{reason}{more}; the same command goes on')

  def _settle(self, now: float) -> None:
    """Closes units that are finished, and starts failed ones again."""
    self._open -= self._files.finished()
    for unit, (why, since) in list(self._ended.items()):
      if unit not in self._open:
        del self._ended[unit]
      elif now - since >= _VISIBLE_AFTER:
        del self._ended[unit]
        self._fail(unit, why)

  def _fail(self, unit: int, why: str) -> None:
    """Starts a unit again, or gives it up."""
    lines = self._files.count_lines([unit])[unit]
    fruitless = lines <= self._lines[unit]
    self._lines[unit] = lines
    self._failures[unit] = self._failures.get(unit, 0) + 1 if fruitless else 1
    log = self._command.log(unit)
    last = last_line(log)
    reason = (
      f'unit {unit}: got {why}{f" ({last})" if last else ""}, expected its'
      f' records; see {log}'
    )
    hopeless = not any(self._files.count_lines(self._lines).values())
    # An error of the user's, as launchers print it, stays one.
    mine = hopeless and last.startswith('error: ')
    if self._failures[unit] <= self._retries and not mine:
      tqdm.tqdm.write(f'{reason}; starting it again', file=sys.stderr)
      self._engine.submit([unit])
      return
    self._failed[unit] = reason
    self._open.remove(unit)
    if hopeless and len(self._failed) >= min(2, len(self._lines)):
      self._open.clear()  # The others will fail of the same.


def last_line(path: Path) -> str:
  """Returns the last line of a log that is not empty; '' for none."""
  with contextlib.suppress(OSError):
    with path.open('rb') as file:
      file.seek(max(0, path.stat().st_size - 4096))
      lines = file.read().decode(errors='replace').splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), '')
  return ''
