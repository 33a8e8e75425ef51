"""Rows of links, as curves over what their channels differ in."""

from collections.abc import Sequence
import dataclasses
from typing import Any, NamedTuple, cast

from collab_jax import channels
from collab_jax.evaluation.report import (
  labels,
  latency,
)
from collab_jax.evaluation.report import (
  text as text_lib,
)

Row = dict[str, Any]
Curves = dict[str, list[tuple[float, Row]]]


class Family(NamedTuple):
  """Links whose channels differ in one setting.

  Attributes:
    channel: Name of the channel, with the settings that all share.
    setting: Name of the one that differs.
    curves: By codec and transport, its values and the rows, in their order.
  """

  channel: str
  setting: str
  curves: Curves


def link_curves(rows: Sequence[Row]) -> list[Family]:
  """Groups the rows of links by what their channels have in common.

  Args:
    rows: From `summarize`; those of no link are left out.

  Returns:
    Families in the order of the rows; channels that differ in more than one
    setting make one for each.

  Raises:
    ValueError: A channel is none of this package's or of its module's.
  """
  found: dict[tuple[str, str], dict[str, Any]] = {}
  for row in rows:
    text = row['codec'].get('channel')
    if text is None:
      continue
    channel = channels.make(text)
    setting = _axis(channel)
    default = {
      f.name: f.default for f in dataclasses.fields(cast(Any, channel))
    }
    bare = dataclasses.replace(
      cast(Any, channel), **{setting: default[setting]}
    )
    key = channels.name(bare), setting
    label = row['name'].rsplit(' | ', 1)[0]
    curves = found.setdefault(key, {})
    curves.setdefault(label, []).append((getattr(channel, setting), row))
  return [
    Family(*key, {n: sorted(c, key=lambda p: p[0]) for n, c in curves.items()})
    for key, curves in found.items()
  ]


def _axis(channel: channels.Channel) -> str:
  """The setting on whose axis a channel's curves are drawn."""
  own = [f.name for f in dataclasses.fields(cast(Any, channel))]
  for name in ('snr', 'p', 'to_bad', 'rate'):
    if name in own:
      return name
  return own[0]


def link_table(
  rows: Sequence[Row], budget: channels.Budget | None = None
) -> str:
  """BLEU-4 by codec and channel, and what a picture costs.

  Args:
    rows: From `summarize`.
    budget: Powers and speeds; default those of `Budget`.

  Returns:
    For each family a block of BLEU-4, one of the share of all vectors' BLEU-4
    that is kept, if that is known, and one of bytes, time and energy.
  """
  budget = budget or channels.Budget()
  blocks = []
  for family in link_curves(rows):
    values = sorted({x for c in family.curves.values() for x, _ in c})
    head = [f'{family.setting}', *(f'{value:g}' for value in values)]

    def block(column, text, family=family, values=values, head=head):
      lines = [head]
      for name, curve in family.curves.items():
        at = {x: row[column] for x, row in curve}
        cells = (at.get(v) for v in values)
        lines.append([name, *('-' if c is None else text(c) for c in cells)])
      return text_lib.align(lines)

    parts = [family.channel, '', 'BLEU-4', block('bleu4', '{:.1f}'.format)]
    if labels.full(rows):
      title = "share of all vectors' BLEU-4 kept"
      parts += ['', title, block('kept', lambda v: f'{100 * v:.0f}%')]
    blocks.append('\n'.join([*parts, '', *_costs(family, budget)]))
  ends = [
    f'{labels.label(r)}: BLEU-4 {r["bleu4"]:.1f} +-{text_lib.half(r):.1f}'
    for r in text_lib.ends(rows)
  ]
  return '\n\n'.join([*blocks, '\n'.join(ends)]).rstrip()


def _costs(family: Family, budget: channels.Budget) -> list[str]:
  """What a picture costs at the first and the last value."""
  head = [family.setting, '', 'bytes', 'packets', 'ms edge', 'on air', 'link']
  lines = [[*head, 'server', 'total', 'mJ edge']]
  for name, curve in family.curves.items():
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
  return ['time and energy of a picture', text_lib.align(lines)]
