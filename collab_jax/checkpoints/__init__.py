"""Loads a model by name or from files.

Three formats are read and written: big_vision's npz, Hugging Face's folders of
safetensors, and our own folders with an Orbax checkpoint for each tower.
"""

import dataclasses
import functools
import os
import pathlib
from typing import Any

import jax

from collab_jax import _platform, _validate, sharding
from collab_jax.checkpoints import (
  contents,
  formats,
  hub,
  huggingface_config,
  names,
  npz,
  shards,
  trees,
)
from collab_jax.checkpoints.contents import FolderDescription, describe
from collab_jax.checkpoints.conversion import FORMATS, convert
from collab_jax.checkpoints.hub import HubError, fetch
from collab_jax.checkpoints.names import NAMES, folder
from collab_jax.checkpoints.npz import load_npz, save_npz
from collab_jax.checkpoints.trees import PARTS, CheckpointError, as_dtype
from collab_jax.models import gemma, paligemma, zoo
from collab_jax.models import tokenizer as tokenizer_lib

__all__ = [
  'FORMATS',
  'NAMES',
  'PARTS',
  'CheckpointError',
  'FolderDescription',
  'HubError',
  'as_dtype',
  'config_of',
  'convert',
  'default_layout',
  'describe',
  'fetch',
  'folder',
  'has_encoder',
  'load',
  'load_npz',
  'read_config',
  'save',
  'save_npz',
]
__dir__ = __all__.copy

# Fields in which a folder may differ from the model's card: they change the
# computation, not the weights.
_FREE = ('name', 'unroll', 'llm/sliding_window', 'llm/final_logits_softcap')


# Least width of a decoder whose default layout is 'transposed'.
_BIG = 1024
_LAYERS = 'llm/layers'
_STACKS = (_LAYERS, 'img/Transformer/encoderblock')
_LAYOUTS = {
  'stacked': {},
  'transposed': {
    f'{_LAYERS}/{name}': (0, *(axis + 1 for axis in order))
    for name, order in gemma.TRANSPOSED_AXES.items()
  },
}


