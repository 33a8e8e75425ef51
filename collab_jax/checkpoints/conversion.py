"""Conversion of checkpoints from one format to another."""

import os
import pathlib
import shutil

from collab_jax import _validate
from collab_jax.checkpoints import (
  contents,
  formats,
  huggingface,
  npz,
  orbax,
  trees,
)
from collab_jax.models import feature_statistics, paligemma, tokenizer

FORMATS = ('npz', 'huggingface', 'orbax')

# Files of the vocabulary, and of features, which are copied.
_COPIED = (
  *formats.VOCABULARIES,
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  feature_statistics.FILE,
)


def convert(
  source: str | os.PathLike[str],
  target: str | os.PathLike[str],
  to: str,
  config: paligemma.Config | None = None,
  dtype: str | None = None,
  part: str | None = None,
  variant: str | None = None,
  adapter: str | os.PathLike[str] | bool | None = None,
) -> paligemma.Config:
  """Writes a checkpoint in another format; it appears complete or not at all.

  Every parameter stays the same to the bit, unless `dtype` converts it. The
  rows that pad Hugging Face's table are no parameters: they are dropped, and
  written as the mean row.

  Args:
    source: Checkpoint in any format that `collab_jax.load` reads.
    target: Folder to make; or, for 'npz', a file that ends in .npz with
      big_vision's layout, without config and vocabulary.
    to: 'npz', 'huggingface' or 'orbax'.
    config: The dimensions, of a source without them.
    dtype: Converts floating-point arrays.
    part: 'edge' or 'server' writes the arrays of that side; None all.
    variant: Variant of the source's files, such as 'fp16'.
    adapter: Folder of an adapter to merge into the weights, which may be the
      source itself.

  Returns:
    The dimensions.

  Raises:
    FileExistsError: The target is already there.
    ValueError: An unknown format or dtype, no config, or a part for Hugging
      Face.
    CheckpointError: The source is damaged, or not the config's.
  """
  _validate.choice('to', to, FORMATS)
  if part is not None and to == 'huggingface':
    raise _validate.error('part', part, 'None: a Hugging Face folder holds all')
  target = pathlib.Path(target)
  if target.exists():
    raise FileExistsError(f'{target} is already there: remove it first')
  if isinstance(adapter, str | os.PathLike) and pathlib.Path(
    adapter
  ) == pathlib.Path(source):
    adapter = True
  checkpoint = formats.find(source, variant, adapter)
  config = config or checkpoint.config()
  contents.check(checkpoint, config, part, adapter)
  if config is None:
    raise ValueError(
      f'config: got None, and {source} has no dimensions, expected those of a'
      ' released model, or of a JSON file; give --model=paligemma-3b-mix-224 or'
      ' --config=FILE, in Python config='
    )
  config = config.with_layout('stacked')
  params = formats.read(checkpoint, config, part, dtype)
  target.parent.mkdir(parents=True, exist_ok=True)
  if to == 'npz' and target.suffix == '.npz':
    npz.save_npz(target, params)
    return config
  partial = target.with_name(f'{target.name}.partial')
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir()
  _write(partial, to, params, config, checkpoint)
  for name in _COPIED:
    if checkpoint.folder and (checkpoint.folder / name).exists():
      shutil.copyfile(checkpoint.folder / name, partial / name)
  partial.rename(target)
  return config


def _write(
  folder: pathlib.Path,
  to: str,
  params: trees.Tree,
  config: paligemma.Config,
  source: formats.CheckpointSource,
) -> None:
  """Writes weights and config."""
  if to == 'huggingface':
    vocabulary = source.vocabulary()
    image_id = vocabulary and tokenizer.Tokenizer(vocabulary).image_id
    huggingface.save(folder, params, config, image_id=image_id)
    return
  if to == 'orbax':
    orbax.save(folder, params)
  else:
    npz.save_npz(folder / formats.WEIGHTS, params)
  formats.write_config(folder, config)
