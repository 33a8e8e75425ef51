"""A model trained through the bottleneck, compared with its start model."""

from collections.abc import Mapping, Sequence
import os
from pathlib import Path
from typing import Any, cast

import ml_collections

from collab_jax import (
  _precision,
  distributed,
  evaluation,
  monitoring,
  plots,
  sharding,
)
from collab_jax.evaluation.report import columns, labels, settings, text
from collab_jax.models import paligemma
from collab_jax.quantizers import pretrained
from collab_jax.studies import build, headline, html_report, rate, study
from collab_jax.training import (
  codebooks,
  finetune,
  train_loop,
)
from collab_jax.training import validate as training
from collab_jax.training.codebooks import validate

# Labels of the models: the start model, one trained as long without the
# quantizer, and one trained with it.
START, PLAIN, THROUGH = 'training-free', 'trained without', 'trained through'


class FinetuneStudy(study.Study):
  """Study of training through the quantizer, from configs/finetune.py.

    study = FinetuneStudy(config, rate_config, {'merged': codebook_config})
    study.validate()
    print(study.report(study.run('runs/finetune'), 'runs/finetune'))

  Each model is compared by a `RateStudy` with quantizer parameters of its own.
  """

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    rate_config: ml_collections.ConfigDict | None = None,
    books: Mapping[str, ml_collections.ConfigDict] | None = None,
  ):
    """Binds configs; nothing is checked or loaded yet.

    Args:
      config: From configs/finetune.py.
      rate_config: From configs/rate.py; in codecs, names in braces stand for
        files of quantizer parameters. None to train only.
      books: How those files are trained, by name: from configs/codebook.py.
    """
    super().__init__(config)
    self._rate: Any = rate_config
    self._books = books or {}

  def validate(self) -> None:
    """Checks the training, and how models will be compared after it.

    Raises:
      ValueError: As `RateStudy.validate`, a codec names a file that is not
        trained, or one of `compare.kept` is none of the codecs.
      ImportError: As `RateStudy.validate`.
    """
    training.check(self.config, self.dimensions)
    if self._rate is None:
      return
    untrained = dict.fromkeys(self._books, pretrained.RANDOM)
    try:
      codecs = [name.format(**untrained) for name in self._rate.codecs]
    except KeyError as error:
      raise ValueError(
        f'compare.rate.codecs: got the book {error}, expected one of'
        f' {", ".join(self._books)}'
      ) from error
    compare = self._fields.compare
    self._rate_study(self._fields.model, [*codecs, *compare.shipped]).validate()
    for name in compare.kept:
      if not any(codec.startswith(name) for codec in codecs):
        raise ValueError(
          f'compare.kept: got {name!r}, expected the beginning of one of'
          ' compare.rate.codecs'
        )

  def describe(self) -> str:
    """Returns the headline: model, data, devices, and the work ahead."""
    fields = self._fields
    kinds = ('through the quantizer',)
    if self._rate is not None:
      kinds += ('without it', 'and their comparison')
    return headline.training(
      self.dimensions,
      f'{fields.data}/{fields.data_split}',
      f'{fields.steps:,} steps of {fields.batch_size} pictures'
      f' {", ".join(kinds)}',
      build.make_mesh(self.config),
    )

  def _rate_study(
    self,
    name: str,
    codecs: Sequence[str],
    model: paligemma.Model | None = None,
  ) -> rate.RateStudy:
    config = self._rate_config(name)
    config.codecs = tuple(codecs)
    return rate.RateStudy(config, (lambda: model) if model else None)

  def _rate_config(self, name: str) -> Any:
    """Returns the config of a comparison for a model, by name or folder."""
    config = self._rate.copy_and_resolve_references()
    config.model = name
    if name == self._fields.model:
      config.model_path = self._fields.model_path
    return config

  def train(
    self, workdir: str | os.PathLike[str], both: bool = True
  ) -> dict[str, str]:
    """Trains with the quantizer, then as long without it.

    Args:
      workdir: Gets a folder for each; a model that is there is kept.
      both: False leaves out the second.

    Returns:
      The folder of each model, by label; the start model first.

    Raises:
      ValueError: As `finetune.finetune`, or a model that is there was made with
        other settings.
    """
    with _precision.matmul_precision(self._fields.precision):
      return self._train(workdir, both)

  def _train(self, workdir, both: bool) -> dict[str, str]:
    config = self.config.copy_and_resolve_references()
    with config.unlocked():
      del config.compare
    plain: Any = config.copy_and_resolve_references()
    plain.quantizers = ()
    folders = {}
    for label, recipe in ((THROUGH, config), (PLAIN, plain))[: 1 + both]:
      folder = html_report.model_folder(workdir, label)
      folders[label] = str(folder / 'model')
      model = build.load_model(self.config, layout='stacked')
      is_done = (folder / 'model' / 'config.json').exists()
      if distributed.broadcast(is_done):
        depends_on = finetune.depends_on(recipe, model)
        train_loop.open_run(recipe, folder, finetune.PLACES, depends_on)
      else:
        print(f'{label}:', flush=True)
        if (mesh := build.make_mesh(self.config)) is not None:
          print(sharding.describe(mesh), flush=True)
        with monitoring.group(folder.name):
          finetune.finetune(recipe, model, folder)
      del model  # Before the next one is loaded.
    folders[START] = self._fields.model
    return {n: folders[n] for n in (START, PLAIN, THROUGH) if n in folders}

  def run(self, path: str | os.PathLike[str], progress: bool = True) -> Any:
    """Trains both models, and makes records of each.

    Args:
      path: Folder that gets models, quantizer parameters and records.
      progress: Show a bar.

    Returns:
      The records by the label of the model.
    """
    with _precision.matmul_precision(self._fields.precision):
      return self._compare(path, progress)

  def _compare(self, path, progress: bool) -> dict[str, list[dict[str, Any]]]:
    records: dict[str, list[dict[str, Any]]] = {}
    for label, name in self.train(path).items():
      folder = html_report.model_folder(path, label)
      config = self._rate_config(name)
      model = build.load_model(config)
      paths = make_books(model, self._books, folder)
      codecs = [codec.format(**paths) for codec in config.codecs]
      if label == START:
        codecs += self._fields.compare.shipped
      plural = '' if len(codecs) == 1 else 's'
      print(f'{label}: {len(codecs)} codec{plural}', flush=True)
      comparison = self._rate_study(name, codecs, model)
      records[label] = comparison.run(folder / 'records.jsonl', progress)
    return records

  def report(self, records: Any, workdir: str | os.PathLike[str]) -> str:
    """Writes a figure, table.txt and summary.json.

    Args:
      records: From `run`.
      workdir: Folder to write to, the one of `run`.

    Returns:
      The tables; of several processes the first alone writes them.
    """
    if not distributed.is_first():
      return ''
    kept = self._fields.compare.kept
    return write_comparison(records, workdir, self._rate, kept)


