"""From one format of checkpoints to another."""

import os
import pathlib
import shutil

from collab_jax.checkpoints import formats, huggingface, npz, orbax, trees
from collab_jax.models import paligemma

FORMATS = ('npz', 'huggingface', 'orbax')

# The vocabulary in its various forms, copied as it is.
_VOCABULARY = (
  *formats.VOCABULARIES,
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
)


def convert(
  source: str | os.PathLike[str],
  target: str | os.PathLike[str],
  to: str,
  config: paligemma.Config | None = None,
  dtype: str | None = None,
  part: str | None = None,
) -> paligemma.Config:
  """Writes a checkpoint in another format; it appears complete or not at all.

  Every parameter arrives bit by bit as it was, unless `dtype` converts it.
  The rows that pad Hugging Face's table are no parameters: they are dropped,
  and made anew as the mean row.

  Args:
    source: What `collab_jax.load` reads.
    target: Folder to make; or, for 'npz', a file that ends in .npz and is laid
      out as big_vision's, without config and vocabulary.
    to: 'npz', 'huggingface' or 'orbax'.
    config: The dimensions, of a source that does not say them.
    dtype: Converts floating-point arrays.
    part: 'edge' or 'server' writes what that side needs; None all of it.

  Returns:
    The dimensions.

  Raises:
    FileExistsError: The target is already there.
    ValueError: An unknown format or dtype, no config, or a part for Hugging
      Face.
    CheckpointError: The source is damaged, or not the config's.
  """
  if to not in FORMATS:
    raise ValueError(f'to: got {to!r}, expected one of {", ".join(FORMATS)}')
  if part is not None and to == 'huggingface':
    raise ValueError('a Hugging Face folder holds all of a model, not a part')
  target = pathlib.Path(target)
  if target.exists():
    raise FileExistsError(f'{target} is already there: remove it first')
  found = formats.find(source)
  config = config or found.config()
  if config is None:
    raise ValueError(f'{source} says nothing of its dimensions: give a config')
  config = config.arranged(False)
  params = formats.read(found, config, part, dtype)
  target.parent.mkdir(parents=True, exist_ok=True)
  if to == 'npz' and target.suffix == '.npz':
    npz.save_npz(target, params)
    return config
  partial = target.with_name(f'{target.name}.partial')
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir()
  _write(partial, to, params, config)
  for name in _VOCABULARY:
    if found.folder and (found.folder / name).exists():
      shutil.copyfile(found.folder / name, partial / name)
  partial.rename(target)
  return config


def _write(
  folder: pathlib.Path,
  to: str,
  params: trees.Tree,
  config: paligemma.Config,
) -> None:
  """Writes weights and config."""
  if to == 'huggingface':
    huggingface.save(folder, params, config)
    return
  if to == 'orbax':
    orbax.save(folder, params)
  else:
    npz.save_npz(folder / formats.WEIGHTS, params)
  formats.write_config(folder, config)
