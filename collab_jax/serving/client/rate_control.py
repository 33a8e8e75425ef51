"""Rate control: chooses codecs by a byte budget, or by a measured link.

A `RateCurve` lists the codecs of a model with their bytes and their score. The
link to the server is measured by handshakes; what is left of a time goal gives
the longest message, and that the codec.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import dataclasses
import itertools
import os
from pathlib import Path
import time
from typing import Any, NamedTuple

import numpy as np

from collab_jax import _validate, checkpoints, jsonl, registry
from collab_jax import codecs as codecs_lib
from collab_jax.serving.client import (
  channel,
  retry,
)
from collab_jax.serving.client import client as clients

MakeCodec = Callable[[str], codecs_lib.Codec]

# A codec with layers, the number of layers that go first, and the bits of
# min-entropy above which the others are worth their bytes:
# benchmarks/progressive.py chose the latter on 200 scenes, on which it keeps
# 98% of the BLEU-4.
PROGRESSIVE = 'merge(k=6,smooth=2,centroids=residual_vq)'
COARSE = 2
THRESHOLD = 0.7

_CURVE_FORMAT = 1
_CURVE_FOLDER = 'rates'

# Number of fall-back codecs besides the smallest, for pictures whose message is
# longer than all that were measured.
_FALLBACKS = 2
# Number of tries of each measurement; the fastest counts.
_TRIES = 3
# Bytes of padding of a handshake: four times as many each time, until they take
# so much longer that the difference is no chance.
_MIN_PADDING, _MAX_PADDING = 1 << 12, 3 << 14
_CLEAR_SECONDS = 0.05
# Differences below this, in seconds, count as this.
_MIN_SECONDS = 0.001


class OperatingPoint(NamedTuple):
  """Rate and score of one codec.

  Attributes:
    codec: Config string, such as 'merge(k=4)' or 'avif(quality=8)'.
    bytes: Mean length of its messages.
    largest: Length of the longest one.
    bleu4: BLEU-4 of the captions.
  """

  codec: str
  bytes: float
  largest: int
  bleu4: float


@dataclasses.dataclass(frozen=True)
class RateCurve:
  """Pareto-optimal codecs of one model, by rising bytes.

  Attributes:
    model: Name of the model.
    split: Split of the feature codecs.
    coding: Coding of their messages.
    data: Name of the dataset.
    full: BLEU-4 of all vectors, not quantized.
    captions: Number of captioned pictures.
    points: The codecs, at least one.
  """

  model: str
  split: str
  coding: str
  data: str
  full: float
  captions: int
  points: tuple[OperatingPoint, ...]

  def within(self, max_bytes: int) -> list[OperatingPoint]:
    """Returns the codecs whose messages all fit into a number of bytes.

    Args:
      max_bytes: Longest message.

    Returns:
      The codecs, best first. The first one is the choice; the others are for
      pictures that need more bytes than any that was measured.

    Raises:
      ValueError: All codecs make longer messages.
    """
    fitting = [p for p in self.points if p.largest <= max_bytes]
    if not fitting:
      least = min(self.points, key=lambda point: point.largest)
      raise ValueError(
        f'max_bytes: got {max_bytes}, expected at least {least.largest}: the'
        f' messages of {least.codec}, the smallest of the curve of'
        f' {self.model}, have up to as many'
      )
    return sorted(fitting, key=lambda point: -point.bleu4)

  def to_json(self) -> str:
    """Returns the curve as JSON, a line a point.

    Raises:
      ValueError: `read_curve` would not take it: a number is not finite, it has
        no points, or a codec names a module.
    """
    values = dataclasses.asdict(self) | {'format': _CURVE_FORMAT}
    points = [jsonl.to_text(p._asdict(), 'rate curve') for p in self.points]
    values['points'] = []
    text = jsonl.to_text(values, 'rate curve', indent=1)
    joined = ',\n  '.join(points)
    head, _, tail = text.rpartition('"points": []')
    text = f'{head}"points": [\n  {joined}\n ]{tail}'
    _parse_curve(text)
    return text


def shipped_curve(model: str) -> RateCurve:
  """Returns the curve that ships with the package for a model.

  Args:
    model: Name of the model.

  Returns:
    The curve.

  Raises:
    ValueError: No curve ships for it.
  """
  folder = checkpoints.folder(_CURVE_FOLDER)
  known = sorted(p.stem for p in folder.glob('*.json'))
  if model not in known:
    file = 'a file that tools/rate_curve.py wrote'
    raise _validate.unknown('curve', model, known, file)
  return read_curve(folder / f'{model}.json')


def read_curve(path: str | os.PathLike[str]) -> RateCurve:
  """Reads a curve.

  Args:
    path: A file from tools/rate_curve.py.

  Returns:
    The curve.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: The file holds no curve, or names a codec of a module: a file
      of data imports no code.
  """
  text = Path(path).read_text('utf-8')
  try:
    return _parse_curve(text)
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise ValueError(
      f'{os.fspath(path)} is no rate curve ({error}); make it with'
      ' tools/rate_curve.py'
    ) from error


def _parse_curve(text: str) -> RateCurve:
  """Reads a curve's text; raises ValueError, or others, for anything else."""
  values = jsonl.parse(text)
  if values.pop('format') != _CURVE_FORMAT:
    raise ValueError(f'expected format {_CURVE_FORMAT}')
  points = tuple(
    OperatingPoint(**_check_point(p)) for p in values.pop('points')
  )
  if not points:
    raise ValueError('points: got none, expected at least one')
  curve = RateCurve(**values, points=points)
  if not _validate.is_number(curve.full):
    raise ValueError(f'full: got {curve.full!r}, expected a number')
  return curve


