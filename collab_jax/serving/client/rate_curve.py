"""Which codec to use for how many bytes: curves that were measured."""

from collections.abc import Mapping, Sequence
import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from collab_jax import _validate, checkpoints

_FORMAT = 1
_FOLDER = 'rates'


class OperatingPoint(NamedTuple):
  """A codec of a curve.

  Attributes:
    codec: Its text, as a config has it: 'merge(k=4)', 'avif(quality=8)'.
    bytes: Mean length of its messages.
    largest: The longest of them.
    bleu4: The BLEU-4 of the captions.
  """

  codec: str
  bytes: float
  largest: int
  bleu4: float


@dataclasses.dataclass(frozen=True)
class RateCurve:
  """Codecs of one model of which none is beaten, by rising bytes.

  Attributes:
    model: Name of the model.
    split: Where quantizers cut it.
    coding: How their messages are made bytes.
    data: What was captioned.
    full: The BLEU-4 of all vectors, as they are.
    captions: How many pictures were captioned.
    points: At least one.
  """

  model: str
  split: str
  coding: str
  data: str
  full: float
  captions: int
  points: tuple[OperatingPoint, ...]

  def within(self, max_bytes: int) -> list[OperatingPoint]:
    """The codecs for messages of at most so many bytes.

    Args:
      max_bytes: The longest message.

    Returns:
      First the best whose messages were all as short; then, for pictures that
      need more bytes than any that was measured, those that need less; best
      first.

    Raises:
      ValueError: There are none.
    """
    found = [p for p in self.points if p.largest <= max_bytes]
    if not found:
      least = min(self.points, key=lambda point: point.largest)
      raise ValueError(
        f'max_bytes: got {max_bytes}, expected at least {least.largest}: the'
        f' messages of {least.codec}, the smallest of the curve of'
        f' {self.model}, have up to as many'
      )
    return sorted(found, key=lambda point: -point.bleu4)

  def to_json(self) -> str:
    """The curve as text, a line a point."""
    plain = dataclasses.asdict(self) | {'format': _FORMAT}
    points = [json.dumps(p._asdict()) for p in self.points]
    plain['points'] = []
    text = json.dumps(plain, indent=1)
    return text.replace(
      '"points": []', '"points": [\n  ' + ',\n  '.join(points) + '\n ]'
    )


def shipped(model: str) -> RateCurve:
  """The curve that ships for a model.

  Args:
    model: The model's name.

  Returns:
    The curve.

  Raises:
    ValueError: There is none.
  """
  folder = checkpoints.folder(_FOLDER)
  known = sorted(p.stem for p in folder.glob('*.json'))
  if model not in known:
    file = 'a file that tools/rate_curve.py wrote'
    raise _validate.unknown('curve', model, known, file)
  return read(folder / f'{model}.json')


def read(path: str | os.PathLike[str]) -> RateCurve:
  """Reads a curve.

  Args:
    path: A file that tools/rate_curve.py made.

  Returns:
    The curve.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: It holds no curve.
  """
  text = Path(path).read_text('utf-8')
  try:
    plain = json.loads(text)
    if plain.pop('format') != _FORMAT:
      raise ValueError(f'expected format {_FORMAT}')
    points = tuple(OperatingPoint(**_checked(p)) for p in plain.pop('points'))
    curve = RateCurve(**plain, points=points)
    if not points:
      raise ValueError('it has no points')
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise ValueError(
      f'{os.fspath(path)} is no rate curve ({error}); make it with'
      ' tools/rate_curve.py'
    ) from error
  return curve


def _checked(point: Mapping[str, Any]) -> Mapping[str, Any]:
  for name, kind in OperatingPoint.__annotations__.items():
    value = point[name]
    allowed = (int, float) if kind is float else kind
    if isinstance(value, bool) or not isinstance(value, allowed):
      raise ValueError(f'{name}: got {value!r}')
  return point


def front(points: Sequence[OperatingPoint]) -> tuple[OperatingPoint, ...]:
  """Those points that no other one beats, by rising bytes.

  Both the mean and the longest message count: an edge with a limit needs to
  know the latter.
  """
  kept = [p for p in points if not any(_beats(q, p) for q in points)]
  return tuple(sorted(kept, key=lambda point: point.bytes))


def _beats(one: OperatingPoint, other: OperatingPoint) -> bool:
  ours = one.largest, one.bytes, -one.bleu4
  theirs = other.largest, other.bytes, -other.bleu4
  no_worse = all(a <= b for a, b in zip(ours, theirs, strict=True))
  return no_worse and ours != theirs
