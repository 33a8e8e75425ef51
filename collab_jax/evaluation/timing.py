"""How long the stages of a batch take."""

from collections.abc import Iterator
import contextlib
import time


class Clock:
  """Seconds per image of each stage.

  Attributes:
    seconds: By stage.
  """

  def __init__(self, size: int, **seconds: float):
    """Starts with what is known.

    Args:
      size: Number of images.
      **seconds: Per image, by stage.
    """
    self.seconds = seconds
    self._size = size

  @contextlib.contextmanager
  def __call__(self, stage: str) -> Iterator[None]:
    """Measures a stage."""
    start = time.perf_counter()
    yield
    self.seconds[stage] = round((time.perf_counter() - start) / self._size, 6)
