"""Rows of links as curves over the swept setting of their channel."""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

from collab_jax import channels
from collab_jax.evaluation.report import (
  columns,
  labels,
  latency,
  settings,
  text,
)

Row = Mapping[str, Any]
Curves = dict[str, list[tuple[float, Row]]]

# Settings that are swept, in the order of preference.
_AXES = 'snr', 'p', 'to_bad', 'rate'


class ChannelSweep(NamedTuple):
  """Links whose channels differ in one setting.

  Attributes:
    channel: Name of the channel, with the settings that all share.
    setting: Name of the setting that differs.
    curves: By codec and transport, its values and the rows, in their order.
  """

  channel: str
  setting: str
  curves: Curves


def link_curves(rows: Sequence[Row]) -> list[ChannelSweep]:
  """Groups the rows of links by what their channels have in common.

  Args:
    rows: From `summarize`; those of no link are left out.

  Returns:
    Sweeps in the order of the rows; channels that differ in more than one
    setting make one for each.
  """
  sweeps: dict[tuple[str, str], Curves] = {}
  for row in rows:
    channel = settings.nested(row).get('channel')
    if channel is None:
      continue
    axis = next((n for n in _AXES if n in channel), [*channel, ''][1])
    shared = settings.text({n: v for n, v in channel.items() if n != axis})
    curves = sweeps.setdefault((shared, axis), {})
    name = labels.text(row, channel=False)
    curves.setdefault(name, []).append((channel.get(axis, 0), row))
  return [
    ChannelSweep(
      *key, {n: sorted(c, key=lambda p: p[0]) for n, c in curves.items()}
    )
    for key, curves in sweeps.items()
  ]


def link_table(
  rows: Sequence[Row],
  budget: channels.Budget | None = None,
  y: columns.Y = None,
  complete: bool = False,
) -> str:
  """Returns scores by codec and channel, and the cost of a picture, as text.

  Args:
    rows: From `summarize`.
    budget: Powers and speeds; default those of `Budget`.
    y: Metric of the scores; None for the first of the rows.
    complete: Add the scores of all other metrics.

  Returns:
    For each sweep a block of scores, one of the share of all vectors' score
    that is kept, if that is known, and one of bytes, time and energy.
  """
  column = columns.column(rows, y)
  others = columns.others(rows, column, without=()) if complete else []
  budget = budget or channels.Budget()
  blocks = []
  for sweep in link_curves(rows):
    parts = [
      sweep.channel,
      '',
      column.title,
      _block(sweep, column.text),
    ]
    if labels.full(rows) and column.higher_is_better:
      title = f"share of all vectors' {column.label} kept"
      kept = _block(sweep, lambda r: text.whole_percent(column.kept(r)))
      parts += ['', title, kept]
    for other in others:
      cell = functools.partial(other.text, digits=other.digits)
      parts += ['', other.title, _block(sweep, cell)]
    blocks.append('\n'.join([*parts, '', *_costs(sweep, budget)]))
  ends = [
    f'{labels.label(r)}: {column.label} {column.text(r)}'
    f' +-{column.half_width(r):.1f}'
    + ''.join(f', {o.label} {o.text(r, o.digits)}' for o in others)
    for r in text.horizontal_rows(rows, y)
  ]
  return '\n\n'.join([*blocks, '\n'.join(ends)]).rstrip()


def _block(sweep: ChannelSweep, cell: Callable[[Row], str]) -> str:
  """Returns cells of the rows, by codec and value of the swept setting."""
  values = sorted({x for curve in sweep.curves.values() for x, _ in curve})
  lines = [[sweep.setting, *(f'{value:g}' for value in values)]]
  for name, curve in sweep.curves.items():
    by_value = {x: cell(row) for x, row in curve}
    lines.append([name, *(by_value.get(value, '-') for value in values)])
  return text.align(lines)


def _costs(sweep: ChannelSweep, budget: channels.Budget) -> list[str]:
  """Returns the cost of a picture at the first and the last value."""
  head = [sweep.setting, '', 'bytes', 'packets', 'ms edge', 'on air', 'link']
  lines = [[*head, 'server', 'total', 'mJ edge']]
  for name, curve in sweep.curves.items():
    for x, row in (curve[0], curve[-1]):
      link = row['link']
      cost = latency.cost(row, link['seconds'], link['airtime'], budget)
      times = cost.edge, link['airtime'], cost.link, cost.server, cost.seconds
      lines.append(
        [
          name,
          f'{x:g}',
          f'{row["bytes"]:.0f}',
          f'{link["packets"]:.1f}',
          *(f'{1000 * t:.1f}' for t in times),
          f'{1000 * cost.joules:.1f}',
        ]
      )
  return ['time and energy of a picture', text.align(lines)]