def load(
  name_or_path: str | os.PathLike[str],
  path: str | os.PathLike[str] | None = None,
  *,
  config: paligemma.Config | dict[str, Any] | str | os.PathLike[str] | None = (
    None
  ),
  tokenizer: tokenizer_lib.Tokenizer
  | str
  | os.PathLike[str]
  | bytes
  | None = None,
  dtype: Any = None,
  compute_dtype: Any = None,
  part: str | None = None,
  layout: str | None = None,
  mesh: jax.sharding.Mesh | None = None,
  variant: str | None = None,
  adapter: str | os.PathLike[str] | bool | None = None,
) -> paligemma.Model:
  """Loads a model.

  ```python
  model = cj.load('tiny')
  model = cj.load('google/paligemma-3b-mix-224')  # Fetched, if it may be.
  model = cj.load('paligemma-3b-mix-224', '/path/to/folder', dtype='bfloat16')
  ```

  Args:
    name_or_path: A name in `NAMES`; the path of a folder, whose config.json
      has the dimensions, or of an npz, which needs `config`; the id of a model
      on the Hugging Face Hub, 'google/paligemma-3b-mix-224', with a revision
      'google/paligemma-3b-pt-224@bfloat16', whose files are fetched if they are
      not in its cache and no folder of that name is here; or, with `path`, a
      released model's name, 'paligemma-3b-mix-224', which stands for its
      dimensions (see `collab_jax.models.zoo`).
    path: The folder, npz or id of a released model.
    config: The dimensions: a `paligemma.Config`, the dict that
      `paligemma.Config.from_dict` reads, or the path of a JSON file with it or
      with Hugging Face's fields. Default: those of the name or folder.
    tokenizer: A `Tokenizer`, or its file. Default: tokenizer.model with the
      tokens added to it, or tokenizer.json, in the folder; without one the
      model reads and writes token ids only.
    dtype: Converts the parameters to 'float32', 'bfloat16' or 'float16'; None
      keeps the stored dtype, but float32 for the models that ship, which a CPU
      multiplies faster than bfloat16.
    compute_dtype: Dtype of products, which are summed in float32, one of the
      same; the key-value cache is in it, too. Norms, softmax, RoPE and what
      layers add to are float32. None for the widest dtype in which a tower's
      matrices are held.
    part: 'edge' reads the image tower only, 'server' the decoder and the
      projection to its width; None reads all.
    layout: Weight layout. 'stacked' keeps big_vision's tree; 'transposed'
      unstacks the layers of both towers and transposes the decoder's while
      they are read, which a CPU multiplies faster by few rows (see
      `gemma.transpose_layers`). None transposes a model of a released one's
      size on a CPU, unless there is a mesh.
    mesh: The devices to spread the parameters over, see
      `collab_jax.sharding`; each array goes there as soon as it is read. A mesh
      of JAX's default device alone is as None.
    variant: 'fp16' and the like: the files of that name in a Hugging Face
      folder.
    adapter: Folder, or id on the Hub, of a PEFT adapter (LoRA) to merge into a
      Hugging Face folder's weights; True for the folder's own, False for the
      base without it. With None a folder that holds an adapter is refused.

  Returns:
    The model, its parameters on the mesh, or on JAX's default device.

  Raises:
    ValueError: An unknown name, dtype or part, a missing config, or a
      vocabulary that does not fit the model.
    CheckpointError: A file is damaged, or the weights are not those of the
      config; lists the first five arrays that differ.
    FileNotFoundError: A file is missing.
    HubError: A model of the Hub is not here and cannot be fetched; the message
      says why, and how to get it.
  """
  if dtype is None and path is None and name_or_path in NAMES:
    dtype = 'float32'
  dtype = as_dtype(dtype)
  compute_dtype = as_dtype(compute_dtype, 'compute_dtype')
  if mesh is not None and [*mesh.devices.flat] == jax.devices()[:1]:
    mesh = None
  source = formats.find(
    names.resolve(name_or_path) if path is None else path, variant, adapter
  )
  dims = source.config() if config is None else read_config(config)
  contents.check(source, dims, part, adapter)
  if path is not None:
    dims = _check_card(zoo.card(str(name_or_path)).config, dims, source)
  if dims is None:
    raise formats.no_dimensions(source)
  if part == 'edge':
    tokenizer = None
  else:
    tokenizer = _read_tokenizer(tokenizer or source.vocabulary(), dims)
  layout = layout or default_layout(dims, mesh)
  _validate.choice('layout', layout, _LAYOUTS if mesh is None else ['stacked'])
  dims = dims.with_layout(layout)
  if compute_dtype is not None:
    dims = dims.with_compute_dtype(compute_dtype.name)
  orders = _LAYOUTS[layout]
  # `put` waits for the copy, so that no two arrays are in memory twice.
  put = _put_layers if orders else functools.partial(sharding.put, mesh=mesh)
  # Of several processes each reads the parts that its devices hold.
  put_windows = None
  if mesh is not None and sharding.spans_processes(mesh):
    put_windows = functools.partial(sharding.put_windows, mesh=mesh)
  stacked = dims.with_layout('stacked')
  params = formats.read(source, stacked, part, dtype, put, orders, put_windows)
  return paligemma.Model(
    params=_unstack(params) if orders else params,
    config=dims,
    tokenizer=tokenizer,
    # The edge has the features.
    statistics=None if part == 'server' else source.statistics(),
  )


def default_layout(
  config: paligemma.Config, mesh: jax.sharding.Mesh | None = None
) -> str:
  """Returns the layout that `load` chooses for a model; see there."""
  big = config.text.width >= _BIG and mesh is None
  on_cpu = _platform.target_platform() == 'cpu'
  return 'transposed' if big and on_cpu else 'stacked'


def _read_tokenizer(
  tokenizer: tokenizer_lib.Tokenizer | str | os.PathLike[str] | bytes | None,
  config: paligemma.Config,
) -> tokenizer_lib.Tokenizer | None:
  """Reads a tokenizer, whose vocabulary must fit the model's."""
  if tokenizer is None:
    return None
  named = isinstance(tokenizer, str | os.PathLike)
  label = f'tokenizer in {os.fspath(tokenizer)}' if named else 'tokenizer'
  if not isinstance(tokenizer, tokenizer_lib.Tokenizer):
    tokenizer = tokenizer_lib.Tokenizer(tokenizer)
  if tokenizer.vocab_size > config.text.vocab_size:
    raise ValueError(
      f'{label}: got {tokenizer.vocab_size} ids, expected at most the'
      f" model's {config.text.vocab_size}: they do not belong together"
    )
  return tokenizer


