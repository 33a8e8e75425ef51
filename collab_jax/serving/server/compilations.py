"""Counter of the programs that a thread compiles, as JAX reports them."""

from collections.abc import Callable, Iterator
import contextlib
import functools
import threading
from typing import Any

from jax import monitoring

# A program that is found in a cache on disk counts too: it was not at hand.
_EVENT = '/jax/core/compile/backend_compile_duration'


class _ThreadState(threading.local):
  callback: Callable[[bool], None] | None = None
  warming_up: bool = False


_THREAD = _ThreadState()


def listen(callback: Callable[[bool], None]) -> None:
  """Reports every compilation of this thread from now on.

  Args:
    callback: Called with whether the compilation was within `warming_up`.
  """
  _register()
  _THREAD.callback = callback


@contextlib.contextmanager
def warming_up() -> Iterator[None]:
  """Marks compilations within as ahead of time."""
  before, _THREAD.warming_up = _THREAD.warming_up, True
  try:
    yield
  finally:
    _THREAD.warming_up = before


@functools.cache
def _register() -> None:
  monitoring.register_event_duration_secs_listener(_on_event)


def _on_event(event: str, duration_secs: float, **kwargs: Any) -> None:
  del duration_secs, kwargs
  if event == _EVENT and _THREAD.callback is not None:
    _THREAD.callback(_THREAD.warming_up)
