"""Comparison of runs as text."""

from typing import Any

from collab_jax.evaluation import comparison as comparison_lib
from collab_jax.evaluation.report import columns, labels, text

_LONGEST = 48  # Letters of a setting's value.


def comparison_table(comparison: comparison_lib.Comparison) -> str:
  """Returns scores and differences of runs as text.

  Args:
    comparison: From `compare`.

  Returns:
    The runs, the settings that differ, a line for each pair of codecs, and the
    codecs without a partner.
  """
  blocks = [_runs(comparison), _settings(comparison)]
  if comparison.differences:
    blocks.append(_pairs(comparison))
  blocks += [_delta_rates(comparison), _unpaired(comparison)]
  return '\n\n'.join(filter(None, blocks))


def outcome(difference: Any, sign: int = 1) -> str:
  """Returns 'better', 'worse' or '' for an interval with 0.

  Args:
    difference: Of a `Comparison`.
    sign: -1 where lower scores are better.
  """
  if difference['low'] <= 0 <= difference['high']:
    return ''
  return 'better' if sign * difference['value'] > 0 else 'worse'


def _runs(comparison: comparison_lib.Comparison) -> str:
  lines = [['run', 'codecs', 'seeds', 'pictures', 'not shared']]
  for name, rows in comparison.rows.items():
    codecs = [row for row in rows if not labels.is_blind(row)]
    seeds = str(max(row['seeds'] for row in rows))
    left_out = str(comparison.left_out[name])
    counts = str(len(codecs)), seeds, str(comparison.images), left_out
    lines.append([name, *counts])
  return text.align(lines)


def _settings(comparison: comparison_lib.Comparison) -> str:
  if not comparison.settings:
    return 'No setting differs but those of the codecs.'
  lines = [['settings that differ', *comparison.rows]]
  for name, values in comparison.settings.items():
    shown = ('-' if v is None else _short(v) for v in values.values())
    lines.append([name, *shown])
  return text.align(lines)


def _short(value: Any) -> str:
  shown = str(value)
  return shown if len(shown) <= _LONGEST else f'{shown[: _LONGEST - 3]}...'


def _pairs(comparison: comparison_lib.Comparison) -> str:
  first = next(iter(comparison.rows))
  by_name = {
    run: {row['name']: row for row in rows}
    for run, rows in comparison.rows.items()
  }
  column = columns.column(comparison.rows[first])
  interval = f'{100 * comparison.level:g}% interval'
  head = ['run', 'codec', 'bytes', column.label, f'{first}: bytes']
  lines = [[*head, column.label, 'difference', interval, '']]
  for line in comparison.differences:
    row, base = (
      by_name[line['run']][line['other']],
      by_name[first][line['codec']],
    )
    name = labels.text(row)
    if name != labels.text(base):
      name = f'{name} / {labels.text(base)}'
    ends = (f'{column.scale * line[end]:+.2f}' for end in ('low', 'high'))
    lines.append(
      [
        line['run'],
        name,
        text.size(row['bytes']),
        column.text(row),
        text.size(base['bytes']),
        column.text(base),
        f'{column.scale * line["value"]:+.2f}',
        ' '.join(ends),
        outcome(line, column.sign),
      ]
    )
  notes = [
    f'Differences are those to {first}, paired by picture, seeds averaged.'
    ' All intervals hold at once.'
  ]
  if column.unit:
    notes.append(f'{column.label} in {column.unit}.')
  return '\n'.join([text.align(lines, left=2), '', *notes])


def _delta_rates(comparison: comparison_lib.Comparison) -> str:
  first = next(iter(comparison.rows))
  column = columns.column(comparison.rows[first])
  lines = []
  for run, delta in comparison.delta_rates.items():
    if delta['bd_rate'] is None:
      continue
    shown = f'{100 * delta["bd_rate"]:+.1f}%'
    if delta['low'] is not None:
      shown += f' [{100 * delta["low"]:+.1f}, {100 * delta["high"]:+.1f}]'
    low, high = map(column.write, delta['scores'])
    lines.append(
      f'Bytes of {run} at equal {column.label} (BD-rate against {first}):'
      f' {shown}, from {low} to {high}.'
    )
  return '\n'.join(lines)


def _unpaired(comparison: comparison_lib.Comparison) -> str:
  return '\n'.join(
    f'{run}: without a partner: {", ".join(names)}'
    for run, names in comparison.unpaired.items()
    if names
  )