def make_books(
  model: paligemma.Model,
  configs: Mapping[str, ml_collections.ConfigDict],
  workdir: Path,
) -> dict[str, str]:
  """Trains quantizer parameters of a model's features.

  Args:
    model: The model.
    configs: From configs/codebook.py; in a transform, names in braces stand for
      the files before.
    workdir: Gets a folder for each file; files that exist are kept.

  Returns:
    The path of each file, by the names of the configs.

  Raises:
    ValueError: A folder holds a file of other settings; else as
      `codebooks.train`.
  """
  paths: dict[str, str] = {}
  for name, config in configs.items():
    path = workdir / name / 'book.safetensors'
    resolved = cast(Any, config.copy_and_resolve_references())
    resolved.transform = resolved.transform.format(**paths)
    validate.check(resolved, model)
    # Paths are left out, so that the folder may move.
    reader = build.make_data(resolved, model.config.vision.image_size)
    depends_on = train_loop.codebook_dependencies(resolved, model, reader)
    train_loop.open_run(config, path.parent, finetune.PLACES, depends_on)
    if not distributed.broadcast(path.exists()):
      codebooks.train(resolved, model, reader, path.parent)
      if distributed.is_first():
        for dump in path.parent.glob('*.npy'):
          dump.unlink()
    paths[name] = str(path)
  return paths


