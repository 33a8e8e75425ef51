"""Places that callers share: calls, bodies of requests, waiting requests."""

import collections
from collections.abc import Callable


class Places:
  """Counted places, of which no caller may take all.

      places = Places(8, fair=lambda: True)
      if places.take('alice'):
        ...
        places.release('alice')

  If they are fair, a caller may hold at most as many as are free (the dynamic
  threshold of shared switch buffers): one caller alone gets half of them, n
  busy callers leave one part in n + 1 to whoever comes next.

  Attributes:
    size: Number of places.
    taken: Number of places that are taken.
  """

  def __init__(self, size: int, fair: Callable[[], bool] = lambda: False):
    """Makes places, all free.

    Args:
      size: Number of places.
      fair: Returns whether callers are told apart; else one may hold all
        places.
    """
    self.size = size
    self.taken = 0
    self._fair = fair
    self._held: collections.Counter[str] = collections.Counter()

  def held(self, caller: str) -> int:
    """Returns the number of places of a caller."""
    return self._held[caller]

  def take(self, caller: str = '') -> bool:
    """Takes a place, if the caller may have one; returns whether it did."""
    free = self.size - self.taken
    if not free or (self._fair() and self._held[caller] >= free):
      return False
    self.taken += 1
    self._held[caller] += 1
    return True

  def release(self, caller: str = '') -> None:
    """Frees a place of a caller."""
    self.taken -= 1
    self._held[caller] -= 1
    if not self._held[caller]:
      del self._held[caller]  # Callers that have gone are forgotten.
