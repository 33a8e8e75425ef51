"""Rows as plain text for a terminal."""

from collections.abc import Mapping, Sequence
import textwrap
from typing import Any

from collab_jax.evaluation.report import columns, labels

Row = Mapping[str, Any]
# BLEU-4 below which captions have nothing to do with the references.
UNRELATED = 1.0
_WIDTH = 100  # Letters in a line of a table, unless a method's name is long.
_OF_MAIN = 7  # Columns of a table before those of other metrics.


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


def table(rows: Sequence[Row], y: columns.Y = None) -> str:
  """Returns one line per codec, with all scores.

  Args:
    rows: From `summarize`.
    y: Metric that is shown with its interval; None for the first of the rows.

  Returns:
    The lines, the paper's methods first; metrics for which a line of 100
    letters has no room are in further blocks.
  """
  lines = table_cells(rows, y)
  widths = [2 + max(map(len, column)) for column in zip(*lines, strict=True)]
  room = max(_WIDTH + 2, sum(widths[:_OF_MAIN]))
  if sum(widths) <= room:
    return align(lines)
  blocks = [[*range(_OF_MAIN)], [0, 1]]  # Each has the method and k.
  for column in range(_OF_MAIN, len(widths)):
    if sum(widths[n] for n in (*blocks[-1], column)) > room:
      blocks.append([0, 1])
    blocks[-1].append(column)
  return '\n\n'.join(
    align([[line[n] for n in block] for line in lines]) for block in blocks
  )


def table_cells(rows: Sequence[Row], y: columns.Y = None) -> list[list[str]]:
  """Returns the cells of `table`, a list for each line; the first is titles."""
  slots = [s for s in ('shape', 'pair', 'relation') if s in rows[0]['slots']]
  main = columns.column(rows, y)
  others = columns.others(rows, main, without=())
  interval = f'{coverage(rows)} interval'
  head = ['method', 'k', 'of all', 'bytes', main.label, interval, 'kept']
  head += [*(other.label for other in others), *slots]
  lines = [head]
  named = [(name, row) for name, c in labels.curves(rows).items() for row in c]
  pictures = labels.pictures(rows)
  named += [(name, row) for name, c in pictures.items() for row in c]
  named += [(labels.label(row), row) for row in horizontal_rows(rows, y)]
  for name, row in named:
    picture = labels.is_picture(row)
    lines.append(
      [
        name,
        f'q{row["codec"]["quality"]}' if picture else str(row['sent']),
        '-' if picture else percent(row['ratio']),
        size(row['bytes']),
        main.text(row),
        main.interval(row),
        whole_percent(main.kept(row)),
        *(other.text(row, other.digits) for other in others),
        *(f'{100 * (row["slots"].get(s) or 0):.0f}%' for s in slots),
      ]
    )
  return lines


def whole_percent(share: float | int | None) -> str:
  """Returns a share without decimals: 0.92 -> '92%', None -> '-'."""
  return '-' if share is None else f'{100 * share:.0f}%'


def horizontal_rows(rows: Sequence[Row], y: columns.Y = None) -> list[Row]:
  """Returns the rows without a curve: all vectors, and blind baselines.

  Args:
    rows: From `summarize`.
    y: Metric by which the best comes first; None for the first of the rows.
  """
  main = columns.column(rows, y)
  return sorted(
    (r for r in rows if labels.is_full(r) or labels.is_blind(r)),
    key=lambda row: -main.quality(row),
  )


