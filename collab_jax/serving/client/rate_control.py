"""Chooses what to send by what the link and the server allow."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import itertools
from typing import Any, NamedTuple

import numpy as np

from collab_jax.serving.client import (
  channel,
  encode,
  link_estimate,
  rate_curve,
)
from collab_jax.serving.client import client as clients

Make = Callable[[str], encode.Codec]

# A codec with layers, how many of them go first, and the bits of min-entropy
# above which the others are worth their bytes: benchmarks/progressive.py chose
# the latter on 200 scenes, on which it keeps 98% of the BLEU-4.
PROGRESSIVE = 'merge(k=6,smooth=2,centroids=residual_vq)'
COARSE = 2
THRESHOLD = 0.7

# Codecs that a picture may fall back to if its message is longer than all that
# were measured; besides, the smallest.
_NEXT = 2
# How often a picture is captioned to learn how long it takes; the least counts.
_TIMES = 3


class RateControlPlan(NamedTuple):
  """What was measured for a goal, and what follows.

  Attributes:
    link: The link.
    compute_ms: Milliseconds that both ends take, without the link.
    max_bytes: How long a message may be.
    met: Whether the goal can be met; else max_bytes is that of the smallest.
  """

  link: link_estimate.LinkEstimate
  compute_ms: float
  max_bytes: int
  met: bool


def plan(
  link: channel.Connection,
  curve: rate_curve.RateCurve,
  make: Make,
  goal_ms: float,
) -> RateControlPlan:
  """Measures the link and the computing, by the smallest codec there is.

  Args:
    link: To the server.
    curve: Of the model.
    make: From a codec's text to the codec.
    goal_ms: Milliseconds from a picture to its whole caption.

  Returns:
    The plan.

  Raises:
    RemoteError: The server cannot be reached, or does not agree.
  """
  points = sorted(curve.points, key=lambda point: point.largest)
  admitting = _SupportedCodecs(link, points, make)
  smallest = admitting.first()
  least = points[smallest]
  with clients.EdgeClient(link, admitting.codec(smallest)) as client:
    size = client.codecs[0].model.config.vision.image_size
    black = np.zeros((1, size, size, 3), np.uint8)
    client.caption(black)  # Compiles.
    tried = [client.caption(black)[0].milliseconds for _ in range(_TIMES)]
    measured = link_estimate.measure(client)
  compute = min(
    sum(ms for stage, ms in spent.items() if stage != 'network')
    for spent in tried
  )
  max_bytes = link_estimate.budget(measured, goal_ms, compute)
  met = max_bytes >= least.largest
  return RateControlPlan(
    measured, compute, max_bytes if met else least.largest, met
  )


def client_for_budget(
  link: channel.Connection,
  curve: rate_curve.RateCurve,
  make: Make,
  max_bytes: int,
  **settings: Any,
) -> clients.EdgeClient:
  """A client by the best codecs whose messages have at most so many bytes.

  Args:
    link: To the server.
    curve: Of the model.
    make: From a codec's text to the codec.
    max_bytes: The longest message.
    **settings: Of `EdgeClient`.

  Returns:
    The client, whose codecs the server has all admitted. What it does not
    admit is left out.

  Raises:
    ValueError: No codec of the curve makes so short messages.
    RemoteError: The server admits none of them, or cannot be reached.
  """
  points = curve.within(max_bytes)
  admitting = _SupportedCodecs(link, points, make)
  first = admitting.first()
  rest = range(first + 1, len(points))
  chosen = [first, *itertools.islice(admitting.those(rest), _NEXT)]
  # The smallest that it admits, unless that is among them.
  smallest = next(admitting.those(reversed(rest)), first)
  chosen = sorted({*chosen, smallest})
  made = [admitting.codec(i) for i in chosen]
  return clients.EdgeClient(link, made, max_bytes=max_bytes, **settings)


class _SupportedCodecs:
  """Asks the server which codecs it admits, each at most once."""

  def __init__(
    self,
    link: channel.Connection,
    points: Sequence[rate_curve.OperatingPoint],
    make: Make,
  ):
    self._link = link
    self._points = points
    self._make = make
    self._refusals: dict[int, channel.RemoteError | None] = {}
    self._made: dict[int, encode.Codec] = {}

  def codec(self, i: int) -> encode.Codec:
    """The codec of a point, made once."""
    if i not in self._made:
      self._made[i] = self._make(self._points[i].codec)
    return self._made[i]

  def first(self) -> int:
    """Which is the first that it admits; RemoteError if there is none."""
    for found in self.those(range(len(self._points))):
      return found
    last = self._refusals[len(self._points) - 1]
    names = '; '.join(point.codec for point in self._points)
    raise channel.RemoteError(
      channel.REFUSED,
      f'{self._link.target} admits none of {names}: start it with one of them'
      f' in --quantizers or --images, or with any; the last time: {last}',
    ) from last

  def those(self, which: Iterable[int]) -> Iterator[int]:
    """Yields which of some it admits; a handshake each, when it is wanted."""
    return (i for i in which if self._refusal(i) is None)

  def _refusal(self, i: int) -> channel.RemoteError | None:
    if i not in self._refusals:
      self._refusals[i] = None
      with clients.EdgeClient(self._link, self.codec(i), window=1) as client:
        try:
          client.handshake()
        except channel.RemoteError as error:
          if error.code != channel.REFUSED:
            raise
          self._refusals[i] = error
    return self._refusals[i]
