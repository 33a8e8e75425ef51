"""Rows as plain text for a terminal."""

from collections.abc import Mapping, Sequence
import textwrap
from typing import Any

from collab_jax.evaluation.report import labels

Row = Mapping[str, Any]


def align(lines: Sequence[Sequence[str]], left: int = 1) -> str:
  """Pads cells to columns.

  Args:
    lines: Cells, equally many in each line.
    left: Number of columns that are flush left; the others are flush right.

  Returns:
    The lines.
  """
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  out = []
  for line in lines:
    cells = [
      cell.ljust(w) if n < left else cell.rjust(w)
      for n, (cell, w) in enumerate(zip(line, widths, strict=True))
    ]
    out.append('  '.join(cells).rstrip())
  return '\n'.join(out)


def percent(share: float | int | None) -> str:
  """Returns a share as text: 0.0039 -> '0.4%', 0.5 -> '50%', None -> '-'."""
  if share is None:
    return '-'
  text = f'{100 * share + 1e-9:.1f}'  # Halves go up: 6.25 -> 6.3.
  return (text.removesuffix('.0') if share else '0') + '%'


def size(count: float | int) -> str:
  """Returns a number of bytes as people read it: '999 B', '2.1 kB'."""
  if count < 1000:
    return f'{count:.0f} B'
  return f'{count / 1000:.1f} kB'


def coverage(rows: Sequence[Mapping[str, Any]]) -> str:
  """Returns the level of the rows' intervals: '95%', '99.9%'."""
  return f'{100 * rows[0]["level"]:g}%'


def table(rows: Sequence[Row]) -> str:
  """Returns one line per codec, with all scores.

  Args:
    rows: From `summarize`.

  Returns:
    The lines, the paper's methods first.
  """
  slots = [s for s in ('shape', 'pair', 'relation') if s in rows[0]['slots']]
  interval = f'{coverage(rows)} interval'
  head = ['method', 'k', 'of all', 'bytes', 'BLEU-4', interval, 'kept']
  head += ['BLEU-1', 'CIDEr', 'ROUGE-L', *slots]
  lines = [head]
  named = [(name, row) for name, c in labels.curves(rows).items() for row in c]
  pictures = labels.pictures(rows)
  named += [(name, row) for name, c in pictures.items() for row in c]
  named += [(labels.label(row), row) for row in horizontal_rows(rows)]
  for name, row in named:
    picture = labels.is_picture(row)
    lines.append(
      [
        name,
        f'q{row["codec"]["quality"]}' if picture else str(row['sent']),
        '-' if picture else percent(row['ratio']),
        size(row['bytes']),
        f'{row["bleu4"]:.1f}',
        f'{row["bleu4_low"]:.1f} {row["bleu4_high"]:.1f}',
        '-' if row['kept'] is None else f'{100 * row["kept"]:.0f}%',
        f'{row["bleu1"]:.1f}',
        f'{100 * row["cider"]:.0f}',
        f'{100 * row["rouge_l"]:.1f}',
        *(f'{100 * (row["slots"].get(s) or 0):.0f}%' for s in slots),
      ]
    )
  return align(lines)


def horizontal_rows(rows: Sequence[Row]) -> list[Row]:
  """Returns the rows without a curve: all vectors, and blind baselines."""
  return sorted(
    (r for r in rows if labels.is_full(r) or labels.is_blind(r)),
    key=lambda row: -row['bleu4'],
  )


def pivot(rows: Sequence[Row]) -> str:
  """Returns BLEU-4 by method and number of vectors, which fits a terminal.

  Args:
    rows: From `summarize`.

  Returns:
    A block with BLEU-4 and one with the share of all vectors' BLEU-4.
  """
  curves = labels.curves(rows)
  ks = sorted({row['sent'] for curve in curves.values() for row in curve})
  ratios = {row['sent']: row['ratio'] for c in curves.values() for row in c}
  head = [['vectors sent', *map(str, ks)]]
  head += [['  of all', *(percent(ratios[k]) for k in ks)]]

  def block(column, cell):
    lines = []
    for name, curve in curves.items():
      by_k = {row['sent']: row[column] for row in curve}
      cells = (by_k.get(k) for k in ks)
      lines.append([name, *('-' if v is None else cell(v) for v in cells)])
    return lines

  scores = block('bleu4', '{:.1f}'.format)
  kept = block('kept', lambda v: f'{100 * v:.0f}%')
  titles = ['BLEU-4', "share of all vectors' BLEU-4 kept"]
  blank = [''] * len(head[0])
  lines = align([*head, *scores, blank, *kept]).split('\n')
  n = len(head) + len(scores)
  lines = [*lines[:2], titles[0], *lines[2:n], '', titles[1], *lines[n + 1 :]]
  rule = '-' * max(map(len, lines))
  horizontal = [
    [
      labels.label(r),
      f'{r["bleu4"]:.1f}',
      f'+-{half_width(r):.1f}',
      size(r['bytes']),
    ]
    for r in horizontal_rows(rows)
  ]
  return '\n'.join([*lines[:2], rule, *lines[2:], rule, align(horizontal)])


