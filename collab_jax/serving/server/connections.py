"""Limits on the connections of a port, by the address or caller they are of.

gRPC accepts every connection, and has no limit for each address: a stranger
could take all file descriptors. The sockets of this process are counted every
second, and the oldest of whoever has too many are closed. A connection is a
stranger's until one of its calls has been let in.
"""

import asyncio
import collections
import contextlib
import os
import random
import socket
import time

from collab_jax.serving.server import metrics, security

# Connections of one address none of whose calls was let in; of all of them; and
# of one caller.
_STRANGERS_EACH = 64
_STRANGERS = 512
_CALLERS_EACH = 1024
# Refused calls of a stranger's connection, after which it is closed.
_REFUSALS = 100
# Seconds between two counts: usually, and where a connection is to be closed.
_PERIOD_SECONDS = 1.0
_SHORTEST_SECONDS = 0.1
# Answers to strangers a second, of one address, and the longest wait for one.
_PACE = 50.0
_LONGEST_WAIT = 5.0
# Probes a second of one connection, and their longest wait for each other; the
# longest wait of the first ones for those of other connections: of a range, so
# that many at a time do not end together.
_PROBES_EACH = 4.0
_LONGEST_WAIT_EACH = 2.5
_LONGEST_PROBE_WAIT = 0.3, 0.8
_DESCRIPTORS = '/dev/fd'


class ConnectionLimiter:
  """Closes connections of whoever has too many.

  limiter = ConnectionLimiter(counters)
  task = asyncio.create_task(limiter.run(50051))
  """

  def __init__(self, counters: metrics.Metrics):
    """Knows no connection yet.

    Args:
      counters: Counts the connections that are closed.
    """
    self._metrics = counters
    self._since: dict[str, float] = {}
    self._callers: dict[str, str] = {}
    self._refusals: collections.Counter[str] = collections.Counter()
    self._paced: dict[str, float] = {}  # By address or connection.
    self._wake = asyncio.Event()

  def admit(self, peer: str, caller: str) -> None:
    """Takes down that a call of a connection was let in.

    Args:
      peer: The connection's other end, as gRPC writes it.
      caller: Name of the caller.
    """
    self._callers[_normal(peer)] = caller

  def count_refusal(self, peer: str) -> None:
    """Counts a call that was refused for want of a token."""
    self._refusals[_normal(peer)] += 1
    if self._refusals[_normal(peer)] > _REFUSALS:
      self._wake.set()

  def wait_seconds(self, peer: str) -> float:
    """Returns the time after which a stranger's call is to be answered.

    Answers to an address are paced: calls that are made as fast as they are
    answered cost callers no time. The first `_PACE` of a second are at once.

    Args:
      peer: The connection's other end, as gRPC writes it.
    """
    return self._pace(security.address(peer), _PACE)

  def probe_seconds(self, peer: str, direct: bool = True) -> float:
    """Returns the time after which a probe of the health service is answered.

    A connection's first probes wait for others of its address at most 0.8 s.
    More of one connection wait for each other, and those beyond count as
    refused: it is closed.

    Args:
      peer: The connection's other end, as gRPC writes it.
      direct: Whether the connection ends here, not at a proxy.
    """
    shared = min(self.wait_seconds(peer), random.uniform(*_LONGEST_PROBE_WAIT))
    if not direct or not security.has_address(peer):
      return shared
    own = self._pace(_normal(peer), _PROBES_EACH, _LONGEST_WAIT_EACH)
    if own >= _LONGEST_WAIT_EACH:
      self.count_refusal(peer)
    return max(shared, own)

  def _pace(
    self, name: str, each_second: float, longest: float = _LONGEST_WAIT
  ) -> float:
    """Returns the wait of the next answer to an address or a connection."""
    now = time.monotonic()
    since = max(self._paced.get(name, 0.0), now - 1.0) + 1 / each_second
    wait = max(0.0, since - now)
    if wait < longest:
      self._paced[name] = since
    return wait

  async def run(self, port: int) -> None:
    """Closes surplus connections of a TCP port, until it is cancelled.

    Args:
      port: The port; 0 for a socket file, where all are one: what is known of
        addresses behind a proxy is forgotten in time.
    """
    while True:
      await asyncio.sleep(_SHORTEST_SECONDS)
      with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PERIOD_SECONDS - _SHORTEST_SECONDS):
          await self._wake.wait()
      self._wake.clear()
      peers = await asyncio.to_thread(_list_peers, port) if port else set()
      surplus = self.surplus(peers)
      if surplus:
        self._metrics.count_rejection('connections', len(surplus))
        await asyncio.to_thread(_close, port, surplus)

  def surplus(self, peers: set[str]) -> set[str]:
    """Chooses the connections to close.

    Args:
      peers: Other ends of all connections that are open, HOST:PORT.
    """
    now = time.monotonic()
    for peer in peers:
      self._since.setdefault(peer, now)
    # What has gone is forgotten.
    for known in (self._since, self._callers, self._refusals):
      for peer in known.keys() - peers:
        del known[peer]
    for name in [n for n, since in self._paced.items() if since < now - 1.0]:
      del self._paced[name]
    groups: dict[tuple[bool, str], list[str]] = {}
    for peer in sorted(peers, key=self._since.__getitem__):
      caller = self._callers.get(peer)
      key = caller is None, caller or peer.rpartition(':')[0]
      groups.setdefault(key, []).append(peer)
    surplus = set()
    strangers: dict[str, list[str]] = {}
    for (stranger, name), group in groups.items():
      limit = _STRANGERS_EACH if stranger else _CALLERS_EACH
      if stranger:
        surplus |= {p for p in group if self._refusals[p] > _REFUSALS}
        strangers[name] = group[-limit:]
      surplus |= set(group[:-limit])
    return surplus | _surplus_in_all(strangers)


def _surplus_in_all(strangers: dict[str, list[str]]) -> set[str]:
  """Chooses connections of the addresses with the most, oldest first."""
  surplus, count = set(), sum(map(len, strangers.values()))
  while count > _STRANGERS:
    largest = max(strangers.values(), key=len)
    surplus.add(largest.pop(0))
    count -= 1
  return surplus


def _normal(peer: str) -> str:
  """Returns HOST:PORT of a peer as gRPC writes it."""
  host, _, port = security.plain_peer(peer).rpartition(':')
  return f'{host}:{port}'


def _sockets(port: int):
  """Yields the open TCP connections of a port, and their other ends.

  Each is a copy of the descriptor: another thread may close the first at any
  time, and its number may become another file's.
  """
  for name in os.listdir(_DESCRIPTORS):
    with contextlib.suppress(OSError, ValueError):
      copy = os.dup(int(name))
      try:
        connection = socket.socket(fileno=copy)
      except OSError:
        os.close(copy)
        continue
      with connection:
        if connection.family not in (socket.AF_INET, socket.AF_INET6):
          continue
        if connection.getsockname()[1] == port:
          host, other = connection.getpeername()[:2]
          yield connection, f'{host.removeprefix("::ffff:")}:{other}'


def _list_peers(port: int) -> set[str]:
  try:
    return {peer for _, peer in _sockets(port)}
  except OSError:  # No such folder here: the number is not limited.
    return set()


def _close(port: int, peers: set[str]) -> None:
  for connection, peer in _sockets(port):
    if peer in peers:
      with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
