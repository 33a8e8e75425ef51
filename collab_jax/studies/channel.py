"""Captions over channels that lose packets, and over radio links."""

from collections.abc import Sequence
from typing import Any

from collab_jax import channels, codecs, evaluation, plots
from collab_jax.codecs import transports
from collab_jax.studies import study


class ChannelStudy(study.Study):
  """Study of links over swept channels, from configs/channel.py.

  ChannelStudy(channel.get_config()).run('runs/channel/records.jsonl')
  """

  def make_specs(self) -> list[codecs.CodecSpec]:
    """Returns the specs of all links, sweep by sweep, and of all vectors.

    Raises:
      ValueError: There is nothing to send or no value to sweep, or no such
        codec, channel or transport.
      ImportError: A module cannot be imported.
    """
    fields = self._fields
    if not fields.studies:
      raise ValueError('studies: got none, expected one or more')
    specs: list[codecs.CodecSpec] = []
    for name, sweep in fields.studies.items():
      values = parse_channels(sweep)
      if not sweep['sent']:
        raise ValueError(f'sent: got none in {name!r}, expected one or more')
      for text in sweep['sent']:
        codec, transport = parse_sent(text, fields.split)
        specs += [codecs.LinkSpec(codec, transport, c) for c in values]
    if fields.full:
      specs.append(codecs.parse('identity', fields.split))
    return specs

  def _validate(self) -> list[codecs.CodecSpec]:
    channels.Budget(**self._fields.budget)
    return super()._validate()

  def analyze(
    self, records: Sequence[study.Record], rows: study.Rows
  ) -> study.Report:
    """Returns scores and costs by codec and channel; see `Study`."""
    del records
    budget = channels.Budget(**self._fields.budget)
    return study.Report(
      text=evaluation.link_table(rows, budget),
      table=evaluation.link_table(rows, budget, complete=True),
      figures={'channel': plots.channel(rows)},
      summary={},
    )


def parse_sent(text: str, split: str) -> tuple[codecs.CodecSpec, Any]:
  """Reads a codec and how its messages are sent.

  Args:
    text: 'kmeans(k=16) | rows(parity=4)'; see `codecs.parse` and
      `codecs.transports`.
    split: Where a quantizer cuts the model.

  Returns:
    The codec's spec, and a transport.

  Raises:
    ValueError: It is not of that form, or there is no such thing.
    ImportError: A module cannot be imported.
  """
  codec, bar, transport = map(str.strip, text.partition('|'))
  if not bar:
    raise ValueError(
      f"sent: got {text!r}, expected 'codec | transport', for instance"
      " 'kmeans(k=16) | rows(parity=4)'"
    )
  return codecs.parse(codec, split), transports.make(transport)


def parse_channels(sweep: Any) -> list[channels.Channel]:
  """Reads the channels of a sweep, one for each of its values.

  Args:
    sweep: 'channel', with braces where each of 'values' goes.

  Raises:
    ValueError: There are no values, or there is no such channel.
    ImportError: Its module cannot be imported.
  """
  values, text = sweep['values'], sweep['channel']
  if not values:
    raise ValueError(
      f'values: got none, expected one or more to put into {text!r}'
    )
  return [channels.make(text.replace('{}', str(value))) for value in values]
