"""A model trained through the bottleneck beside what it was made from."""

from collections.abc import Mapping, Sequence
import os
from pathlib import Path
from typing import Any, cast

import ml_collections

from collab_jax import evaluation, jsonl, plots, provenance
from collab_jax.evaluation.report import text as text_lib
from collab_jax.models import paligemma
from collab_jax.quantizers import pretrained as quantizer_books
from collab_jax.studies import (
  build,
  tradeoff,
)
from collab_jax.studies.rate import check_rate
from collab_jax.training import (
  codebooks,
  finetune,
  train_loop,
)
from collab_jax.training.codebooks import validate

# What a model is called in the table: where it starts, as much training without
# the quantizer, and with it.
START, PLAIN, THROUGH = 'training-free', 'trained without', 'trained through'


def check_tuned(
  config: ml_collections.ConfigDict,
  rate: ml_collections.ConfigDict,
  books: Sequence[str],
) -> None:
  """Checks how models will be compared, before they are trained.

  Args:
    config: From configs/finetune.py.
    rate: What `evaluate_tuned` takes.
    books: Names of the books that there will be.

  Raises:
    ValueError: As `check_rate`, a codec reads another book, or one of
      `compare.kept` is none of the codecs.
    ImportError: As `check_rate`.
  """
  fields, own = cast(Any, config), cast(Any, rate.copy_and_resolve_references())
  drawn = dict.fromkeys(books, quantizer_books.RANDOM)
  try:
    codecs = [text.format(**drawn) for text in own.codecs]
  except KeyError as error:
    raise ValueError(
      f'compare.rate.codecs: got the book {error}, expected one of'
      f' {", ".join(books)}'
    ) from error
  own.model, own.codecs = fields.model, (*codecs, *fields.compare.shipped)
  check_rate(own)
  for text in fields.compare.kept:
    if not any(codec.startswith(text) for codec in codecs):
      raise ValueError(
        f'compare.kept: got {text!r}, expected what one of compare.rate.codecs'
        ' begins with'
      )


def tune_both(
  config: ml_collections.ConfigDict,
  workdir: str | os.PathLike[str],
  both: bool = True,
) -> dict[str, str]:
  """Trains with the quantizer, then as much without it.

  Args:
    config: From configs/finetune.py.
    workdir: Gets a folder for each; a model that is there is kept.
    both: False leaves out the second.

  Returns:
    Where each model is, by name.

  Raises:
    ValueError: As `finetune.finetune`, or a model that is there was made with
      other settings.
  """
  workdir, found = Path(workdir), {}
  plain = config.copy_and_resolve_references()
  plain.quantizers = ()
  for name, own in ((THROUGH, config), (PLAIN, plain))[: 1 + both]:
    own = own.copy_and_resolve_references()
    with own.unlocked():
      del own.compare
    folder = workdir / name.replace(' ', '_')
    done = folder / 'model'
    if (done / 'config.json').exists():
      train_loop.open_run(own, folder)
    else:
      print(f'{name}:', flush=True)
      model = build.load_model(config, layout='stacked')
      finetune.finetune(own, model, folder)
      del model  # Before the next one is loaded.
    found[name] = str(done)
  # In the order of the table.
  named = {START: cast(Any, config).model, **found}
  return {n: named[n] for n in (START, PLAIN, THROUGH) if n in named}


def make_books(
  model: paligemma.Model,
  configs: Mapping[str, ml_collections.ConfigDict],
  workdir: Path,
) -> dict[str, str]:
  """Trains the books of a model's features, as experiments/train_codebook.py.

  Args:
    model: The model.
    configs: From configs/codebook.py; in a transform, names in braces stand for
      the books before.
    workdir: Gets a folder for each book; one that is there is kept.

  Returns:
    The path of each, by the names of the configs.

  Raises:
    ValueError: A folder holds a book of other settings; else as
      `codebooks.train`.
  """
  found: dict[str, str] = {}
  for name, config in configs.items():
    path = workdir / name / 'book.safetensors'
    own = cast(Any, config.copy_and_resolve_references())
    own.transform = own.transform.format(**found)
    validate.check(own, model)
    # Paths are left out, so that the folder may move.
    train_loop.open_run(config, path.parent)
    if not path.exists():
      reader = build.make_data(own, model.config.vision.image_size)
      codebooks.train(own, model, reader, path.parent)
      for spool in path.parent.glob('*.npy'):
        spool.unlink()
    found[name] = str(path)
  return found


