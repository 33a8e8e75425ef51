"""Standard output and error of programs: closed, piped away, or in ASCII.

No reader of a program's words decides whether its work is done: a letter that
the terminal does not have is escaped, and what nobody reads is dropped.
"""

from collections.abc import Iterator
import contextlib
import logging
import os
import select
import sys

_LOG = logging.getLogger(__name__)


def prepare() -> None:
  """Makes both streams writable, whatever letters and however closed."""
  for name in ('stdout', 'stderr'):
    stream = getattr(sys, name)
    if stream is None:  # Closed before the start: `>&-`, or a service.
      nowhere = open(os.devnull, 'w', encoding='utf-8', errors='ignore')  # noqa: SIM115
      setattr(sys, name, nowhere)
    elif hasattr(stream, 'reconfigure'):  # A notebook's own has none.
      stream.reconfigure(errors='backslashreplace')


def announce(text: str) -> None:
  """Prints a line of a program that goes on if nobody can read it."""
  try:
    print(text, flush=True)
  except OSError as error:
    _LOG.warning('standard output: %s; what is printed is lost', error.strerror)
    _discard()


@contextlib.contextmanager
def until_closed() -> Iterator[None]:
  """Ends a program in silence once the reader of its output has gone.

  As after `collab-jax --help | head`: Python would print BrokenPipeError.

  Raises:
    SystemExit: The reader has gone; the status is 1.
  """
  try:
    try:
      yield
    finally:
      if sys.stdout is not None:
        sys.stdout.flush()
  except BrokenPipeError:
    if not _is_broken():
      raise  # Of a socket.
    _discard()
    raise SystemExit(1) from None


def _is_broken() -> bool:
  """Returns whether standard output is a pipe that nobody reads."""
  with contextlib.suppress(OSError, ValueError, AttributeError):
    poll = select.poll()  # Windows has none.
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(
      event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0)
    )
  return False


def _discard() -> None:
  """Sends what is printed from now on nowhere, and what waits to be."""
  with contextlib.suppress(OSError, ValueError):
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
