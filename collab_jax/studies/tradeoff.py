"""From a config to files: what is evaluated, reported and drawn."""

from collections.abc import Mapping, Sequence
import os
from pathlib import Path
import textwrap
from typing import Any, cast

import ml_collections

from collab_jax import evaluation, jsonl, plots, provenance
from collab_jax.models import paligemma
from collab_jax.studies import build


def evaluate(
  config: ml_collections.ConfigDict,
  path: str | os.PathLike[str],
  progress: bool = True,
  checked: bool = False,
) -> list[dict[str, Any]]:
  """Makes the records of a config, or what is missing of them.

  Args:
    config: From configs/tradeoff.py or configs/paligemma_coco.py.
    path: JSONL file of the records.
    progress: Show a bar.
    checked: Whether `check` passed already: it may load an image encoder.

  Returns:
    The records.
  """
  specs = build.make_specs(config) if checked else build.check(config)
  model = build.load_model(config)
  made = [spec.bind(model) for spec in specs]
  return evaluate_codecs(made, config, model, path, progress)


def evaluate_codecs(
  made: Sequence[Any],
  config: ml_collections.ConfigDict,
  model: paligemma.Model,
  path: str | os.PathLike[str],
  progress: bool = True,
) -> list[dict[str, Any]]:
  """Makes the records of codecs as a config says; see `evaluate`.

  Args:
    made: Codecs and links of the model.
    config: What was checked.
    model: From `settings.load_model`.
    path: JSONL file of the records.
    progress: Show a bar.
  """
  fields = cast(Any, config)
  return evaluation.evaluate(
    made,
    captioner=build.make_captioner(config, model),
    data=build.make_data(config, model.config.vision.image_size),
    seeds=tuple(fields.seeds),
    path=path,
    batch_size=fields.batch_size,
    workers=fields.workers,
    progress=progress,
    blind=tuple(fields.blind),
  )


def report(
  records: Sequence[Mapping[str, Any]],
  workdir: str | os.PathLike[str],
  config: ml_collections.ConfigDict | None = None,
  **draws: Any,
) -> str:
  """Writes Fig. 3, its table and summary.json, and returns what to print.

  Args:
    records: From `evaluate` or `evaluation.read_records`.
    workdir: Folder to write to.
    config: What the records were made with, if known.
    **draws: Arguments of `evaluation.summarize`.

  Returns:
    The table by method and k, and the paper's claims beside what was found.
  """
  if config is not None:
    draws = {n: config[n] for n in ('resamples', 'level', 'seed')} | draws
  rows = evaluation.summarize(records, **draws)
  workdir = Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  findings = evaluation.findings(rows)
  (workdir / 'table.txt').write_text(evaluation.table(rows) + '\n')
  if evaluation.curves(rows):
    plots.save(plots.tradeoff(rows, x='ratio'), workdir / 'fig3')
    plots.save(plots.tradeoff(rows, x='bytes'), workdir / 'fig3_bytes')
  summary = {
    'settings': config.to_dict() if config is not None else None,
    'made_with': provenance.provenance(),
    'findings': findings,
    'rows': rows,
  }
  jsonl.write_json(workdir / 'summary.json', summary)
  shown = evaluation.pivot if evaluation.curves(rows) else evaluation.scores
  text = [shown(rows), '']
  for line in findings:
    text += textwrap.wrap(line, 78, subsequent_indent='  ')
  return '\n'.join(text)


def describe_run(config: ml_collections.ConfigDict) -> str:
  """The settings of a run in a line or two."""
  fields = cast(Any, config)
  made = provenance.provenance()
  jax_version = made['versions']['jax']
  more = f', {len(fields.codecs)} codecs' if fields.codecs else ''
  return (
    f'{fields.model} model, up to {fields.limit} of'
    f' {fields.data}/{fields.data_split},'
    f' {len(fields.methods)} methods x {len(fields.ks)} k x'
    f' {len(fields.seeds)} seeds{more}, split after the {fields.split}\n'
    f'jax {jax_version} on {made["device"]}, {made["cores"]} cores,'
    f' commit {made["commit"] or "unknown"}'
  )


def draw_fig2(config: ml_collections.ConfigDict, stem: Path):
  """Saves Fig. 2 of a picture with many things in it."""
  fields = cast(Any, config)
  model = build.load_model(config)
  captioner = build.make_captioner(config, model)
  data = build.make_data(config, model.config.vision.image_size)
  examples = [data[i] for i in range(min(24, len(data)))]
  best = max(examples, key=lambda e: len(e.captions[0]))
  size = min(fields.batch_size, len(data))
  figure = plots.fig2(model, best.image, captioner=captioner, batch_size=size)
  plots.save(figure, stem)


def list_files(folder: str | os.PathLike[str]) -> str:
  """The files of a folder, on one line."""
  return ' '.join(sorted(p.name for p in Path(folder).iterdir()))