def pivot(rows: Sequence[Row], y: columns.Y = None) -> str:
  """Returns a score by method and number of vectors, which fits a terminal.

  Args:
    rows: From `summarize`.
    y: Metric of the score; None for the first of the rows.

  Returns:
    A block with scores, and one with the share of all vectors' score, where
    higher scores are better.
  """
  main = columns.column(rows, y)
  curves = labels.curves(rows)
  ks = sorted({row['sent'] for curve in curves.values() for row in curve})
  ratios = {row['sent']: row['ratio'] for c in curves.values() for row in c}
  head = [['vectors sent', *map(str, ks)]]
  head += [['  of all', *(percent(ratios[k]) for k in ks)]]

  def block(cell):
    lines = []
    for name, curve in curves.items():
      by_k = {row['sent']: cell(row) for row in curve}
      lines.append([name, *(by_k.get(k, '-') for k in ks)])
    return lines

  scores = block(main.text)
  kept = block(lambda row: whole_percent(main.kept(row)))
  titles = [main.title, f"share of all vectors' {main.label} kept"]
  if not main.higher_is_better:
    kept, titles = [], titles[:1]
  blank = [''] * len(head[0])
  lines = align([*head, *scores, blank, *kept]).split('\n')
  n = len(head) + len(scores)
  blocks = [titles[0], *lines[2:n]]
  blocks += ['', titles[1], *lines[n + 1 :]] if kept else []
  lines = [*lines[:2], *blocks]
  rule = '-' * max(map(len, lines))
  horizontal = [
    [
      labels.label(r),
      main.text(r),
      f'+-{main.half_width(r):.1f}',
      size(r['bytes']),
    ]
    for r in horizontal_rows(rows, y)
  ]
  return '\n'.join([*lines[:2], rule, *lines[2:], rule, align(horizontal)])


def scores(rows: Sequence[Row], y: columns.Y = None) -> str:
  """Returns all scores of the rows without a curve, a line each.

  Args:
    rows: From `summarize`.
    y: Metric that is shown with half the width of its interval; None for the
      first of the rows.

  Returns:
    The lines, metrics by their names. CIDEr is in percent, as papers have it.
  """
  main = columns.column(rows, y)
  known = columns.columns(rows)
  head = ['', 'pictures']
  for name in sorted(known):
    head += (
      [known[name].label, ''] if name == main.name else [known[name].label]
    )
  lines = [head]
  for row in horizontal_rows(rows, y):
    cells = [labels.label(row), str(row['images'])]
    for name in sorted(known):
      cells.append(known[name].text(row))
      if name == main.name:
        cells.append(f'+-{main.half_width(row):.1f}')
    lines.append(cells)
  return align(lines)


def is_unrelated(row: Row | None) -> bool:
  """Whether captions have next to nothing in common with the references.

  Args:
    row: Row of all vectors, if there is one.
  """
  return row is not None and row.get('bleu4', 100.0) < UNRELATED


def unrelated_captions(rows: Sequence[Row]) -> str:
  """Returns what a full score near 0 means; '' for any other.

  Args:
    rows: From `summarize`.
  """
  row = labels.full(rows)
  if row is None or not is_unrelated(row):
    return ''
  return (
    f'All vectors score a BLEU-4 of {row["bleu4"]:.1f}: these captions have'
    ' next to nothing in common with the references, so that shares of it mean'
    ' nothing. Is the model for other pictures, or max_tokens too small?'
  )


def findings(rows: Sequence[Row], k: int = 8, y: columns.Y = None) -> list[str]:
  """Returns the paper's two claims beside the measured numbers.

  Args:
    rows: From `summarize`.
    k: The number of centroids the claims are about.
    y: Metric of the scores; None for the first of the rows.

  Returns:
    Sentences; none where the codecs they need were not evaluated.
  """
  main = columns.column(rows, y)
  if main.name == 'bleu4' and is_unrelated(labels.full(rows)):
    return []
  paper = '; the paper: about 80%' if main.name == 'bleu4' else ''
  curves = labels.curves(rows)
  lines = []
  means = {}
  for name, curve in curves.items():
    row = labels.at_k(curve, k)
    if name.startswith('k-means') and row and row[main.name]:
      means[name] = row[main.name]
      kept, low, high = (main.kept(row, e) for e in ('', '_low', '_high'))
      if kept is not None and low is not None and high is not None:
        lines.append(
          f'{k} centroids ({percent(row["ratio"])} of the vectors,'
          f' {size(row["bytes"])}) keep {100 * kept:.0f}%'
          f' [{100 * low:.0f}, {100 * high:.0f}]'
          f' of the full {main.label} with {name}{paper}.'
        )
  for name, curve in curves.items():
    if not name.startswith('random subset') or not means:
      continue
    needs = []
    for other, level in means.items():
      ratio = labels.crossing(curve, level, y=main.name)
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
  records = [record for record in records if record['references']]
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
