"""Labels of links in words: what is sent, in what packets, over what."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from collab_jax.evaluation.report import labels, rate, settings

Row = Mapping[str, Any]
Settings = Mapping[str, Any]


def codec(row: Row) -> str:
  """Returns the codec of a link's row in words, with its k or quality.

  'k-means++ + PCA + scalar, k = 16', or 'JPEG 64 px, stripped, quality 85'.

  Args:
    row: From `summarize`, or a record.
  """
  if labels.is_picture(row):
    return f'{labels.label(row, link=False)}, quality {row["codec"]["quality"]}'
  inner = settings.quantizer(row)
  if inner is None:
    return labels.label(row, link=False)
  family = rate.family({**row, 'settings': _without_link(row)})
  return f'{family}, k = {row["sent"]}'


def _without_link(row: Row) -> dict[str, Any]:
  """Returns the nested settings of the codec in a link."""
  kinds = 'transport', 'channel'
  return {n: v for n, v in settings.nested(row).items() if n not in kinds}


def transport(row: Row) -> str:
  """Returns a link's transport in words: 'packets of 64 bytes'.

  Args:
    row: From `summarize`, or a record.

  Returns:
    The words; the canonical name of a transport of one's own.
  """
  value = settings.nested(row)['transport']
  describe = _TRANSPORTS.get(value['transport'])
  return describe(value) if describe else settings.text(value)


def _whole(value: Settings) -> str:
  if not value['mtu']:
    return 'in one packet'
  parity = f', parity for {100 * value["loss"]:g}%' if value['loss'] else ''
  return f'packets of {value["mtu"]} bytes{parity}'


def _filled(value: Settings) -> str:
  return f'packets of {value["mtu"]} bytes, zeros for lost ones'


def _rows(value: Settings) -> str:
  several = value['per_packet']
  name = 'a vector a packet' if several == 1 else f'{several} vectors a packet'
  if value['parity']:
    name += f', {value["parity"]} of parity'
  if value['layers']:
    name += f', {value["layers"]} safe layer' + 's' * (value['layers'] > 1)
  return name


def _analog(value: Settings) -> str:
  del value
  return 'vectors as analog symbols'


_TRANSPORTS: dict[str, Callable[[Settings], str]] = {
  'whole': _whole,
  'filled': _filled,
  'rows': _rows,
  'analog': _analog,
}


def channel(rows: Sequence[Row]) -> str:
  """Returns the channel of a sweep's rows in words, for a heading.

  'Packets lost at random', 'Radio link, block fading, 2 retries'.

  Args:
    rows: Rows of links whose channels differ in numbers only.

  Returns:
    The words; the canonical name of a channel of one's own.
  """
  value = settings.nested(rows[0])['channel']
  describe = _CHANNELS.get(value['channel'])
  return describe(value) if describe else settings.text(value)


def _physical(value: Settings) -> str:
  noise = {'none': 'white noise', 'block': 'block fading'}
  fading = noise.get(value['fading'], f'{value["fading"]} fading')
  again = value['retries']
  retries = f', {again} retr' + ('y' if again == 1 else 'ies') if again else ''
  return f'Radio link, {fading}{retries}'


_CHANNELS: dict[str, Callable[[Settings], str]] = {
  'ideal': lambda value: 'No losses',
  'rate_limited': lambda value: 'Slow link without losses',
  'bit_errors': lambda value: 'Bits flipped at random',
  'erasure': lambda value: 'Packets lost at random',
  'gilbert_elliott': lambda value: 'Packets lost in bursts',
  'physical': _physical,
}
