"""What belongs to one curve, and how it is called."""

from collections.abc import Mapping, Sequence
import json
import math
import re
from typing import Any

Row = Mapping[str, Any]

# How the paper's methods are called; others go by their own names.
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

# What stands behind a quantizer's name, and the settings in it: no commas but
# those within two pairs of parentheses.
_SUFFIX = re.compile(r'(@\w+)?(/\w+)?$')
_K = re.compile(r'\bk=\d+,?|\(k=\d+\)')
_SETTINGS = re.compile(r'(?:[^,()]|\((?:[^()]|\([^()]*\))*\))+')

_KINDS = {'jpeg': 'JPEG', 'webp': 'WebP', 'avif': 'AVIF'}


def kind(row: Row) -> tuple[str, str | None]:
  """(quantizer, what tells its variants apart) of a row or record."""
  codec = row['codec']
  name = codec.get('quantizer', codec['codec'])
  which = {'kmeans': 'init', 'random': 'rebuild', 'blind': 'kind'}.get(name)
  return name, codec.get(which) if which else None


def is_full(row: Row) -> bool:
  """Whether a row is that of all vectors, sent as they are."""
  return kind(row)[0] == 'identity' and 'channel' not in row['codec']


def is_blind(row: Row) -> bool:
  """Whether a row is that of a caption which has not seen the picture."""
  return kind(row)[0] == 'blind'


def is_picture(row: Row) -> bool:
  """Whether the picture itself was sent, as a file."""
  return row['codec']['codec'] == 'image'


def is_plain(row: Row) -> bool:
  """Whether vectors are sent as they are, in 16 bits, before the projection."""
  codec = row['codec']
  inner = [codec.get(part) for part in ('centroids', 'vectors')]
  plain = all(i is None or str(i).startswith('identity') for i in inner)
  return plain and codec.get('split', 'encoder') == 'encoder'


def label(row: Row) -> str:
  """What a curve is called in tables and figures."""
  if is_picture(row):
    codec = row['codec']
    name = _KINDS.get(codec['kind'], codec['kind'])
    chroma = ' 4:4:4' if codec.get('chroma') == 444 else ''
    stripped = ', stripped' if codec['strip'] else ''
    return f'{name} {codec["size"]} px{chroma}{stripped}'
  known = _LABELS.get(kind(row))
  if known and is_plain(row):
    return known + (', coded' if row['codec'].get('coding') else '')
  # The name leaves out what is at its default: 'merge(k=8,smooth=1)@head/best'.
  own, *link = row['name'].split(' | ')
  title, _, settings = without_k(_SUFFIX.sub('', own)).partition('(')
  inside = _SETTINGS.findall(settings[:-1])
  codec = row['codec']
  if codec.get('split', 'encoder') != 'encoder':
    inside.append(f'split={codec["split"]}')
  if codec.get('coding'):
    inside.append('coded')
  words = ', '.join(inside + link)
  title = title.rpartition(':')[2]
  return f'{title} ({words})' if words else title


def without_k(name: str) -> str:
  """A quantizer's name without how many vectors are sent, also within it."""
  return _K.sub('', name)


def _order(row: Row) -> tuple[int, str]:
  kinds = list(_LABELS)
  place = kinds.index(kind(row)) if kind(row) in kinds else len(kinds)
  return place, label(row)


def curves(rows: Sequence[Row]) -> dict[str, list[Row]]:
  """Groups rows that differ in k only; each curve is sorted by vectors sent.

  Args:
    rows: From `summarize`.

  Returns:
    Curves by label, the paper's first; full and blind rows, and pictures, are
    left out.
  """
  found: dict[str, list[Row]] = {}
  for row in sorted(rows, key=_order):
    if is_full(row) or is_blind(row) or is_picture(row):
      continue
    codec = {
      name: without_k(value) if isinstance(value, str) else value
      for name, value in row['codec'].items()
      if name != 'k'
    }
    found.setdefault(json.dumps(codec, sort_keys=True), []).append(row)
  named: dict[str, list[Row]] = {}
  for curve in found.values():
    name = label(curve[0])
    if name in named:
      name = curve[0]['name']
    named[name] = sorted(curve, key=lambda row: row['sent'])
  return named


def pictures(rows: Sequence[Row]) -> dict[str, list[Row]]:
  """Groups the rows of image codecs that differ in quality only.

  Args:
    rows: From `summarize`.

  Returns:
    Curves by label; each is sorted by bytes.
  """
  found: dict[str, list[Row]] = {}
  for row in sorted(filter(is_picture, rows), key=lambda row: row['bytes']):
    found.setdefault(label(row), []).append(row)
  return dict(sorted(found.items()))


def full(rows: Sequence[Row]) -> Row | None:
  """The row of all vectors sent as they are, if it was evaluated."""
  return next((r for r in rows if is_full(r) and is_plain(r)), None)


def crossing(
  curve: Sequence[Row], level: float | int, x: str = 'ratio', y: str = 'bleu4'
) -> float | None:
  """Where a curve first reaches a level, on a logarithmic x axis.

  Args:
    curve: Rows in the order of x.
    level: Value of y to reach.
    x: Column of the axis; positive.
    y: Column to read.

  Returns:
    The interpolated x, or None if the curve stays below.
  """
  for i, row in enumerate(curve):
    if row[y] < level:
      continue
    if not i:
      return float(row[x])
    before = curve[i - 1]
    share = (level - before[y]) / (row[y] - before[y])
    low, high = math.log(before[x]), math.log(row[x])
    return math.exp(low + share * (high - low))
  return None