def evaluate_tuned(
  models: Mapping[str, str],
  rate: ml_collections.ConfigDict,
  books: Mapping[str, ml_collections.ConfigDict],
  shipped: Sequence[str],
  workdir: str | os.PathLike[str],
) -> dict[str, list[dict[str, Any]]]:
  """Makes books and records of each model.

  Args:
    models: Where each is, by name.
    rate: From configs/rate.py; in codecs, names in braces stand for books.
    books: From configs/codebook.py, by name.
    shipped: Codecs of the first model only.
    workdir: Gets books and records of each.

  Returns:
    The records of each.
  """
  records = {}
  for name, path in models.items():
    folder = Path(workdir) / name.replace(' ', '_')
    config = cast(Any, rate.copy_and_resolve_references())
    config.model = path
    model = build.load_model(config)
    own = make_books(model, books, folder)
    codecs = [text.format(**own) for text in config.codecs]
    config.codecs = (*codecs, *(() if records else shipped))
    print(f'{name}: {len(config.codecs)} codecs', flush=True)
    records[name] = tradeoff.evaluate_codecs(
      [spec.bind(model) for spec in build.make_specs(config)],
      config,
      model,
      folder / 'records.jsonl',
    )
  return records


def report_tuned(
  records: Mapping[str, Sequence[Mapping[str, Any]]],
  workdir: str | os.PathLike[str],
  rate: ml_collections.ConfigDict,
  kept: Sequence[str],
) -> str:
  """Writes figure, table and summary.json, and returns what to print.

  Args:
    records: From `evaluate_tuned`.
    workdir: Folder to write to.
    rate: What they were made with.
    kept: Codecs whose score is shown beside that of all vectors.

  Returns:
    The tables.
  """
  workdir = Path(workdir)
  draws: dict[str, Any] = {
    name: rate[name] for name in ('resamples', 'level', 'seed')
  }
  rows = {n: evaluation.summarize(r, **draws) for n, r in records.items()}
  for name, own in rows.items():  # Books by their own names.
    folder = f'{workdir / name.replace(" ", "_")}{os.sep}'
    for row in own:
      row['name'] = row['name'].replace(folder, '')
  lines = [['codec', *(f'{name}' for name in rows)]]
  for text in kept:
    line = [text]
    for own in rows.values():
      found = next(row for row in own if row['name'].startswith(text))
      top = cast(Any, evaluation.full(own))['bleu4']
      share = f'{100 * found["bleu4"] / top:.1f}%' if top else '-'
      line.append(
        f'{found["bleu4"]:.1f} [{found["bleu4_low"]:.1f},'
        f' {found["bleu4_high"]:.1f}] {share}'
      )
    lines.append(line)
  saved = {}
  names = list(rows)
  for one, other in ((2, 0), (2, 1), (1, 0)):
    if max(one, other) < len(names):
      pair = names[one], names[other]
      saved[' against '.join(pair)] = evaluation.bd_rate(
        records[pair[0]], records[pair[1]], **draws
      )
  text = [text_lib.align(lines, left=1), '']
  for name, made in saved.items():
    text.append(f'BD-rate, {name}: {_percent(made)}')
  for name, own in rows.items():
    text += ['', f'{name}:', evaluation.rate_table(own, fronts_only=True)]
  plots.save(plots.tuned(rows), workdir / 'finetune_rate')
  shown = '\n'.join(text)
  (workdir / 'table.txt').write_text(shown + '\n')
  jsonl.write_json(
    workdir / 'summary.json',
    {
      'settings': rate.to_dict(),
      'made_with': provenance.provenance(),
      'bd_rate': saved,
      'rows': rows,
    },
  )
  return shown


def _percent(made):
  if made['bd_rate'] is None:
    return made['why']
  text = f'{100 * made["bd_rate"]:+.0f}%'
  if made['low'] is not None:
    text += f' [{100 * made["low"]:+.0f}, {100 * made["high"]:+.0f}]'
  low, high = made['scores']
  return f'{text} over BLEU-4 {low:.1f} to {high:.1f}'
