"""Curves of rows that differ in k only, and the label of each row."""

from collections.abc import Mapping, Sequence
import json
import math
from typing import Any

from collab_jax.evaluation.report import columns, settings

Row = Mapping[str, Any]

# Labels of the paper's methods; others are labelled by their settings.
_LABELS = {
  ('kmeans', '++'): 'k-means++',
  ('kmeans', 'random'): 'k-means, random start',
  ('random', 'nearest'): 'random subset, nearest sent',
  ('random', 'keep'): 'random subset, positions kept',
  ('random', 'close'): 'random subset, closed up',
  ('random', 'zero'): 'random subset, rest zeroed',
  ('blind', 'zeroed'): 'blind: features zeroed',
  ('blind', 'mean'): 'blind: mean features',
  ('blind', 'shuffled'): "blind: another image's",
  ('identity', None): 'all vectors',
}
_VARIANTS = {'kmeans': 'init', 'random': 'rebuild', 'blind': 'kind'}
_LINK = 'transport', 'channel'
_FORMATS = {'jpeg': 'JPEG', 'webp': 'WebP', 'avif': 'AVIF'}


def method(row: Row) -> tuple[str, str | None]:
  """Returns a row's quantizer, and the setting that tells variants apart."""
  codec = settings.nested(row)
  inner = codec.get('quantizer') or codec
  title = inner.get('quantizer') or codec['codec']
  variant = _VARIANTS.get(title)
  return title, inner.get(variant) if variant else None


def is_full(row: Row) -> bool:
  """Returns whether a row is that of all vectors, over no channel."""
  return method(row)[0] == 'identity' and 'channel' not in row['codec']


def is_blind(row: Row) -> bool:
  """Returns whether a row's captions were made without seeing the picture."""
  return row['codec']['codec'] == 'blind'


def is_picture(row: Row) -> bool:
  """Returns whether the picture itself was sent, as a file."""
  return row['codec']['codec'] == 'image'


def is_plain(row: Row) -> bool:
  """Returns whether vectors of the encoder are sent in 16 bits, uncoded."""
  quantizer = settings.quantizer(row) or {}
  inner = [quantizer.get(part) for part in ('centroids', 'vectors')]
  names = [i['quantizer'] for i in inner if isinstance(i, Mapping)]
  return (
    set(names) <= {'identity'}
    and settings.nested(row).get('split', 'encoder') == 'encoder'
  )


def text(row: Row, channel: bool = True) -> str:
  """Returns the canonical name of a row's codec, as configs have it.

  'merge(k=4)@head/best', of links 'merge(k=4) | rows | erasure(p=0.4)'.
  It is made of the settings where these tell all: names of image codecs leave
  out the side of the model's pictures, and those of classes outside of this
  package their defaults. These are as recorded.

  Args:
    row: From `summarize`, or a record.
    channel: Say the channel of a link.
  """
  codec, link = settings.nested(row), links(row)
  classes = [codec[k] for k in ('quantizer', *_LINK) if k in codec]
  if codec['codec'] == 'feature' and all(map(settings.is_known, classes)):
    name = settings.text(codec['quantizer'])
    name += '' if codec['split'] == 'encoder' else f'@{codec["split"]}'
    name += '' if codec['coding'] == 'fixed' else f'/{codec["coding"]}'
    parts = [name, *link]
  else:
    parts = row['name'].rsplit(' | ', len(link))
  return ' | '.join(parts[:-1] if link and not channel else parts)


