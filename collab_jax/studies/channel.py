"""From a config to figures of captions over channels."""

from collections.abc import Mapping, Sequence
import os
from pathlib import Path
from typing import Any, cast

import ml_collections

from collab_jax import channels, codecs, evaluation, jsonl, plots, provenance
from collab_jax.codecs import transports
from collab_jax.studies import (
  build,
  tradeoff,
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


def parse_channels(study: Any) -> list[channels.Channel]:
  """Reads the channels of a study: one for each of its values.

  Args:
    study: 'channel', with braces where each of 'values' goes.

  Raises:
    ValueError: There are no values, or there is no such channel.
    ImportError: Its module cannot be imported.
  """
  values, text = study['values'], study['channel']
  if not values:
    raise ValueError(
      f'values: got none, expected one or more to put into {text!r}'
    )
  return [channels.make(text.replace('{}', str(value))) for value in values]


def check_links(config: ml_collections.ConfigDict) -> list[codecs.LinkSpec]:
  """Checks what would otherwise be refused late.

  Args:
    config: From configs/channel.py.

  Returns:
    The specs of its links, study by study.

  Raises:
    ValueError: As `settings.check`, there is nothing to send or no such
      channel or transport, or the transport is not for the codec or channel:
      messages, or a picture of noise, make too many packets.
    ImportError: A module cannot be imported.
  """
  fields = cast(Any, config)
  channels.Budget(**fields.budget)
  model = build.check_model(config)
  encoder = build.find_encoder(config)
  if not fields.studies:
    raise ValueError('studies: got none, expected one or more')
  specs = []
  for name, study in fields.studies.items():
    over = parse_channels(study)
    if not study['sent']:
      raise ValueError(f'sent: got none in {name!r}, expected one or more')
    for text in study['sent']:
      codec, transport = parse_sent(text, fields.split)
      links = [codecs.LinkSpec(codec, transport, channel) for channel in over]
      specs += [link.validate(model, encoder) for link in links]
  return specs


def evaluate_links(
  config: ml_collections.ConfigDict,
  path: str | os.PathLike[str],
  progress: bool = True,
) -> list[dict[str, Any]]:
  """Makes the records of a config, or what is missing of them.

  Args:
    config: From configs/channel.py.
    path: JSONL file of the records.
    progress: Show a bar.

  Returns:
    The records.
  """
  specs: list[codecs.CodecSpec] = [*check_links(config)]
  fields = cast(Any, config)
  if fields.full:
    specs.append(codecs.parse('identity', fields.split))
  model = build.load_model(config)
  made = [spec.bind(model) for spec in specs]
  return tradeoff.evaluate_codecs(made, config, model, path, progress)


def report_links(
  records: Sequence[Mapping[str, Any]],
  workdir: str | os.PathLike[str],
  config: ml_collections.ConfigDict,
) -> str:
  """Writes a figure a study, the table and summary.json.

  Args:
    records: From `evaluate_links`.
    workdir: Folder to write to.
    config: What they were made with.

  Returns:
    What to print: BLEU-4 by codec and channel, and what a picture costs.
  """
  fields, workdir = cast(Any, config), Path(workdir)
  rows = evaluation.summarize(
    records,
    resamples=fields.resamples,
    level=fields.level,
    seed=fields.seed,
  )
  workdir.mkdir(parents=True, exist_ok=True)
  figure = plots.channel(rows)
  plots.save(figure, workdir / 'channel')
  budget = channels.Budget(**fields.budget)
  text = evaluation.link_table(rows, budget)
  (workdir / 'table.txt').write_text(text + '\n')
  summary = {
    'settings': config.to_dict(),
    'made_with': provenance.provenance(),
    'rows': rows,
  }
  jsonl.write_json(workdir / 'summary.json', summary)
  return text