def write_comparison(
  records: Mapping[str, Sequence[study.Record]],
  workdir: str | os.PathLike[str],
  config: ml_collections.ConfigDict,
  kept: Sequence[str],
) -> str:
  """Writes figure, table and summary.json of models, and returns the text.

  Args:
    records: Records by the label of the model, the start model first.
    workdir: Folder to write to, which names of codecs leave out.
    config: From configs/rate.py, that of the records.
    kept: Beginnings of the names of codecs whose score is shown beside that of
      all vectors.

  Returns:
    The tables.
  """
  draws = build.draws_of(config)
  metrics = build.metrics_of(config)
  rows = {
    name: evaluation.summarize(group, metrics=metrics, **draws)
    for name, group in records.items()
  }
  recorded = {name: [*map(dict, group)] for name, group in rows.items()}
  for label, group in rows.items():
    with monitoring.group(html_report.model_folder('', label).name):
      study.write_scores(group)
    folder = f'{html_report.model_folder(workdir, label)}{os.sep}'
    for row in group:
      row['settings'] = settings.relative(row['settings'], folder)
      row['name'] = labels.text(row).replace(folder, '')
  models = list(rows)
  deltas = {
    f'{models[n]} against {models[anchor]}': evaluation.bd_rate(
      records[models[n]], records[models[anchor]], y=metrics[0], **draws
    )
    for n, anchor in ((2, 0), (2, 1), (1, 0))
    if max(n, anchor) < len(models)
  }
  lines = [_kept_table(rows, kept), '']
  column = columns.column(rows[models[0]])
  lines += [
    f'BD-rate, {name}: {_percent(delta, column)}'
    for name, delta in deltas.items()
  ]
  for label, group in rows.items():
    lines += ['', f'{label}:', evaluation.rate_table(group, fronts_only=True)]
  shown = '\n'.join(lines)
  tables = [f'{n}:\n{evaluation.table(group)}' for n, group in rows.items()]
  figures = {'finetune_rate': plots.tuned(rows)}
  mesh = sharding.sizes(build.make_mesh(config))
  summary = {'mesh': mesh, 'bd_rate': deltas}
  report = study.Report(shown, '\n\n'.join([shown, *tables]), figures, summary)
  text_shown = study.write_report(
    report, rows, workdir, config.to_dict(), evaluated=True
  )
  html_report.write(
    workdir, {n: (r, recorded[n], None) for n, r in records.items()}
  )
  return text_shown


def _kept_table(rows: Mapping[str, study.Rows], kept: Sequence[str]) -> str:
  """Returns scores by codec and model, and their shares of all vectors'."""
  lines = [['codec', *rows]]
  for name in kept:
    cells = []
    for group in rows.values():
      row = next(row for row in group if labels.text(row).startswith(name))
      column = columns.column(group)
      top = cast(Any, evaluation.full(group))[column.name]
      share = '-'
      if top and column.higher_is_better:
        share = f'{100 * row[column.name] / top:.1f}%'
      cells.append(f'{column.text(row)} [{column.interval(row, ", ")}] {share}')
    lines.append([name, *cells])
  return text.align(lines)


def _percent(delta: Mapping[str, Any], column: columns.Column) -> str:
  """Returns a delta rate with its interval, or why there is none."""
  if delta['bd_rate'] is None:
    return delta['why']
  percent = f'{100 * delta["bd_rate"]:+.0f}%'
  if delta['low'] is not None:
    percent += f' [{100 * delta["low"]:+.0f}, {100 * delta["high"]:+.0f}]'
  low, high = map(column.write, delta['scores'])
  return f'{percent} over {column.label} {low} to {high}'