def _put_layers(name, array):
  """Puts an array on the device, one of stacked layers layer by layer."""
  if not name.startswith(_STACKS):
    return sharding.put(name, array, None)
  return [sharding.put(name, layer, None) for layer in array]


def _unstack(params: trees.Tree) -> dict[str, Any]:
  """Puts a tuple of trees in the place of each tree of lists."""
  flat = trees.flatten(params)
  for stack in _STACKS:
    names = [name for name in flat if name.startswith(stack)]
    lists = {name[len(stack) + 1 :]: flat.pop(name) for name in names}
    if lists:
      flat[stack] = tuple(
        trees.unflatten(dict(zip(lists, layer, strict=True)))
        for layer in zip(*lists.values(), strict=True)
      )
  return trees.unflatten(flat)


def config_of(
  name_or_path: str | os.PathLike[str],
  path: str | os.PathLike[str] | None = None,
) -> paligemma.Config:
  """Reads a model's dimensions, not its weights.

  Args:
    name_or_path: One of NAMES, or the folder of a model; see `load`.
    path: The folder or npz of a released model, see `load`.

  Returns:
    The dimensions.

  Raises:
    ValueError: An unknown name, or files without the dimensions.
    FileNotFoundError: A file is missing.
  """
  if path is not None:
    return zoo.card(str(name_or_path)).config
  source = formats.find(names.resolve(name_or_path))
  config = source.config()
  if config is None:
    raise formats.no_dimensions(source)
  return config


def has_encoder(
  name_or_path: str | os.PathLike[str],
  path: str | os.PathLike[str] | None = None,
) -> bool:
  """Whether a checkpoint has an image encoder; the part 'server' has none.

  Args:
    name_or_path: A name or path, see `load`.
    path: The folder or npz of a released model, see `load`.

  Raises:
    ValueError: As `load`.
    CheckpointError: As `load`.
    FileNotFoundError: A file is missing.
  """
  source = formats.find(names.resolve(name_or_path) if path is None else path)
  is_released = path is not None
  config = (
    zoo.card(str(name_or_path)).config if is_released else source.config()
  )
  with source.open(config or config_of(name_or_path), None) as entries:
    encoder = [name for name in entries if name.startswith('img/')]
  return any(not name.startswith('img/head/') for name in encoder)


def save(
  folder: str | os.PathLike[str],
  params: trees.Tree,
  config: dict[str, Any],
  tokenizer: tokenizer_lib.Tokenizer,
) -> None:
  """Writes a folder with an npz, that `load` reads.

  config.json is written last: a folder that has it is complete.

  Args:
    folder: Made if missing.
    params: {'img': ..., 'llm': ...}, written in their dtype.
    config: Fields that `paligemma.Config.from_dict` reads.
    tokenizer: The vocabulary.

  Raises:
    CheckpointError: The parameters are not those of the config.
  """
  folder = pathlib.Path(folder)
  shapes = paligemma.shapes(read_config(config))
  trees.check_shapes(shapes, params, str(folder / formats.WEIGHTS))
  folder.mkdir(parents=True, exist_ok=True)
  npz.save_npz(folder / formats.WEIGHTS, params)
  (folder / formats.VOCABULARIES[0]).write_bytes(tokenizer.model_bytes)
  formats.write_config(folder, config)


def read_config(
  config: paligemma.Config | dict[str, Any] | str | os.PathLike[str],
) -> paligemma.Config:
  """Reads a config in any form that `load` takes."""
  if isinstance(config, paligemma.Config):
    return config
  name = 'paligemma'
  if not isinstance(config, dict):
    path = pathlib.Path(config)
    config, name = shards.read_json(path), hub.name_of(path.parent)
  if 'text_config' in config:
    return huggingface_config.read(config, name)
  return paligemma.Config.from_dict(config)


def _check_card(
  card: paligemma.Config,
  config: paligemma.Config | None,
  source: formats.CheckpointSource,
) -> paligemma.Config:
  """Returns the config of a released model; a folder's own must equal it."""
  if config is None:
    return card
  got, want = (trees.flatten(c.to_dict()) for c in (config, card))
  wrong = [
    f'{name}: got {got[name]}, expected {want[name]}'
    for name in want
    if name not in _FREE and got[name] != want[name]
  ]
  if wrong:
    raise CheckpointError(
      f'{source.weights} is not {card.name}:\n  ' + '\n  '.join(wrong[:5])
    )
  return dataclasses.replace(config, name=card.name)