def _check_point(point: Mapping[str, Any]) -> Mapping[str, Any]:
  for name, kind in OperatingPoint.__annotations__.items():
    value = point[name]
    allowed = (int, float) if kind is float else kind
    if isinstance(value, bool) or not isinstance(value, allowed):
      raise ValueError(f'{name}: got {value!r}')
    if kind is not str and not _validate.is_number(value):
      raise ValueError(f'{name}: got {value!r}, expected a finite number')
  registry.check_data('codec', point['codec'])
  return point


def pareto_front(
  points: Sequence[OperatingPoint],
) -> tuple[OperatingPoint, ...]:
  """Returns the points that are not dominated, by rising bytes.

  Both the mean and the longest message count: an edge with a limit needs to
  know the latter.
  """
  kept = [p for p in points if not any(_dominates(q, p) for q in points)]
  return tuple(sorted(kept, key=lambda point: point.bytes))


def _dominates(point: OperatingPoint, other: OperatingPoint) -> bool:
  costs = point.largest, point.bytes, -point.bleu4
  other_costs = other.largest, other.bytes, -other.bleu4
  no_worse = all(a <= b for a, b in zip(costs, other_costs, strict=True))
  return no_worse and costs != other_costs


class LinkEstimate(NamedTuple):
  """Measured rate and delay of a link.

  Attributes:
    kbps: Rate towards the server, in thousands of bits a second.
    delay_ms: Round-trip time without the time of the bytes, in milliseconds.
  """

  kbps: float
  delay_ms: float


def measure_link(client: clients.EdgeClient) -> LinkEstimate:
  """Measures the link by handshakes, with and without padding.

  Takes about ten round trips and 250 kB, on links of less than 1 Mbps 20 kB.
  Of several tries the fastest counts: other traffic only makes it slower.

  Args:
    client: A client of the server.

  Returns:
    The link; at most some 400 Mbps for a very fast one.

  Raises:
    RemoteError: The server cannot be reached, or refuses the codec.
  """
  client.handshake()
  size = len(client.codecs[0].to_json())
  base = _fastest_handshake(client, 0)
  padding = _MIN_PADDING
  extra = _time_handshake(client, padding) - base
  while extra < max(_CLEAR_SECONDS, base / 2) and padding < _MAX_PADDING:
    padding = min(4 * padding, _MAX_PADDING)
    extra = _time_handshake(client, padding) - base
  extra = min(extra, _fastest_handshake(client, padding) - base)
  rate = padding / max(extra, _MIN_SECONDS)
  return LinkEstimate(
    kbps=8 * rate / 1000,
    delay_ms=1000 * max(base - size / rate, 0.0),
  )


def byte_budget(link: LinkEstimate, goal_ms: float, compute_ms: float) -> int:
  """Returns the longest message with which a caption meets a time goal.

  Args:
    link: From `measure_link`.
    goal_ms: Milliseconds from the picture to the whole caption.
    compute_ms: Milliseconds of computing at both ends.

  Returns:
    Bytes; 0 or less if the goal is missed without any.
  """
  transfer_ms = goal_ms - compute_ms - link.delay_ms
  return int(transfer_ms * link.kbps / 8)


def _fastest_handshake(client: clients.EdgeClient, padding: int) -> float:
  return min(_time_handshake(client, padding) for _ in range(_TRIES))


def _time_handshake(client: clients.EdgeClient, padding: int) -> float:
  start = time.perf_counter()
  client.handshake(padding=padding)
  return time.perf_counter() - start