def label(row: Row, coding: bool = True, link: bool = True) -> str:
  """Returns a row's label in tables and legends, the same for every k.

  'k-means++', 'JPEG 64 px, stripped', or the settings that differ from the
  defaults: 'centred (vectors=merge(smooth=2,centroids=pca(dims=128)), coded)'.

  Args:
    row: From `summarize`, or a record.
    coding: Say if messages are entropy coded.
    link: Say the transport and the channel of a link.
  """
  codec = settings.nested(row)
  through = links(row) if link else []
  if is_picture(row):
    name = _FORMATS.get(codec['kind'], codec['kind'])
    chroma = ' 4:4:4' if codec.get('chroma') == 444 else ''
    stripped = ', stripped' if codec['strip'] else ''
    file = f'{name} {row["codec"]["size"]} px{chroma}{stripped}'
    return ', '.join([file, *through])
  coded = (
    ['coded'] if coding and codec.get('coding', 'fixed') != 'fixed' else []
  )
  known = _LABELS.get(method(row))
  if known and is_plain(row):
    return ', '.join([known, *coded, *through])
  inner = codec.get('quantizer') or {
    name: value for name, value in codec.items() if name not in _LINK
  }
  fields = settings.shown(settings.without(inner, 'k'))
  parts = [settings.field(*item) for item in fields.items()]
  if codec.get('split', 'encoder') != 'encoder':
    parts.append(f'split={codec["split"]}')
  words = ', '.join([*parts, *coded, *through])
  name = title(inner)
  return f'{name} ({words})' if words else name


def links(row: Row) -> list[str]:
  """Returns the names of a link's transport and channel; none of a codec."""
  codec = settings.nested(row)
  return [settings.text(codec[kind]) for kind in _LINK if kind in codec]


def title(codec: Mapping[str, Any]) -> str:
  """Returns the name of a quantizer's or codec's class, without its module."""
  return (codec.get('quantizer') or codec['codec']).rpartition(':')[2]


def _order(row: Row) -> tuple[int, str]:
  methods = list(_LABELS)
  known = method(row) in methods
  return methods.index(method(row)) if known else len(methods), label(row)


def curves(rows: Sequence[Row], coding: bool = True) -> dict[str, list[Row]]:
  """Groups rows that differ in k only; each curve is sorted by vectors sent.

  Args:
    rows: From `summarize`.
    coding: As of `label`.

  Returns:
    Curves by label, the paper's first; full and blind rows, and pictures, are
    left out.
  """
  groups: dict[str, list[Row]] = {}
  for row in sorted(rows, key=_order):
    if not (is_full(row) or is_blind(row) or is_picture(row)):
      # Quantizers of one name may have been trained twice.
      same = (
        settings.without(settings.nested(row), 'k'),
        row['codec'].get('books'),
      )
      groups.setdefault(json.dumps(same, sort_keys=True), []).append(row)
  labelled: dict[str, list[Row]] = {}
  for curve in groups.values():
    name = label(curve[0], coding)
    if name in labelled:
      name = text(curve[0])
    labelled[name] = sorted(curve, key=lambda row: row['sent'])
  return labelled


def at_k(curve: Sequence[Row], k: int) -> Row | None:
  """Returns the row of a curve in which k vectors are sent; None if none is."""
  return next((row for row in curve if row['sent'] == k), None)


def pictures(rows: Sequence[Row]) -> dict[str, list[Row]]:
  """Groups the rows of image codecs that differ in quality only.

  Args:
    rows: From `summarize`.

  Returns:
    Curves by label; each is sorted by bytes.
  """
  groups: dict[str, list[Row]] = {}
  for row in sorted(filter(is_picture, rows), key=lambda row: row['bytes']):
    groups.setdefault(label(row), []).append(row)
  return dict(sorted(groups.items()))


def full(rows: Sequence[Row]) -> Row | None:
  """Returns the row of all vectors in 16 bits, if it was evaluated."""
  return next((r for r in rows if is_full(r) and is_plain(r)), None)


def crossing(
  curve: Sequence[Row],
  level: float | int,
  x: str = 'ratio',
  y: columns.Y = None,
) -> float | None:
  """Returns where a curve first reaches a level, on a logarithmic x axis.

  Args:
    curve: Rows in the order of x.
    level: Value of y to reach.
    x: Column of the axis; positive.
    y: Metric to read, of which level is a score; None for the first.

  Returns:
    The interpolated x, or None if the curve stays worse.
  """
  read = columns.column(curve, y)
  for i, row in enumerate(curve):
    if not read.reaches(row, level):
      continue
    if not i:
      return float(row[x])
    before = curve[i - 1]
    share = (level - before[read.name]) / (row[read.name] - before[read.name])
    low, high = math.log(before[x]), math.log(row[x])
    return math.exp(low + share * (high - low))
  return None
