"""Formats of checkpoints: finding out which a path has, and reading it."""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import dataclasses
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from collab_jax import jsonl
from collab_jax.checkpoints import (
  adapters,
  hub,
  huggingface,
  npz,
  orbax,
  shards,
  trees,
)
from collab_jax.models import (
  feature_statistics,
  hf_tokenizer,
  paligemma,
)

# Files of a folder in the package's own format.
WEIGHTS, CONFIG = 'model.npz', 'config.json'
# Files of the vocabulary beside the weights, big_vision's last.
VOCABULARIES = (
  hf_tokenizer.MODEL,
  hf_tokenizer.TABLE,
  'paligemma_tokenizer.model',
)


class CheckpointSource(NamedTuple):
  """Files of a checkpoint.

  Attributes:
    format: 'npz', 'huggingface' or 'orbax'.
    weights: The npz, or the folder.
    folder: Folder of config and vocabulary; None for a single npz.
    variant: Variant of a Hugging Face folder's files, such as 'fp16'.
    adapter: Folder of an adapter to merge into the weights.
  """

  format: str
  weights: pathlib.Path
  folder: pathlib.Path | None
  variant: str | None = None
  adapter: pathlib.Path | None = None

  def config(self) -> paligemma.Config | None:
    """Reads the dimensions in the folder.

    Returns:
      The configuration, or None if there is none.

    Raises:
      ValueError: config.json is no configuration.
      FileNotFoundError: A Hugging Face folder has no config.json.
    """
    if self.folder is None:
      return None
    if self.format == 'huggingface':
      return self._with_added(huggingface.read_config(self.folder))
    path = self.folder / CONFIG
    if not path.exists():
      return None
    fields = shards.read_json(path)
    if 'text_config' in fields:
      return self._with_added(huggingface.read_config(self.folder))
    return paligemma.Config.from_dict(fields)

  def _with_added(self, config: paligemma.Config) -> paligemma.Config:
    """Counts the rows of tokens that were added to the vocabulary.

    They lie in the rows that pad the table, as far as it has such rows.
    """
    assert self.folder is not None
    rows = huggingface.rows(self.folder)
    size = config.text.vocab_size
    if rows == size:
      return config
    try:
      ids = hf_tokenizer.count(self.folder)
    except ValueError as error:
      raise trees.CheckpointError(str(error)) from error
    if not size < ids <= rows:
      return config
    text = dataclasses.replace(config.text, vocab_size=ids)
    return dataclasses.replace(config, text=text)

  def vocabulary(self) -> pathlib.Path | None:
    """Finds the vocabulary that `Tokenizer` reads.

    Returns:
      The folder, whose tokens may be in more than one file; big_vision's file,
      if it is the only one; or None.
    """
    if self.folder is None:
      return None
    *paths, big_vision = (self.folder / name for name in VOCABULARIES)
    try:
      if any(hf_tokenizer.is_there(path) for path in paths):
        return self.folder
    except ValueError as error:
      raise trees.CheckpointError(str(error)) from error
    return big_vision if big_vision.is_file() else None

  def statistics(self) -> feature_statistics.FeatureStatistics | None:
    """Reads the statistics of features in the folder.

    Returns:
      The statistics, or None if there are none.

    Raises:
      CheckpointError: The file is damaged.
    """
    if (
      self.folder is None
      or not (path := self.folder / feature_statistics.FILE).is_file()
    ):
      return None
    try:
      return feature_statistics.read(path)
    except ValueError as error:
      raise trees.CheckpointError(str(error)) from error

  @contextlib.contextmanager
  def open(
    self, config: paligemma.Config, part: str | None
  ) -> Iterator[dict[str, trees.StoredArray]]:
    """Finds the arrays of a part; yields them by path."""
    if self.format == 'npz':
      with npz.open_npz(self.weights, part) as entries:
        yield entries
    elif self.format == 'orbax':
      yield orbax.entries(self.weights, part)
    else:
      yield huggingface.entries(
        self.weights, config, part, self.variant, self.adapter
      )


def no_dimensions(source: CheckpointSource) -> ValueError:
  """Makes the error of weights without dimensions, with what to do.

  Args:
    source: The checkpoint.
  """
  weights = source.weights
  if source.folder is None and (weights.parent / CONFIG).is_file():
    do = f'give its folder, {weights.parent}, which has a {CONFIG}'
  else:
    do = (
      f'give --model=paligemma-3b-mix-224 --model_path={weights} where it is'
      ' such a one (load(name, path) in Python), load(config=), or a folder'
      f' with {CONFIG} beside the weights'
    )
  return ValueError(
    f'config: got None, and {weights} has no dimensions, expected a'
    f" paligemma.Config, a {CONFIG} or a released model's name; {do}"
  )


