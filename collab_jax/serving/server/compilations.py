"""Counts the programs that a thread has compiled, as JAX reports them."""

from collections.abc import Callable, Iterator
import contextlib
import functools
import threading
from typing import Any

from jax import monitoring

# A program that is found in a cache on disk counts, too: it was not at hand.
_EVENT = '/jax/core/compile/backend_compile_duration'


class _Thread(threading.local):
  tell: Callable[[bool], None] | None = None
  warming: bool = False


_THREAD = _Thread()


def listen(tell: Callable[[bool], None]) -> None:
  """Has every compilation of this thread reported from now on.

  Args:
    tell: Is called with whether it came within `warming`.
  """
  _register()
  _THREAD.tell = tell


@contextlib.contextmanager
def warming() -> Iterator[None]:
  """What is compiled within is compiled ahead, and expected."""
  before, _THREAD.warming = _THREAD.warming, True
  try:
    yield
  finally:
    _THREAD.warming = before


@functools.cache
def _register() -> None:
  monitoring.register_event_duration_secs_listener(_heard)


def _heard(event: str, duration_secs: float, **kwargs: Any) -> None:
  del duration_secs, kwargs
  if event == _EVENT and _THREAD.tell is not None:
    _THREAD.tell(_THREAD.warming)
