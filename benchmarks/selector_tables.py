"""Tables of what `benchmarks.selector_times` measured."""

from collections.abc import Callable, Mapping, Sequence
import re
from typing import Any

from tools import markdown_table

Row = Mapping[str, Any]

_MARK = '<!-- times: {} -->'


def mark(name: str) -> str:
  """Returns the mark before and behind a model's tables on a page."""
  return _MARK.format(name)


def fill(page: str, name: str, found: Mapping[str, Any]) -> str:
  """Returns a page with a model's tables anew.

  Args:
    page: Text with the mark twice.
    name: Name of the model in the mark.
    found: From `selector_times.measure`.
  """
  ends = mark(name)
  return re.sub(
    f'{re.escape(ends)}\n(.*?\n)?{re.escape(ends)}',
    lambda match: f'{ends}\n\n{render(found)}\n\n{ends}',
    page,
    count=1,
    flags=re.S,
  )


def render(found: Mapping[str, Any]) -> str:
  """Returns all tables with their captions, as Markdown."""
  return '\n\n'.join(
    [
      _table(_PARTS, parts(found)),
      _settings(found),
      _table(['quantizer alone, ms', *_columns(found)], quantizers(found)),
      _table(['edge + server, ms', *_columns(found)], times(found)),
      (
        'Behind the stroke is the server that goes on with the sent vectors'
        ' alone, where the selector has that form. `-`: the selector sends no'
        ' such number of vectors.' + _left_out(found)
      ),
      _table(_ratio_head(found), ratios(found)),
      _formula(found),
    ]
  )


_PARTS = [
  *('program', 'vectors', 'ms', 'quartiles', 'limit, ms'),
  'share of the limit',
]


def parts(found: Mapping[str, Any]) -> list[list[str]]:
  """Returns the rows of the programs that selectors share."""
  return [
    [
      row['part'],
      str(row['vectors']),
      number(row['ms']),
      f'{number(row["low"])} to {number(row["high"])}',
      '' if row['limit_ms'] is None else number(row['limit_ms']),
      '' if row['share'] is None else f'{100 * row["share"]:.0f}%',
    ]
    for row in found['parts']
  ]


def quantizers(found: Mapping[str, Any]) -> list[list[str]]:
  """Returns a row of each selector's quantizer, the fastest first."""

  def cell(forms):
    row = forms['grid']
    low, high = number(row['quantize_low']), number(row['quantize_high'])
    return f'{number(row["quantize_ms"])} ({low} to {high})'

  return _by_selector(found, cell)


def times(found: Mapping[str, Any]) -> list[list[str]]:
  """Returns a row of the milliseconds of edge and server."""

  def cell(forms):
    servers = [number(row['server_ms']) for row in forms.values()]
    edge = number(next(iter(forms.values()))['edge_ms'])
    return f'{edge} + {" / ".join(servers)}'

  return _baselines(found, cell) + _by_selector(found, cell)


def ratios(found: Mapping[str, Any]) -> list[list[str]]:
  """Returns a row of shares of all vectors' time, and of joules.

  Selectors with equal cells share a row.
  """

  def cell(forms):
    rows = forms.values()
    shares = ' / '.join(f'{row["ratio"]:.2f}' for row in rows)
    joules = ' / '.join(_two_digits(row['joules']) for row in rows)
    return f'{shares} | {joules}'

  lines: dict[tuple[str, ...], list[str]] = {}
  both = _baselines(found, cell) + _by_selector(found, cell, '- | -')
  for name, *cells in both:
    lines.setdefault(tuple(cells), []).append(name)
  return [
    ['; '.join(names), *' | '.join(cells).split(' | ')]
    for cells, names in lines.items()
  ]


def _two_digits(value: float) -> str:
  digits = 0 if value >= 9.95 else 1 if value >= 0.995 else 2
  return f'{value:,.{digits}f}'


def number(value: float) -> str:
  """Returns a number with three digits, more before the point."""
  digits = 0 if value >= 99.95 else 1 if value >= 9.995 else 2
  return f'{value:,.{digits}f}'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
  return markdown_table.render(head, rows, flush_right=True)


def _columns(found: Mapping[str, Any]) -> list[str]:
  return [f'k={k}' for k in found['ks']]


def _ratio_head(found: Mapping[str, Any]) -> list[str]:
  columns = [text for k in _columns(found) for text in (f'{k} time', 'J')]
  return ['of all vectors', *columns]


def _by_selector(
  found: Mapping[str, Any],
  cell: Callable[[dict[str, Row]], str],
  missing: str = '-',
) -> list[list[str]]:
  """Returns a line for each selector, a cell for each k.

  Args:
    found: From `selector_times.measure`.
    cell: Makes a cell of the rows by form.
    missing: Cell where the selector does not send k vectors.
  """
  grouped: dict[str, dict[int, dict[str, Row]]] = {}
  for row in found['rows']:
    if row['form'] in ('grid', 'keep'):
      by_k = grouped.setdefault(row['selector'], {})
      by_k.setdefault(row['k'], {})[row['form']] = row

  def first(by_k):
    return next(iter(by_k[min(by_k)].values()))['quantize_ms']

  order = sorted(grouped, key=lambda name: first(grouped[name]))
  return [
    [
      name,
      *(
        cell(grouped[name][k]) if k in grouped[name] else missing
        for k in found['ks']
      ),
    ]
    for name in order
  ]


def _baselines(
  found: Mapping[str, Any], cell: Callable[[dict[str, Row]], str]
) -> list[list[str]]:
  """Returns a line for all vectors and each picture, which have no k."""
  return [
    [
      f'{row["selector"]}, {row["bytes"]:,.0f} B',
      *[cell({row['form']: row})] * len(found['ks']),
    ]
    for row in found['rows']
    if row['form'] in ('all', 'picture')
  ]


def _settings(found: Mapping[str, Any]) -> str:
  rates, load = found['rates'], found['load']
  dtype = found['compute_dtype']
  return (
    f'*{found["model"]}, {found["weights"]} weights,'
    f' {found["parameters"] / 1e6:,.0f}e6 numbers ({found["dtype"]}), one'
    f' picture at a time on {found["device"]}, {found["cores"]} cores, JAX'
    f' {found["versions"]["jax"]}, commit {found["commit"]}, load'
    f' {load[0]:.1f} to {load[1]:.1f}. Medians of {found["rounds"]} rounds over'
    f' {found["scenes"]} scenes; a prompt of {found["prompt_tokens"]} tokens, a'
    f' caption of {found["tokens"]}. Limits: {rates["products"] / 1e9:,.0f}e9'
    f' operations/s ({dtype}; for distances'
    f' {rates["float32"] / 1e9:,.0f}e9, float32 at the highest precision),'
    f' {rates["bandwidth"] / 1e9:.1f} GB/s, measured in the same run.*'
  )


def _formula(found: Mapping[str, Any]) -> str:
  budget = found['budget']
  return (
    '*time: edge and server without the link, in parts of all vectors'
    "'. J: energy of the edge by the formula of `channels.Budget`, all powers"
    f' assumed: {budget["edge_watts"]:g} W while it computes,'
    f' {budget["radio_watts"]:g} W more while it sends,'
    f' {budget["idle_watts"]:g} W while it waits for link and server; an uplink'
    f' of {found["uplink"] / 1e6:g} Mbit/s; edge and server as fast as this'
    ' machine.*'
  )


def _left_out(found: Mapping[str, Any]) -> str:
  late = sorted(
    {each['selector'] for each in found['refused'] if 'compiled' in each['why']}
  )
  return f' Not measured for want of time: {", ".join(late)}.' if late else ''