def find(
  path: str | os.PathLike[str],
  variant: str | None = None,
  adapter: str | os.PathLike[str] | bool | None = None,
) -> CheckpointSource:
  """Finds out the format of a checkpoint.

  Args:
    path: An npz, or a folder: the package's own (model.npz, or an Orbax
      checkpoint in img/ and llm/), Hugging Face's, or one with a single npz; or
      an id of the Hugging Face Hub, whose files are then fetched.
    variant: 'fp16' and the like: the files of that name in a Hugging Face
      folder.
    adapter: Folder of an adapter to merge, True for the checkpoint's own
      folder; False reads the base of a folder that has one.

  Returns:
    Its format and files.

  Raises:
    FileNotFoundError: There is no checkpoint.
    ValueError: A variant or an adapter for another format.
  """
  path = hub.locate(path, variant, adapter)
  source = _find(path, variant)
  if source.format != 'huggingface':
    for name, value in (('variant', variant), ('adapter', adapter)):
      if value:
        raise ValueError(
          f'{name}: got {value!r} for {path}, which is {source.format}, '
          'expected a Hugging Face folder'
        )
    return source
  if adapter is True:
    adapter = path
  folder = hub.locate_adapter(adapter) if adapter else None
  return source._replace(variant=variant, adapter=folder)


def _find(path: pathlib.Path, variant: str | None) -> CheckpointSource:
  """Finds the format, in the order that docs/checkpoints.md has."""
  if not path.is_dir():
    return CheckpointSource('npz', path, None)
  if (path / WEIGHTS).exists():
    return CheckpointSource('npz', path / WEIGHTS, path)
  if orbax.is_folder(path):
    return CheckpointSource('orbax', path, path)
  if shards.weights_of(path, variant) or (
    variant is None and shards.unnamed(path)
  ):
    return CheckpointSource('huggingface', path, path)
  files = sorted(path.glob('*.npz'))
  if len(files) == 1:
    return CheckpointSource('npz', files[0], path)
  raise FileNotFoundError(
    f'{path} holds no checkpoint: expected {WEIGHTS}, one npz, '
    f'{shards.spelled(shards.SINGLE, variant)} or '
    f'{shards.spelled(shards.INDEX, variant)}, or Orbax folders '
    f'{" and ".join(orbax.TOWERS)}; got {_listing(path)}{_advice(path)}'
  )


def _advice(path: pathlib.Path) -> str:
  """Says what can be done with files that are no checkpoint by themselves."""
  variants = {shards.variant_of(p) for p in path.iterdir()} - {None}
  if variants:
    first = sorted(map(str, variants))[0]
    return f'; these are a variant: load(folder, variant={first!r})'
  if (path / adapters.CONFIG).exists():
    return (
      '; this is an adapter alone: load its base with '
      f'load(base, adapter={str(path)!r})'
    )
  if any(path.glob('pytorch_model*.bin')):
    return (
      '; .bin files are pickles, which are never read: let transformers write '
      'safetensors, from_pretrained(folder).save_pretrained(target)'
    )
  return ''


def _listing(path: pathlib.Path) -> str:
  names = sorted(p.name for p in path.iterdir())
  suffix = f' and {len(names) - 5} more' if len(names) > 5 else ''
  return (', '.join(names[:5]) or 'nothing') + suffix


def read(
  source: CheckpointSource,
  config: paligemma.Config,
  part: str | None = None,
  dtype: Any = None,
  put: Callable[[str, np.ndarray], Any] | None = None,
  orders: Mapping[str, tuple[int, ...]] | None = None,
  put_windows: trees.PutWindows | None = None,
) -> dict[str, Any]:
  """Reads parameters in any format.

  Args:
    source: Result of `find`.
    config: The expected dimensions.
    part: A key of `trees.PARTS`; other arrays are not read.
    dtype: Converts floating-point arrays; None keeps the stored dtype.
    put: (path, array) -> array on a device; None keeps NumPy arrays.
    orders: Orders of axes, see `trees.read`.
    put_windows: Puts parts of arrays on devices, see `trees.read`.

  Returns:
    big_vision's tree, or the part of it.

  Raises:
    CheckpointError: The file is damaged, or not the config's.
    FileNotFoundError: A file is missing.
  """
  shapes = trees.select(paligemma.shapes(config), part)
  with source.open(config, part) as entries:
    return trees.read(
      entries, shapes, str(source.weights), dtype, put, orders, put_windows
    )


def write_config(
  folder: pathlib.Path, config: paligemma.Config | dict[str, Any]
) -> None:
  """Writes config.json as `CheckpointSource.config` reads it."""
  if isinstance(config, paligemma.Config):
    config = config.to_dict()
  jsonl.write_json(folder / CONFIG, config)
