"""Loads a model by name or from files."""

import difflib
from importlib import resources
import json
import os
import pathlib
from typing import Any

import jax
from jax import numpy as jnp

from collab_jax.checkpoints import npz
from collab_jax.checkpoints.npz import CheckpointError, load_npz, save_npz
from collab_jax.models import paligemma
from collab_jax.models import tokenizer as tokenizer_lib

__all__ = [
  'NAMES',
  'CheckpointError',
  'folder',
  'load',
  'load_npz',
  'read_config',
  'save',
  'save_npz',
]

# The models that ship with the package, each a folder in collab_jax/assets.
NAMES = ('tiny',)

# What a model's folder holds.
WEIGHTS, VOCABULARY, CONFIG = 'model.npz', 'tokenizer.model', 'config.json'


def load(
  name_or_path: str | os.PathLike[str],
  config: paligemma.Config | dict[str, Any] | str | os.PathLike[str] | None = (
    None
  ),
  tokenizer: tokenizer_lib.Tokenizer
  | str
  | os.PathLike[str]
  | bytes
  | None = None,
  dtype: Any = None,
) -> paligemma.Model:
  """Loads a model.

  Args:
    name_or_path: A name out of `NAMES`; a folder with model.npz, config.json
      and tokenizer.model; or a big_vision npz, which needs `config`.
    config: The dimensions: a `paligemma.Config`, the dict that
      `paligemma.Config.from_dict` reads, or the path of a JSON file with it.
    tokenizer: A `Tokenizer`, a SentencePiece model's path, or its bytes. An
      npz without one gives a model that reads and writes token ids only.
    dtype: Converts the parameters; None keeps the stored dtype, but float32
      for the models that ship, which a CPU multiplies faster than bfloat16.

  Returns:
    The model, its parameters on JAX's default device.

  Raises:
    ValueError: An unknown name, a missing config, or a vocabulary that does
      not fit the model.
    CheckpointError: The weights are not those of the config; see `load_npz`.
    FileNotFoundError: A file is missing.
  """
  if dtype is None and name_or_path in NAMES:
    dtype = 'float32'
  weights = _resolve(name_or_path)
  if weights.is_dir():
    folder, weights = weights, weights / WEIGHTS
    config = folder / CONFIG if config is None else config
    tokenizer = folder / VOCABULARY if tokenizer is None else tokenizer
  if config is None:
    raise ValueError(
      f'{weights} says nothing of its dimensions: load(path, config=...) '
      "with a paligemma.Config, a dict or a JSON file's path"
    )
  config = _config(config)
  if tokenizer is not None and not isinstance(
    tokenizer, tokenizer_lib.Tokenizer
  ):
    tokenizer = tokenizer_lib.Tokenizer(tokenizer)
  if tokenizer and tokenizer.vocab_size > config.text.vocab_size:
    raise ValueError(
      f'the tokenizer has {tokenizer.vocab_size} ids, the model '
      f'{config.text.vocab_size}: they do not belong together'
    )
  params = load_npz(weights, paligemma.shapes(config), dtype)
  return paligemma.Model(
    params=jax.tree.map(jnp.asarray, params), config=config, tokenizer=tokenizer
  )


def read_config(name_or_path: str | os.PathLike[str]) -> paligemma.Config:
  """Reads a model's dimensions, not its weights.

  Args:
    name_or_path: One of NAMES, or the folder of a model.

  Returns:
    The dimensions.

  Raises:
    ValueError: An unknown name, or a config that is damaged.
    FileNotFoundError: A file is missing.
  """
  path = _resolve(name_or_path)
  if not path.is_dir():
    raise ValueError(f'{path}: expected the folder of a model, with {CONFIG}')
  return _config(path / CONFIG)


def save(
  folder: str | os.PathLike[str],
  params: npz.Tree,
  config: dict[str, Any],
  tokenizer: tokenizer_lib.Tokenizer,
) -> None:
  """Writes a folder that `load` reads.

  Args:
    folder: Made if missing.
    params: {'img': ..., 'llm': ...}, written in their dtype.
    config: What `paligemma.Config.from_dict` reads.
    tokenizer: The vocabulary.

  Raises:
    CheckpointError: The parameters are not those of the config.
  """
  folder = pathlib.Path(folder)
  shapes = paligemma.shapes(_config(config))
  npz.check_shapes(shapes, params, str(folder / WEIGHTS))
  folder.mkdir(parents=True, exist_ok=True)
  save_npz(folder / WEIGHTS, params)
  (folder / CONFIG).write_text(json.dumps(config, indent=1) + '\n')
  (folder / VOCABULARY).write_bytes(tokenizer.model_bytes)


def folder(name: str) -> pathlib.Path:
  """The folder of a model that ships with the package."""
  return pathlib.Path(str(resources.files('collab_jax'))) / 'assets' / name


def _resolve(name_or_path: str | os.PathLike[str]) -> pathlib.Path:
  """Tells names from paths."""
  if name_or_path in NAMES:
    return folder(str(name_or_path))
  path = pathlib.Path(name_or_path)
  if path.exists():
    return path
  if path.suffix or len(path.parts) > 1 or not isinstance(name_or_path, str):
    raise FileNotFoundError(f'no such checkpoint: {path}')
  near = difflib.get_close_matches(name_or_path, NAMES, n=1, cutoff=0.5)
  hint = f'; did you mean {near[0]!r}?' if near else ''
  raise ValueError(
    f'unknown model {name_or_path!r}, expected one of {", ".join(NAMES)} or '
    f'the path of an npz or a folder{hint}'
  )


def _config(
  config: paligemma.Config | dict[str, Any] | str | os.PathLike[str],
) -> paligemma.Config:
  """Reads a config, whatever it comes as."""
  if isinstance(config, paligemma.Config):
    return config
  if not isinstance(config, dict):
    path = pathlib.Path(config)
    try:
      config = json.loads(path.read_text())
    except ValueError as error:
      raise ValueError(f'{path} is not a JSON file: {error}') from error
    if not isinstance(config, dict):
      raise ValueError(f'{path} holds {type(config).__name__}, expected a dict')
  return paligemma.Config.from_dict(config)
