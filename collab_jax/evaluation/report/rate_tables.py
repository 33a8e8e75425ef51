"""What rates come to, in words: tables, findings, points to look at."""

from collections.abc import Mapping, Sequence
from typing import Any

from collab_jax.evaluation.report import (
  labels,
  rate,
)
from collab_jax.evaluation.report import (
  text as text_lib,
)

Row = Mapping[str, Any]


def rate_table(rows: Sequence[Row], fronts_only: bool = False) -> str:
  """Codecs by bytes, with the Pareto fronts marked.

  Args:
    rows: From `summarize`.
    fronts_only: Leave out what is on no front.

  Returns:
    A block for features, one for image codecs, and one for what sends nothing.
  """
  interval = f'{text_lib.coverage(rows)} interval'
  head = ['', 'bytes', 'BLEU-4', interval, 'kept', 'CIDEr', 'codec']
  lines = []
  for group in rate.split(rows):
    best = [row['name'] for row in rate.front(group)] if group else []
    for row in sorted(group, key=lambda row: (row['bytes'], row['name'])):
      if row['name'] in best or not fronts_only:
        lines.append(['*' if row['name'] in best else '', *_cells(row)])
    lines.append([''] * len(head))
  lines += [['', *_cells(row)] for row in rows if labels.is_blind(row)]
  *columns, last = zip(head, *lines, strict=True)
  padded = text_lib.align([*zip(*columns, strict=True)]).split('\n')
  width = max(map(len, padded))
  text = [
    f'{line:{width}}  {name}'.rstrip()
    for line, name in zip(padded, last, strict=True)
  ]
  return '\n'.join(text).rstrip() + '\n\n* on the Pareto front of its block'


def _cells(row: Row) -> list[str]:
  return [
    f'{row["bytes"]:,.1f}',
    f'{row["bleu4"]:.1f}',
    f'{row["bleu4_low"]:.1f} {row["bleu4_high"]:.1f}',
    '-' if row['kept'] is None else f'{100 * row["kept"]:.0f}%',
    f'{100 * row["cider"]:.0f}',
    row['name'],
  ]


def operating_points(
  rows: Sequence[Row], levels: Sequence[float]
) -> dict[str, Row]:
  """Codecs to look at closely.

  Args:
    rows: From `summarize`, those of all vectors among them.
    levels: Shares of the BLEU-4 of all vectors.

  Returns:
    By what to call them: for each level the cheapest features and the cheapest
    image codec that reach it, the cheapest JPEG file, the paper's k-means, and
    all vectors.
  """
  full = labels.full(rows)
  if full is None:
    return {}
  features, pictures = rate.split(rows)
  files = [
    row
    for row in pictures
    if row['codec']['kind'] == 'jpeg' and not row['codec']['strip']
  ]
  found: dict[str, Row | None] = {}
  for level in levels:
    share = text_lib.percent(level)
    score = level * full['bleu4']
    found[f'features, {share} of BLEU-4'] = rate.cheapest(features, score)
    found[f'image codec, {share} of BLEU-4'] = rate.cheapest(pictures, score)
    found[f'JPEG file, {share} of BLEU-4'] = rate.cheapest(files, score)
  for row in features:
    if rate.family(row) == 'k-means, random start' and row['sent'] == 8:
      found["the paper's k-means, k = 8"] = row
  found['all vectors in 16 bits'] = full
  return {name: row for name, row in found.items() if row}


def rate_findings(
  rows: Sequence[Row],
  savings: Sequence[Mapping[str, Any]],
  levels: Sequence[float],
) -> list[str]:
  """What the figure shows, as sentences.

  Args:
    rows: From `summarize`.
    savings: From `rates.savings`.
    levels: Shares of the BLEU-4 of all vectors.

  Returns:
    Sentences; none where the codecs they need were not evaluated.
  """
  lines = []
  full = labels.full(rows)
  features, pictures = rate.split(rows)
  whole = full['bleu4'] if full else 0.0
  for level in levels if full else ():
    score = level * whole
    told = [
      f'{who} {row["bytes"]:,.0f} bytes ({row["name"]},'
      f' {row["bleu4"]:.1f} [{row["bleu4_low"]:.1f}, {row["bleu4_high"]:.1f}])'
      if (row := rate.cheapest(group, score))
      else f'{who} more than were tried'
      for who, group in (('features', features), ('image codecs', pictures))
    ]
    lines.append(
      f'For {text_lib.percent(level)} of the BLEU-4 of all vectors'
      f' ({score:.1f} of {whole:.1f}) {told[0]}; {told[1]}.'
    )
  for row in features if pictures else ():
    plain = rate.family(row)
    if not plain.startswith('k-means') or not labels.is_plain(row):
      continue
    if row['sent'] != 8:
      continue
    same = [
      labels.crossing(rate.front(group), row['bleu4'], 'bytes')
      for group in (pictures, features)
    ]
    needs = ['more' if n is None else f'{n:,.0f} bytes' for n in same]
    lines.append(
      f'{plain}, 8 centroids in 16 bits: {row["bytes"]:,.0f} bytes, BLEU-4'
      f' {row["bleu4"]:.1f}. For the same score the best image codec needs'
      f' {needs[0]}, the best features {needs[1]}.'
    )
  return lines + [_saving(found, rows) for found in savings]


def _saving(found: Mapping[str, Any], rows: Sequence[Row]) -> str:
  start = f'BD-rate of {found["curve"]} against {found["anchor"]}: '
  if found['bd_rate'] is None:
    return f'{start}none, {found["why"]}.'
  text = f'{start}{100 * found["bd_rate"]:+.1f}%'
  if found['low'] is not None:
    ends = f'{100 * found["low"]:+.1f}, {100 * found["high"]:+.1f}'
    text += f' [{ends}], {text_lib.coverage(rows)}'
  low, high = found['scores']
  return f'{text}, BLEU-4 from {low:.1f} to {high:.1f}.'
