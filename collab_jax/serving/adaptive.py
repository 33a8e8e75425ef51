"""Chooses what to send by what the link and the server allow."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from collab_jax.serving import client as clients
from collab_jax.serving import connection, rates, sending, uplink

Make = Callable[[str], sending.Codec]

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


class Plan(NamedTuple):
  """What was measured for a goal, and what follows.

  Attributes:
    link: The link.
    compute_ms: Milliseconds that both ends take, without the link.
    max_bytes: How long a message may be.
    met: Whether the goal can be met; else max_bytes is that of the smallest.
  """

  link: uplink.Uplink
  compute_ms: float
  max_bytes: int
  met: bool


def plan(
  link: connection.Connection, curve: rates.Curve, make: Make, goal_ms: float
) -> Plan:
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
  least, client = _admitted(link, [[point] for point in points], make)
  with client:
    size = client.codecs[0].model.config.vision.image_size
    black = np.zeros((1, size, size, 3), np.uint8)
    client.caption(black)  # Compiles.
    tried = [client.caption(black)[0].milliseconds for _ in range(_TIMES)]
    measured = uplink.measure(client)
  compute = min(
    sum(ms for stage, ms in spent.items() if stage != 'network')
    for spent in tried
  )
  max_bytes = uplink.budget(measured, goal_ms, compute)
  met = max_bytes >= least.largest
  return Plan(measured, compute, max_bytes if met else least.largest, met)


def for_bytes(
  link: connection.Connection,
  curve: rates.Curve,
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
    The client, which has shaken hands on the first of its codecs. What the
    server does not admit is left out.

  Raises:
    ValueError: No codec of the curve makes so short messages.
    RemoteError: The server admits none of them, or cannot be reached.
  """
  points = curve.within(max_bytes)
  choices = [
    [point, *points[i + 1 :][:_NEXT], *points[i + 1 + _NEXT :][-1:]]
    for i, point in enumerate(points)
  ]
  return _admitted(link, choices, make, max_bytes=max_bytes, **settings)[1]


def _admitted(
  link: connection.Connection,
  choices: Sequence[Sequence[rates.Point]],
  make: Make,
  **settings: Any,
) -> tuple[rates.Point, clients.EdgeClient]:
  """The first choice whose first codec the server admits, and its client."""
  error = None
  for points in choices:
    codecs = [make(point.codec) for point in points]
    client = clients.EdgeClient(link, codecs, **settings)
    try:
      client.handshake()
    except connection.RemoteError as raised:
      client.close()
      if raised.code != connection.REFUSED:
        raise
      error = raised
    else:
      return points[0], client
  assert error is not None  # A curve has points.
  raise error
