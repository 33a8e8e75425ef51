"""Retry policy of the edge: which errors pass, back-off, time limit."""

from collections.abc import Callable
import dataclasses
import random
import time

import grpc

from collab_jax import _terminal

# Status code of a session that the server does not take.
REFUSED = grpc.StatusCode.FAILED_PRECONDITION.name

# Codes of conditions that pass by themselves: it starts, drains or is full.
_TRANSIENT = (
  grpc.StatusCode.UNAVAILABLE,
  grpc.StatusCode.RESOURCE_EXHAUSTED,
)
# Text of UNKNOWN for an answer that ended without a status, as a proxy's does
# whose server dies.
_CUT_OFF = 'Stream removed'
# Texts of lasting conditions to which gRPC gives the same codes.
_PERMANENT = (
  'larger than max',
  'CERTIFICATE_VERIFY_FAILED',
  'WRONG_VERSION_NUMBER',
  'verification check failed',
  'certificate required',
  'DNS resolution failed',
  'Domain name not found',
  'NO_COMMON_SIGNATURE_ALGORITHMS',
)
# Seconds before the end of its time in which a request is not sent again.
_LAST_TRY = 0.05
# Advice about those, where gRPC's text is not enough.
_HINTS = {
  'WRONG_VERSION_NUMBER': 'the server speaks no TLS: leave ca out',
  'CERTIFICATE_VERIFY_FAILED': (
    "the server's certificate is not of the authority in ca, or has expired"
  ),
  'verification check failed': (
    "the server's certificate has another name: give server_name"
  ),
}
# gRPC's words for a connection that cannot be made, and ours.
_UNREACHABLE = {
  'Connection refused': (
    'no server is there; start collab-jax serve, or give another server'
  ),
  'No such file or directory': (
    'no server is there; start collab-jax serve, or give another server'
  ),
  'No route to host': 'there is no way to it in the network',
  'Network is unreachable': 'there is no way to it in the network',
  'DNS resolution failed': 'there is no machine of that name; check server',
  'Domain name not found': 'there is no machine of that name; check server',
}


class RemoteError(OSError):
  """The server refused a request, or nobody answered in time.

  Attributes:
    code: Name of the gRPC status code.
    text: The error without its code.
  """

  def __init__(self, code: str, text: str):
    super().__init__(f'{text} ({code})')
    self.code = code
    self.text = text


@dataclasses.dataclass(frozen=True)
class Backoff:
  """Exponential back-off with jitter.

      Backoff(first=0.1, most=3.0)

  Without the jitter, all edges would come back to a restarted server at the
  same moment.

  Attributes:
    first: Longest first wait, in seconds.
    most: Longest wait of all, in seconds.
  """

  first: float = 0.1
  most: float = 3.0

  def __post_init__(self):
    if not 0 < self.first <= self.most:
      raise ValueError(
        f'first, most: got {self.first} and {self.most} seconds, expected'
        ' 0 < first <= most'
      )

  def wait(self, failures: int, draw: float) -> float:
    """Returns the seconds to wait.

    Args:
      failures: Number of failures in a row, at least 1.
      draw: A random number in [0, 1).

    Returns:
      Half to all of first * 2^(failures - 1), or of `most` if that is less.
    """
    longest = min(self.most, self.first * 2.0 ** min(failures - 1, 32))
    return longest * (1 - draw / 2)


class RetryLoop:
  """Retry policy: the tries of one request, all within one time limit.

  Attributes:
    tries: Number of the present try, from 1.
  """

  def __init__(
    self,
    target: str,
    timeout: float,
    backoff: Backoff,
    *,
    diagnose: Callable[[str, float], str],
    warn: Callable[[str], None],
  ):
    """Starts the time limit.

    Args:
      target: Name of the server, for errors.
      timeout: Seconds that all tries may take.
      backoff: The waits between tries.
      diagnose: From an error's text and the seconds left, the lasting reason
        of a failure that looks transient; '' if there is none.
      warn: Told of each failure after which the request is tried again.
    """
    self.tries = 1
    self._target = target
    self._timeout = timeout
    self._backoff = backoff
    self._diagnose = diagnose
    self._warn = warn
    self._last_error = ''
    self._deadline = time.monotonic() + timeout

  def remaining(self) -> float:
    """Returns the seconds that this try may take."""
    return max(self._deadline - time.monotonic(), 1e-3)

  def wait_after(self, error: grpc.RpcError) -> None:
    """Waits for the next try after a transient error.

    Args:
      error: The error of this try.

    Raises:
      RemoteError: The error is permanent, or the time is up.
    """
    code, text = status(error)
    if is_transient(code, text):
      reason = self._diagnose(text, self.remaining())
      if reason:
        raise RemoteError(code.name, f'{self._target}: {reason}') from error
    else:
      if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        # The error before says more than that the time ran out.
        text = self._timeout_text(self._last_error or text)
      hints = [hint for words, hint in _HINTS.items() if words in text]
      text = f'{hints[0]}: {text}' if hints else in_words(text)
      raise RemoteError(code.name, f'{self._target}: {text}') from error
    self._wait(code.name, in_words(text), error)

  def wait_after_early_end(self) -> None:
    """Waits for the next try after a stream that ended without an error."""
    self._wait('UNAVAILABLE', 'the answer ended before the caption did', None)

  def _wait(self, code: str, text: str, error: Exception | None) -> None:
    left = self._deadline - time.monotonic()
    if left <= _LAST_TRY:
      text = f'{self._target}: {self._timeout_text(text)}'
      raise RemoteError(code, text) from error
    self._last_error = text
    self._warn(f'{text} ({code})')
    wait = self._backoff.wait(self.tries, random.random())
    time.sleep(min(wait, left - _LAST_TRY / 2))
    self.tries += 1

  def _timeout_text(self, text: str) -> str:
    plural = 's' if self.tries > 1 else ''
    return (
      f'no answer within {self._timeout:g} s, {self.tries}'
      f' time{plural} tried; the last time: {text}'
    )


def status(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
  """Returns code and text of an error; all that a call raises have both.

  The text may be the server's, and is escaped for terminals and logs.
  """
  code = error.code()  # pyright: ignore[reportAttributeAccessIssue]
  text = error.details()  # pyright: ignore[reportAttributeAccessIssue]
  return code, _terminal.escape_error(text or 'no reason given')


def in_words(text: str) -> str:
  """Returns gRPC's text of a connection that is not made in plain words.

  Args:
    text: Text of any status; others stay as they are.
  """
  if not text.startswith(('failed to connect', 'errors resolving', 'DNS')):
    return text
  plain = [said for words, said in _UNREACHABLE.items() if words in text]
  return plain[0] if plain else text


def is_transient(code: grpc.StatusCode, text: str) -> bool:
  """Returns whether the same request may work in a moment."""
  if code == grpc.StatusCode.UNKNOWN:
    return text.startswith(_CUT_OFF)
  return code in _TRANSIENT and not any(words in text for words in _PERMANENT)
