"""Free memory of a process, given back to the system.

glibc keeps what was freed in arenas, one for a few threads each. After a storm
of calls, or a large picture, those are megabytes by the hundred that hold
nothing.
"""

import asyncio
import ctypes
import functools
from typing import Any

# Seconds between two times that free memory is given back.
_PERIOD_SECONDS = 30.0


def trim() -> None:
  """Gives free memory back, where the C library can."""
  if (function := _find_trim()) is not None:
    function(0)


async def trim_regularly() -> None:
  """Gives free memory back every half a minute, until it is cancelled."""
  trim = _find_trim()
  while trim is not None:
    await asyncio.sleep(_PERIOD_SECONDS)
    # On a thread: it takes some milliseconds, without Python's lock.
    await asyncio.to_thread(trim, 0)


@functools.cache
def _find_trim() -> Any:
  """Returns glibc's `malloc_trim`; None with other C libraries."""
  try:
    return ctypes.CDLL(None).malloc_trim
  except (AttributeError, OSError, TypeError):
    return None
