"""GalleryCodecs of codecs and pictures for the gallery of a report."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

from collab_jax.evaluation.report import channel as channel_lib
from collab_jax.evaluation.report import (
  labels,
  link_labels,
  rate,
  settings,
)

Row = Mapping[str, Any]
_T = TypeVar('_T')

MOST_DRAWN = 10  # Codecs with a map of what arrives.
MOST_LISTED = 40  # Codecs with captions only.


class Line(NamedTuple):
  """Codec in the gallery.

  Attributes:
    title: Name of the codec beside its captions.
    row: Its row of the summary.
  """

  title: str
  row: Row


class GalleryCodecs(NamedTuple):
  """Codecs of the gallery.

  Attributes:
    drawn: Those with a map of what arrives, from the most vectors or bytes to
      the fewest.
    listed: Others, whose captions are folded away.
    left_out: Number of those that are not shown.
  """

  drawn: list[Line]
  listed: list[Line]
  left_out: int


def codecs_of(records: Sequence[Mapping[str, Any]]) -> list[Row]:
  """Returns a row for each codec of records, without scores.

  Args:
    records: Of a run, which may not be finished.

  Returns:
    Fields of the codec's first record, the number of its 'records', and
    'images', 'seeds' and 'bytes' as of `evaluation.summarize`, but that all of
    its pictures count.
  """
  groups: dict[str, list[Mapping[str, Any]]] = {}
  for record in records:
    groups.setdefault(record['name'], []).append(record)
  return [
    {
      **group[0],
      'images': len({record['image_id'] for record in group}),
      'seeds': len({record['seed'] for record in group}),
      'records': len(group),
      'bytes': sum(record['total_bytes'] for record in group) / len(group),
    }
    for group in groups.values()
  ]


def choose_codecs(rows: Sequence[Row]) -> GalleryCodecs:
  """Chooses the codecs whose captions are shown.

  Of links three values of each curve; where pictures were sent, both fronts;
  else all vectors, and the first method at every k.

  Args:
    rows: From `evaluation.summarize`, or from `codecs_of`.
  """
  is_scored = all('level' in row for row in rows)
  if any('channel' in row['codec'] for row in rows):
    drawn, others = _links(rows)
  elif any(map(labels.is_picture, rows)) and is_scored:
    drawn, others = _fronts(rows)
  else:
    drawn, others = _curves(rows)
  # Codecs on a front are among the rest, too: the first line of each counts.
  lines: dict[str, Line] = {}
  for line in [*drawn, *others]:
    lines.setdefault(line.row['name'], line)
  listed = [*lines.values()][len(drawn) :][:MOST_LISTED]
  return GalleryCodecs(drawn, listed, len(rows) - len(drawn) - len(listed))


def _curves(rows) -> tuple[list[Line], list[Line]]:
  curves = labels.curves(rows)
  lines = {
    name: [Line(_with_k(name, row), row) for row in reversed(curve)]
    for name, curve in curves.items()
  }
  full = [Line(labels.label(r), r) for r in rows if labels.is_full(r)]
  blind = [Line(labels.label(r), r) for r in rows if labels.is_blind(r)]
  first, *others = lines.values() or [[]]
  room = max(MOST_DRAWN - len(full[:1]), 1)
  pictures = [_family(row) for row in rows if labels.is_picture(row)]
  rest = [*full[1:], *(line for group in others for line in group), *blind]
  rest += pictures
  return [*full[:1], *spread(first, room)], [*rest, *first]


def _with_k(name: str, row: Row) -> str:
  """Returns a curve's name with the number of vectors of a row."""
  return f'{name}, k = {row["sent"]}'


def _fronts(rows) -> tuple[list[Line], list[Line]]:
  features, pictures = rate.split(rows)
  full = [row for row in features if labels.is_full(row)]
  features = [row for row in features if not labels.is_full(row)]
  fronts = [
    [*reversed(rate.front(group))] if group else []
    for group in (features, pictures)
  ]
  drawn = [
    *full[:1],
    *spread(fronts[0], MOST_DRAWN // 2),
    *spread(fronts[1], MOST_DRAWN // 2 - 1),
  ]
  rest = sorted([*features, *pictures], key=lambda row: -row['bytes'])
  blind = [row for row in rows if labels.is_blind(row)]
  return [*map(_family, drawn)], [
    *map(_family, [*fronts[0], *fronts[1]]),
    *map(_family, [*rest, *full[1:], *blind]),
  ]


def _family(row: Row) -> Line:
  """Returns the line of a codec among others of many kinds."""
  if labels.is_picture(row):
    quality = row['codec']['quality']
    return Line(f'{labels.label(row)}, quality {quality}', row)
  if labels.is_full(row) or labels.is_blind(row):
    return Line(labels.label(row), row)
  return Line(_with_k(rate.family(row), row), row)


def _links(rows) -> tuple[list[Line], list[Line]]:
  full = [Line(labels.label(r), r) for r in rows if labels.is_full(r)]
  drawn, others = full[:1], []
  sweeps = channel_lib.link_curves(rows)
  for sweep in sweeps:
    for n, curve in enumerate(sweep.curves.values()):
      lines = [Line(_link(sweep, x, row), row) for x, row in curve]
      few = spread(lines, 3)
      (others if n or len(sweeps) > 3 else drawn).extend(few)
  drawn = drawn or others[:MOST_DRAWN]
  blind = [Line(labels.label(r), r) for r in rows if labels.is_blind(r)]
  return drawn, [*others, *blind]


def _link(sweep: channel_lib.ChannelSweep, x: float, row: Row) -> str:
  """Returns the title of a link at a value of the swept setting."""
  kind = settings.nested(row)['channel']['channel']
  parts = link_labels.codec(row), link_labels.transport(row)
  return f'{", ".join(parts)}; {kind}({sweep.setting}={x:g})'


def spread(items: Sequence[_T], count: int) -> list[_T]:
  """Returns at most so many items, the first and the last among them."""
  if len(items) <= count:
    return [*items]
  places = np.linspace(0, len(items) - 1, count).round().astype(int)
  return [items[i] for i in places]


def choose_pictures(
  records: Sequence[Mapping[str, Any]], names: Sequence[str], count: int
) -> list[int]:
  """Chooses pictures, evenly over the run and whatever their captions are.

  Args:
    records: Of the run, which may not be finished.
    names: Codecs that are shown, the first ones preferred.
    count: Number of pictures.

  Returns:
    Ids of pictures that the most codecs have a caption of.
  """
  captioned: dict[int, set[str]] = {}
  wanted = {*names}
  for record in records:
    if record['name'] in wanted:
      captioned.setdefault(record['image_id'], set()).add(record['name'])
  most = max(map(len, captioned.values()), default=0)
  complete = [i for i, found in captioned.items() if len(found) == most]
  return spread(complete, count)