class RateControlPlan(NamedTuple):
  """Message budget that follows from a time goal.

  Attributes:
    link: The measured link.
    compute_ms: Milliseconds of computing at both ends.
    max_bytes: Longest message.
    met: Whether the goal can be met; else max_bytes is that of the smallest
      codec.
  """

  link: LinkEstimate
  compute_ms: float
  max_bytes: int
  met: bool


def plan(
  connection: channel.Connection,
  curve: RateCurve,
  make_codec: MakeCodec,
  goal_ms: float,
) -> RateControlPlan:
  """Measures link and computing time, with the smallest supported codec.

  Args:
    connection: Connection to the server.
    curve: Rate curve of the model.
    make_codec: Function from a config string to the codec.
    goal_ms: Milliseconds from a picture to its whole caption.

  Returns:
    The plan.

  Raises:
    RemoteError: The server cannot be reached, or supports no codec.
  """
  points = sorted(curve.points, key=lambda point: point.largest)
  supported = _SupportedCodecs(connection, points, make_codec)
  smallest = supported.first()
  with clients.EdgeClient(connection, supported.codec(smallest)) as client:
    size = client.codecs[0].model.config.vision.image_size
    black = np.zeros((1, size, size, 3), np.uint8)
    client.caption(black)  # Compiles.
    tries = [client.caption(black)[0].milliseconds for _ in range(_TRIES)]
    link = measure_link(client)
  compute_ms = min(
    sum(ms for stage, ms in spent.items() if stage != 'network')
    for spent in tries
  )
  max_bytes = byte_budget(link, goal_ms, compute_ms)
  least = points[smallest].largest
  met = max_bytes >= least
  return RateControlPlan(link, compute_ms, max_bytes if met else least, met)


def client_for_budget(
  connection: channel.Connection,
  curve: RateCurve,
  make_codec: MakeCodec,
  max_bytes: int,
  **settings: Any,
) -> clients.EdgeClient:
  """Returns a client with the best codecs that fit into a byte budget.

  Args:
    connection: Connection to the server.
    curve: Rate curve of the model.
    make_codec: Function from a config string to the codec.
    max_bytes: Longest message.
    **settings: Arguments of `EdgeClient`.

  Returns:
    The client. Codecs that the server does not support are left out.

  Raises:
    ValueError: All codecs of the curve make longer messages.
    RemoteError: The server supports none of them, or cannot be reached.
  """
  points = curve.within(max_bytes)
  supported = _SupportedCodecs(connection, points, make_codec)
  first = supported.first()
  worse = range(first + 1, len(points))
  chosen = [first, *itertools.islice(supported.supported(worse), _FALLBACKS)]
  smallest = next(supported.supported(reversed(worse)), first)
  codecs = [supported.codec(i) for i in sorted({*chosen, smallest})]
  return clients.EdgeClient(connection, codecs, max_bytes=max_bytes, **settings)


class _SupportedCodecs:
  """Codecs of a curve that the server supports; each is tried at most once."""

  def __init__(
    self,
    connection: channel.Connection,
    points: Sequence[OperatingPoint],
    make_codec: MakeCodec,
  ):
    self._connection = connection
    self._points = points
    self._make_codec = make_codec
    self._refusals: dict[int, retry.RemoteError | None] = {}
    self._codecs: dict[int, codecs_lib.Codec] = {}

  def codec(self, i: int) -> codecs_lib.Codec:
    """Returns the codec of a point, made once."""
    if i not in self._codecs:
      self._codecs[i] = self._make_codec(self._points[i].codec)
    return self._codecs[i]

  def first(self) -> int:
    """Returns the first supported index; raises RemoteError without one."""
    for index in self.supported(range(len(self._points))):
      return index
    last = self._refusals[len(self._points) - 1]
    names = '; '.join(point.codec for point in self._points)
    raise retry.RemoteError(
      retry.REFUSED,
      f'{self._connection.target} admits none of {names}: start it with one of'
      f' them in --quantizers or --images, or with any; the last time: {last}',
    ) from last

  def supported(self, indices: Iterable[int]) -> Iterator[int]:
    """Yields the supported ones of some indices, after a handshake each."""
    return (i for i in indices if self._refusal(i) is None)

  def _refusal(self, i: int) -> retry.RemoteError | None:
    if i not in self._refusals:
      self._refusals[i] = None
      with clients.EdgeClient(
        self._connection, self.codec(i), window=1
      ) as client:
        try:
          client.handshake()
        except retry.RemoteError as error:
          if error.code != retry.REFUSED:
            raise
          self._refusals[i] = error
    return self._refusals[i]