def scores(rows: Sequence[Row]) -> str:
  """Returns all scores of the rows without a curve, a line each.

  Args:
    rows: From `summarize`.

  Returns:
    The lines. CIDEr is in percent, as papers have it.
  """
  head = ['', 'pictures', 'BLEU-1', 'BLEU-2', 'BLEU-3', 'BLEU-4', '']
  lines = [[*head, 'CIDEr', 'ROUGE-L']]
  lines += [
    [
      labels.label(row),
      str(row['images']),
      *(f'{row[f"bleu{n}"]:.1f}' for n in (1, 2, 3, 4)),
      f'+-{half_width(row):.1f}',
      f'{100 * row["cider"]:.1f}',
      f'{100 * row["rouge_l"]:.1f}',
    ]
    for row in horizontal_rows(rows)
  ]
  return align(lines)


def half_width(row: Row) -> float:
  """Returns half the width of a row's interval."""
  return (row['bleu4_high'] - row['bleu4_low']) / 2


def findings(rows: Sequence[Row], k: int = 8) -> list[str]:
  """Returns the paper's two claims beside the measured numbers.

  Args:
    rows: From `summarize`.
    k: The number of centroids the claims are about.

  Returns:
    Sentences; none where the codecs they need were not evaluated.
  """
  curves = labels.curves(rows)
  lines = []
  means = {}
  for name, curve in curves.items():
    row = next((r for r in curve if r['sent'] == k), None)
    if name.startswith('k-means') and row and row['bleu4']:
      means[name] = row['bleu4']
      if row['kept'] is not None:
        lines.append(
          f'{k} centroids ({percent(row["ratio"])} of the vectors,'
          f' {size(row["bytes"])}) keep {100 * row["kept"]:.0f}%'
          f' [{100 * row["kept_low"]:.0f}, {100 * row["kept_high"]:.0f}]'
          f' of the full BLEU-4 with {name}; the paper: about 80%.'
        )
  for name, curve in curves.items():
    if not name.startswith('random subset') or not means:
      continue
    needs = []
    for other, level in means.items():
      ratio = labels.crossing(curve, level)
      largest = percent(curve[-1]['ratio'])
      text = percent(ratio) if ratio else f'more than {largest}'
      needs.append(f'{text} for {other}')
    lines.append(f'To match them, {name}: ' + ', '.join(needs) + '.')
  return lines


def samples(
  records: Sequence[Mapping[str, Any]], images: int = 3, width: int = 88
) -> str:
  """Returns captions of some pictures at every k, to read the losses.

  Args:
    records: Of the curves' first method and of all vectors.
    images: Number of pictures, those with the longest references first.
    width: Letters in a line.

  Returns:
    The text; empty without a curve.
  """
  codecs = {r['name']: r for r in records}
  full = [n for n, r in codecs.items() if labels.is_full(r)]
  first = next(
    (
      r
      for n, r in codecs.items()
      if not (n in full or labels.is_blind(r) or labels.is_picture(r))
    ),
    None,
  )
  if first is None:
    return ''
  method = labels.label(first)
  names = [n for n, r in codecs.items() if labels.label(r) == method]
  seed = next(r['seed'] for r in records if r['name'] == first['name'])
  captions: dict[int, list[Mapping[str, Any]]] = {}
  for record in records:
    if record['seed'] == seed and record['name'] in (*names, *full):
      captions.setdefault(record['image_id'], []).append(record)
  chosen = sorted(
    [*captions][:24], key=lambda i: -len(captions[i][0]['references'][0])
  )
  blocks = []
  for image in chosen[:images]:
    lines = [('reference', captions[image][0]['references'][0])]
    last = None
    for record in sorted(captions[image], key=lambda r: -r['sent']):
      name = 'all' if record['name'] in full else f'{record["sent"]}'
      caption = record['caption']
      lines.append((name, '"' if caption == last else caption))
      last = caption
    blocks.append(
      '\n'.join(
        textwrap.fill(
          text,
          width,
          initial_indent=f'  {name:>9}  ',
          subsequent_indent=' ' * 13,
        )
        for name, text in lines
      )
    )
  title = f'What is left of a caption as fewer vectors are sent ({method}):'
  return '\n\n'.join([title, *blocks])
