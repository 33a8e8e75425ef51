"""How fast the link to the server is, and what may be sent in a given time."""

import time
from typing import NamedTuple

from collab_jax.serving import protocol
from collab_jax.serving.client import client as clients

# Bytes that are sent besides, each time four times as many, until they take so
# much longer that the difference is no chance.
_FIRST, _MOST = 1 << 12, 3 << 14
_CLEAR = 0.05
# A difference that is less than this, in seconds, is none.
_LEAST = 0.001
_TIMES = 3


class LinkEstimate(NamedTuple):
  """A link, as measured.

  Attributes:
    kbps: Thousands of bits a second, towards the server.
    delay_ms: Milliseconds of a request and its answer, besides their bytes.
  """

  kbps: float
  delay_ms: float


def measure(client: clients.EdgeClient) -> LinkEstimate:
  """Measures the link by handshakes, with and without bytes that mean nothing.

  Takes about ten round trips and 250 kB, on links of less than 1 Mbps 20 kB.
  Of several tries the fastest counts: what else is on the line only makes it
  slower.

  Args:
    client: Of the server.

  Returns:
    The link; of a very fast one no more than some 400 Mbps.

  Raises:
    RemoteError: The server cannot be reached, or does not agree.
  """
  client.handshake()
  size = len(protocol.to_json(client.codecs[0]))
  plain = _fastest(client, 0)
  padding = _FIRST
  more = _once(client, padding) - plain
  while more < max(_CLEAR, plain / 2) and padding < _MOST:
    padding = min(4 * padding, _MOST)
    more = _once(client, padding) - plain
  more = min(more, _fastest(client, padding) - plain)
  rate = padding / max(more, _LEAST)
  return LinkEstimate(
    kbps=8 * rate / 1000,
    delay_ms=1000 * max(plain - size / rate, 0.0),
  )


def budget(link: LinkEstimate, goal_ms: float, compute_ms: float) -> int:
  """How long a message may be, for a caption to be there in time.

  Args:
    link: From `measure`.
    goal_ms: Milliseconds from the picture to the whole caption.
    compute_ms: What both ends take of them.

  Returns:
    Bytes; 0 or less if the goal is missed without any.
  """
  left = goal_ms - compute_ms - link.delay_ms
  return int(left * link.kbps / 8)


def _fastest(client: clients.EdgeClient, padding: int) -> float:
  return min(_once(client, padding) for _ in range(_TIMES))


def _once(client: clients.EdgeClient, padding: int) -> float:
  start = time.perf_counter()
  client.handshake(padding=padding)
  return time.perf_counter() - start
