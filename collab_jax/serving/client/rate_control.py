"""Rate control: chooses codecs by a byte budget, or by a measured link.

A `RateCurve` lists the codecs of a model with their bytes and their score on a
task: a caption may need fewer bytes than a count. The link to the server is
measured by handshakes; what is left of a time goal gives the longest message,
and that the codec.
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

# Task of a curve that names none.
CAPTIONS = 'captions'
# Share of the score of all vectors that a codec keeps where no bytes are given.
SHARE = 0.95

_CURVE_FORMAT = 2
_CAPTIONS_FORMAT = 1  # One curve, of captions and their BLEU-4.
_CURVE_FOLDER = 'rates'
# Fields that all curves of a file share.
_SHARED = ('model', 'split', 'coding')

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
    score: Score of the texts, as people read it; more is better.
  """

  codec: str
  bytes: float
  largest: int
  score: float


@dataclasses.dataclass(frozen=True)
class RateCurve:
  """Pareto-optimal codecs of one model on one task, by rising bytes.

    curve = rate_control.shipped_curve('tiny', 'counts')
    print(curve.within(60)[0].codec)

  Attributes:
    model: Name of the model.
    split: Split of the feature codecs.
    coding: Coding of their messages.
    data: Name of the dataset.
    full: Score of all vectors, not quantized.
    captions: Number of captions, or of answers.
    points: The codecs, at least one.
    task: What is asked: 'captions', 'counts', ...
    metric: Name of the metric of the scores.
  """

  model: str
  split: str
  coding: str
  data: str
  full: float
  captions: int
  points: tuple[OperatingPoint, ...]
  task: str = CAPTIONS
  metric: str = 'bleu4'

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
    return sorted(fitting, key=lambda point: -point.score)

  def keeping(self, share: float = SHARE) -> list[OperatingPoint]:
    """Returns the codecs that keep a share of the score of all vectors.

    Args:
      share: The share; 0.95 keeps 95%.

    Returns:
      The codecs, those of the fewest bytes first.

    Raises:
      ValueError: None of them keeps so much, or this is no share.
    """
    _validate.number('share', share, 0, 1)
    kept = [p for p in self.points if p.score >= share * self.full]
    if not kept:
      best = max(self.points, key=lambda point: point.score)
      raise _validate.error(
        'task',
        self.task,
        f'one of whose score a codec of the curve of {self.model} keeps'
        f' {share:.0%}: {best.codec} has {best.score:g} of {self.full:g}',
        'give max_bytes or goal_ms, or a curve of more codecs',
      )
    return sorted(kept, key=lambda point: point.bytes)

  def to_json(self) -> str:
    """Returns the curve as JSON; see `to_json`."""
    return to_json([self])


def to_json(curves: Sequence[RateCurve]) -> str:
  """Returns curves of one model as JSON, a line a point.

  Args:
    curves: Curves of different tasks.

  Raises:
    ValueError: `read_curves` would not take it: a number is not finite, a curve
      has no points, a codec names a module, or the curves are of several
      models, splits or codings, or two of one task.
  """
  shared = {}
  for name in _SHARED:
    values = list(dict.fromkeys(getattr(curve, name) for curve in curves))
    if len(values) != 1:
      raise _validate.error(f'{name} of the curves', values, 'one and the same')
    shared[name] = values[0]
  parts = []
  for curve in curves:
    values = dataclasses.asdict(curve)
    head = {n: v for n, v in values.items() if n not in (*_SHARED, 'points')}
    points = [jsonl.to_text(p._asdict(), 'rate curve') for p in curve.points]
    lines = ',\n    '.join(points)
    start = jsonl.to_text(head, 'rate curve').removesuffix('}')
    parts.append(f'{start},\n   "points": [\n    {lines}\n   ]}}')
  head = jsonl.to_text({'format': _CURVE_FORMAT, **shared}, 'rate curve')
  joined = ',\n  '.join(parts)
  text = f'{head.removesuffix("}")},\n "curves": [\n  {joined}\n ]}}'
  _parse_curves(text)
  return text


def shipped_curve(model: str, task: str = '') -> RateCurve:
  """Returns the curve that ships with the package for a model.

  Args:
    model: Name of the model.
    task: What is asked, as of `read_curve`.

  Returns:
    The curve.

  Raises:
    ValueError: No curve ships for the model, or none of the task.
  """
  folder = checkpoints.folder(_CURVE_FOLDER)
  known = sorted(p.stem for p in folder.glob('*.json'))
  if model not in known:
    file = 'a file that tools/rate_curve.py wrote'
    raise _validate.unknown('curve', model, known, file)
  return read_curve(folder / f'{model}.json', task)


