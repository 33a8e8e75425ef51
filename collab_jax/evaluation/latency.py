"""How long a caption takes over a link: edge, air, server."""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

Row = Mapping[str, Any]

_EDGE, _SERVER = ('encode', 'quantize', 'pack'), ('decode', 'caption')


@dataclasses.dataclass(frozen=True)
class Link:
  """What lies between the measured seconds and those of a system.

  Attributes:
    rates_kbps: Rates of the link to look at, in thousands of bits a second.
    overhead_bytes: Added to every message, for the headers of other layers.
    delay_ms: From the last bit sent to the last bit received.
    edge_factor: How much slower the edge is than where it was measured.
    server_factor: The same of the server.
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
  edge_factor: float | int = 1.0
  server_factor: float | int = 1.0

  def __post_init__(self):
    """Raises ValueError for numbers out of range."""
    if not self.rates_kbps or min(self.rates_kbps) <= 0:
      raise ValueError(
        f'rates_kbps: got {self.rates_kbps}, expected one or more, all > 0'
      )
    for field in dataclasses.fields(self)[1:]:
      value = getattr(self, field.name)
      if not (math.isfinite(value) and value >= 0):
        raise ValueError(f'{field.name}: got {value}, expected at least 0')

  def latency(self, row: Row, rate_kbps: float | int) -> dict[str, float]:
    """Seconds from picture to caption.

    edge_factor * (encode + quantize)
      + 8 * (bytes + overhead_bytes) / rate + delay
      + server_factor * (decode + caption)

    Args:
      row: From `summarize`, with measured seconds per picture.
      rate_kbps: Of the link.

    Returns:
      {'edge', 'link', 'server', 'total'} in seconds.
    """
    parts: dict[str, float] = {
      'edge': self.edge_factor * edge_seconds(row),
      'link': 8 * (row['bytes'] + self.overhead_bytes) / (1000 * rate_kbps)
      + self.delay_ms / 1000,
      'server': self.server_factor * server_seconds(row),
    }
    return parts | {'total': sum(parts.values())}

  def table(self, rows: Mapping[str, Row]) -> list[dict[str, Any]]:
    """Latencies of some rows at all rates.

    Args:
      rows: By what to call them.

    Returns:
      {'codec', 'name', 'bytes', 'rate_kbps', 'edge', 'link', 'server',
      'total'}, a line per codec and rate.
    """
    return [
      {
        'codec': label,
        'name': row['name'],
        'bytes': row['bytes'],
        'rate_kbps': rate,
        **self.latency(row, rate),
      }
      for label, row in rows.items()
      for rate in self.rates_kbps
    ]


def edge_seconds(row: Row) -> float:
  """Measured seconds of the edge: encoder, quantizer and wire."""
  return _sum(row['seconds'], _EDGE)


def server_seconds(row: Row) -> float:
  """Measured seconds of the server: what is rebuilt, and the caption."""
  return _sum(row['seconds'], _SERVER)


def _sum(seconds: Mapping[str, Any], stages: Sequence[str]) -> float:
  return sum((seconds.get(stage) or 0.0 for stage in stages), 0.0)
