"""Time and energy of a caption: edge, link and server."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from collab_jax import _validate, channels

Row = Mapping[str, Any]

# From a bit an hour to more than any link has.
_RATES = 1e-7, 1e12

_EDGE, _SERVER = ('encode', 'quantize', 'pack'), ('decode', 'caption')


@dataclasses.dataclass(frozen=True)
class LinkRates:
  """Lossless links at several rates.

    LinkRates((50, 1000), delay_ms=20).table({'k-means++': row})

  Attributes:
    rates_kbps: Rates to look at, in thousands of bits a second.
    overhead_bytes: Added to every message, for the headers of other layers.
    delay_ms: From the last bit sent to the last bit received.
  """

  rates_kbps: tuple[float | int, ...] = (
    50,
    100,
    250,
    500,
    1000,
    2500,
    5000,
    10000,
  )
  overhead_bytes: int = 0
  delay_ms: float | int = 0.0

  def __post_init__(self):
    """Raises ValueError for numbers out of range."""
    if not self.rates_kbps:
      raise ValueError('rates_kbps: got none, expected one or more')
    for rate in self.rates_kbps:
      _validate.number('rates_kbps', rate, *_RATES)
    for name in ('overhead_bytes', 'delay_ms'):
      _validate.number(name, getattr(self, name), 0.0)

  def cost(
    self, row: Row, rate_kbps: float | int, budget: channels.Budget
  ) -> channels.Cost:
    """Returns the cost of a picture over a link of a rate.

    Args:
      row: From `summarize`, with bytes and measured seconds per picture.
      rate_kbps: Rate of the link.
      budget: Powers and speeds.
    """
    link = channels.RateLimited(1000 * rate_kbps, self.delay_ms / 1000)
    airtime = link.airtime(row['bytes'] + self.overhead_bytes)
    return cost(row, airtime + link.delay, airtime, budget)

  def table(
    self, rows: Mapping[str, Row], budget: channels.Budget | None = None
  ) -> list[dict[str, Any]]:
    """Returns the costs of some rows at all rates.

    Args:
      rows: Rows by the label to give them.
      budget: Powers and speeds; default those of `Budget`.

    Returns:
      {'codec', 'name', 'bytes', 'rate_kbps', 'edge', 'link', 'server',
      'total', 'joules'}, a line per codec and rate.
    """
    budget = budget or channels.Budget()
    lines = []
    for label, row in rows.items():
      codec = {'codec': label, 'name': row['name'], 'bytes': row['bytes']}
      for rate in self.rates_kbps:
        parts = self.cost(row, rate, budget)
        total = {'total': parts.seconds}
        lines.append({**codec, 'rate_kbps': rate, **parts._asdict(), **total})
    return lines


def cost(
  row: Row, link: float | int, airtime: float | int, budget: channels.Budget
) -> channels.Cost:
  """Returns the cost of a picture, from the seconds that were measured.

  Args:
    row: From `summarize`.
    link: Seconds until the message arrived.
    airtime: Seconds for which the sender transmitted.
    budget: Powers and speeds, and the formula.
  """
  edge, server = compute_seconds(row)
  return budget.cost(edge, link, airtime, server)


def compute_seconds(row: Row) -> tuple[float, float]:
  """Returns the seconds that edge and server compute; see `summarize`."""
  seconds = row['seconds']
  return _sum(seconds, _EDGE), _sum(seconds, _SERVER)


def _sum(seconds: Mapping[str, Any], stages: Sequence[str]) -> float:
  return sum((seconds.get(stage) or 0.0 for stage in stages), 0.0)