def read_curve(path: str | os.PathLike[str], task: str = '') -> RateCurve:
  """Reads the curve of a task.

  Args:
    path: A file from tools/rate_curve.py.
    task: What is asked: 'captions', 'counts', or another task of the file; ''
      for captions, or for the only one.

  Returns:
    The curve.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: The file holds no curves, as of `read_curves`, or none of the
      task.
  """
  curves = read_curves(path)
  if not task and len(curves) == 1:
    return next(iter(curves.values()))
  wanted = task or CAPTIONS
  if wanted in curves:
    return curves[wanted]
  if _validate.nearest(wanted, curves):
    raise _validate.unknown('task', task, curves)
  raise _validate.error(
    'task',
    task,
    f'one of {", ".join(curves)}: the tasks of {os.fspath(path)}',
    'tools/rate_curve.py makes curves of others',
  )


def read_curves(path: str | os.PathLike[str]) -> dict[str, RateCurve]:
  """Reads the curves of all tasks of a file.

  Args:
    path: A file from tools/rate_curve.py, also an older one, of captions.

  Returns:
    The curves by the task, at least one.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: The file holds no curves, or names a codec of a module: a file
      of data imports no code.
  """
  content = Path(path).read_bytes()
  try:
    return _parse_curves(content.decode('utf-8'))
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise ValueError(
      f'{os.fspath(path)} is no rate curve ({error}); make it with'
      ' tools/rate_curve.py'
    ) from error


def _parse_curves(text: str) -> dict[str, RateCurve]:
  """Reads the text of a file; raises ValueError, or others, for others."""
  values = jsonl.parse(text)
  if not isinstance(values, dict):
    raise ValueError('expected an object')
  version = values.pop('format', None)
  if version == _CAPTIONS_FORMAT:
    values['points'] = [
      {'score' if n == 'bleu4' else n: v for n, v in point.items()}
      for point in values['points']
    ]
    curve = _parse_curve(values)
    return {curve.task: curve}
  if version != _CURVE_FORMAT:
    raise ValueError(f'expected format {_CURVE_FORMAT}')
  curves = {}
  for each in values.pop('curves'):
    curve = _parse_curve({**values, **each})
    if curve.task in curves:
      raise ValueError(f'task: got {curve.task!r} twice')
    curves[curve.task] = curve
  if not curves:
    raise ValueError('curves: got none, expected at least one')
  return curves


def _parse_curve(values: dict[str, Any]) -> RateCurve:
  """Makes a curve of plain values; raises ValueError, or others, for others."""
  points = tuple(
    OperatingPoint(**_check_point(p)) for p in values.pop('points')
  )
  if not points:
    raise ValueError('points: got none, expected at least one')
  curve = RateCurve(**values, points=points)
  if not _validate.is_number(curve.full):
    raise ValueError(f'full: got {curve.full!r}, expected a number')
  if not isinstance(curve.task, str) or not curve.task:
    raise ValueError(f'task: got {curve.task!r}, expected a name')
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
  costs = point.largest, point.bytes, -point.score
  other_costs = other.largest, other.bytes, -other.score
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
    ValueError: The goal is no finite number, or below 0.
    RemoteError: The server cannot be reached, or supports no codec.
  """
  _validate.number('goal_ms', goal_ms, 0)
  points = sorted(curve.points, key=lambda point: point.largest)
  supported = _SupportedCodecs(connection, points, make_codec)
  smallest = supported.first()
  with clients.EdgeClient(connection, supported.codec(smallest)) as client:
    size = client.codecs[0].model.config.vision.image_size
    black = np.zeros((1, size, size, 3), np.uint8)
    # A black picture is none of the user's; the first one compiles.
    _, *tries = [
      client.caption(black, warn=False)[0].milliseconds
      for _ in range(1 + _TRIES)
    ]
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


def client_for_share(
  connection: channel.Connection,
  curve: RateCurve,
  make_codec: MakeCodec,
  share: float = SHARE,
  **settings: Any,
) -> clients.EdgeClient:
  """Returns a client with the codec of fewest bytes that keeps enough.

    curve = rate_control.shipped_curve('tiny', 'counts')
    client = rate_control.client_for_share(connection, curve, make_codec)

  Args:
    connection: Connection to the server.
    curve: Rate curve of the model, of the task.
    make_codec: Function from a config string to the codec.
    share: Share of the score of all vectors that is kept.
    **settings: Arguments of `EdgeClient`.

  Returns:
    The client. Codecs that the server does not support are left out.

  Raises:
    ValueError: No codec of the curve keeps so much, or all vectors score 0.
    RemoteError: The server supports none of them, or cannot be reached.
  """
  if curve.full <= 0:
    raise _validate.error(
      'task',
      curve.task,
      f'one of which all vectors have a score: in the curve of {curve.model}'
      f' they have {curve.full:g}',
      'give max_bytes or goal_ms',
    )
  points = curve.keeping(share)
  supported = _SupportedCodecs(connection, points, make_codec)
  codec = supported.codec(supported.first())
  return clients.EdgeClient(connection, codec, **settings)


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
    said = last and last.text  # Its code is that of this error, too.
    names = '; '.join(point.codec for point in self._points)
    raise retry.RemoteError(
      retry.REFUSED,
      f'{self._connection.target} admits none of {names}: start it with one of'
      f' them in --quantizers or --images, or with any; the last time: {said}',
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
