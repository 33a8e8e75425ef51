"""From a config to figures of captions over channels."""

from collections.abc import Mapping, Sequence
import os
from pathlib import Path
from typing import Any, cast

import ml_collections

from collab_jax import channels, codecs, evaluation, jsonl, plots, provenance
from collab_jax.codecs import spec
from collab_jax.codecs.transports import names
from collab_jax.models import paligemma
from collab_jax.studies import (
  build,
  tradeoff,
)


def parse_sent(text: str) -> tuple[Any, Any]:
  """Reads a codec and how its messages are sent.

  Args:
    text: 'kmeans(k=16) | rows(parity=4)'; see `settings.parse_codec` and
      `codecs.transport`.

  Returns:
    What `settings.make_codec` takes, and a transport.

  Raises:
    ValueError: It is not of that form, or there is no such thing.
    ImportError: A module cannot be imported.
  """
  codec, bar, by = map(str.strip, text.partition('|'))
  if not bar:
    raise ValueError(
      f"sent: got {text!r}, expected 'codec | transport', for instance"
      " 'kmeans(k=16) | rows(parity=4)'"
    )
  return build.parse_codec(codec), names.make(by)


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


def make_links(
  config: ml_collections.ConfigDict, model: paligemma.Model
) -> list[codecs.Link]:
  """All links that a config asks for, study by study."""
  fields = cast(Any, config)
  links = []
  for study in fields.studies.values():
    for text in study['sent']:
      made, by = parse_sent(text)
      codec = build.make_codec(made, model, fields.split)
      links += [codecs.Link(codec, c, by) for c in parse_channels(study)]
  return links


def check_links(config: ml_collections.ConfigDict) -> None:
  """Checks what would otherwise be refused late.

  Args:
    config: From configs/channel.py.

  Raises:
    ValueError: As `settings.check`, there is nothing to send or no such
      channel or transport, or the transport is not for the codec or channel:
      messages, or a picture of noise, make too many packets.
    ImportError: A module cannot be imported.
  """
  fields = cast(Any, config)
  channels.Budget(**fields.budget)
  vision = build.check_model(config).vision
  encoder = build.find_encoder(config)
  if not fields.studies:
    raise ValueError('studies: got none, expected one or more')
  width = vision.width if fields.split == 'encoder' else vision.out_dim
  for name, study in fields.studies.items():
    over = parse_channels(study)
    if not study['sent']:
      raise ValueError(f'sent: got none in {name!r}, expected one or more')
    for text in study['sent']:
      made, by = parse_sent(text)
      build.check_codec(made, vision, fields.split, encoder)
      if isinstance(made, codecs.ImageSettings):
        made = codecs.PicturePlan(made, vision.image_size)
      else:
        made = codecs.Plan(made, vision.num_tokens, width)
      for channel in over:
        spec.check(made, channel, by)


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
  check_links(config)
  fields = cast(Any, config)
  model = build.load_model(config)
  made = make_links(config, model)
  if fields.full:
    made = [*made, build.make_codec('identity', model, fields.split)]
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
