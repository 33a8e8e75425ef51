"""Ends of programs by SIGINT (Ctrl+C) and SIGTERM: one line, and no traceback.

Python handles a signal between two of its instructions. A program that is
compiled is one instruction of seconds or minutes, so that a thread waits beside
it, and ends the process where the main thread does not.
"""

from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import sys
import threading
from typing import Any

GOES_ON = 'interrupted; the same command goes on'
BEGINS_ANEW = 'interrupted; the same command begins anew'
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Variable of the process whose end is a program's too: that of an engine.
PARENT = 'COLLAB_JAX_PARENT'
# Seconds that a program has to close its files. What is lost when they are over
# is what a kill would lose, too: lines and files appear whole or not at all.
_PATIENCE = 2.0

_listeners: list[Callable[[int, str], None]] = []


@contextlib.contextmanager
def in_one_line(text: str, at_once: bool = False) -> Iterator[None]:
  """Ends a program with one line on standard error when it is interrupted.

  The exit status is 128 and the signal's number: 130 after Ctrl+C, 143 after
  SIGTERM. A second signal ends it at once. Signals that are ignored stay so, as
  a shell wants it of programs behind `&`; on other threads than the main one
  nothing is changed.

  Args:
    text: The line, 'interrupted; the same command goes on'.
    at_once: Ends the program without unwinding it: libraries that are being
      imported print tracebacks of their own.

  Raises:
    SystemExit: The program was interrupted.
  """
  if threading.current_thread() is not threading.main_thread():
    yield
    return
  watch = _Watch(text, at_once)
  try:
    with watch:
      yield
  except KeyboardInterrupt:
    watch.say()
    raise SystemExit(128 + (watch.signum or signal.SIGINT)) from None


def watch_imports(text: str = GOES_ON) -> None:
  """Ends a program with one line if it is interrupted while it imports.

    if __name__ == '__main__':
      from collab_jax import _interrupts

      _interrupts.watch_imports()

  Handlers stay until those of `in_one_line` take their place.

  Args:
    text: The line.
  """
  if threading.current_thread() is threading.main_thread():
    _Watch(text, at_once=True).__enter__()
  # Not for programs that this one starts, whose parent is another.
  if parent := os.environ.pop(PARENT, ''):
    end_with(int(parent))


@contextlib.contextmanager
def telling(listener: Callable[[int, str], None]) -> Iterator[None]:
  """Calls a function with exit status and line before a program is ended.

  Args:
    listener: The function; it is not called where a program unwinds.
  """
  _listeners.append(listener)
  try:
    yield
  finally:
    _listeners.remove(listener)


class _Watch:
  """Handlers of the signals, and the thread beside them.

  Attributes:
    signum: The signal that came; None before.
  """

  def __init__(self, text: str, at_once: bool):
    self.signum: int | None = None
    self._text = text
    self._at_once = at_once
    self._said = threading.Lock()
    self._before: dict[int, Any] = {}
    self._read, self._write = os.pipe()
    os.set_blocking(self._write, False)

  def __enter__(self) -> '_Watch':
    for signum in _SIGNALS:
      if signal.getsignal(signum) is not signal.SIG_IGN:  # As nohup has it.
        self._before[signum] = signal.signal(signum, self._handle)
    self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
    threading.Thread(target=self._wait, daemon=True).start()
    return self

  def __exit__(self, kind, *unused):
    if kind is KeyboardInterrupt and self.signum is not None:
      # Threads that compile hold the interpreter's end up: `_wait` goes on.
      for signum in self._before:
        signal.signal(signum, self._end)
      return
    signal.set_wakeup_fd(self._wakeup)
    for signum, handler in self._before.items():
      if signal.getsignal(signum) == self._handle:
        signal.signal(signum, handler)
    os.close(self._write)  # The thread ends.

  def say(self, begun: bool = False) -> None:
    """Writes the line, once.

    Args:
      begun: Whether a line of a progress bar may have begun.
    """
    if self._said.acquire(blocking=False):
      with contextlib.suppress(OSError, ValueError, AttributeError):
        # A terminal shows ^C.
        start = '\n' if begun or sys.stderr.isatty() else ''
        sys.stderr.write(f'{start}{self._text}\n')
        sys.stderr.flush()

  def _handle(self, signum: int, frame) -> None:
    del frame
    if self._at_once or self.signum is not None:
      self._end(signum, None)
    self.signum = signum
    raise KeyboardInterrupt

  def _end(self, signum: int, frame) -> None:
    del frame
    self.say(begun=not self._at_once)
    for tell in _listeners:
      tell(128 + signum, self._text)
    os._exit(128 + signum)

  def _wait(self) -> None:
    """Ends the process if it has not ended some time after a signal."""
    while byte := os.read(self._read, 1):
      if byte[0] in _SIGNALS:
        threading.Event().wait(_PATIENCE)
        self._end(byte[0], None)
    os.close(self._read)


def end_with(parent: int) -> None:
  """Ends this process by SIGTERM soon after another one, its parent, has ended.

  A parent that was killed cannot end its children.

  Args:
    parent: Process id of the parent.
  """

  def watch() -> None:
    while os.getppid() == parent:
      threading.Event().wait(0.5)
    os.kill(os.getpid(), signal.SIGTERM)

  threading.Thread(target=watch, daemon=True).start()
