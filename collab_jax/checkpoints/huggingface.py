"""Folders of Hugging Face's format: config.json and safetensors.

Tensors have had four spellings of their names, which are reduced to one. Each
array of big_vision's tree is made of one or more tensors, with axes permuted by
`_RULES`. Files are mapped into memory for one tensor at a time, so that neither
the other tower nor earlier tensors stay resident.

Source: checked on files that transformers 5.23 wrote and read
(tests/checkpoints/test_huggingface.py).
"""

from collections.abc import Iterator, Mapping
import dataclasses
import itertools
import json
import math
import os
import pathlib
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import safetensors
import safetensors.numpy

from collab_jax.checkpoints import (
  adapters,
  hub,
  huggingface_config,
  shards,
  trees,
)
from collab_jax.checkpoints.trees import CheckpointError
from collab_jax.models import paligemma

CONFIG = 'config.json'
_TABLE = 'language_model.embed_tokens.weight'

# Prefixes of a layer's arrays and tensors; {} is the layer.
_VISION = 'img/Transformer/encoderblock/', 'vision_tower.encoder.layers.{}.'
_TEXT = 'llm/layers/', 'language_model.layers.{}.'
_WHOLE = '', ''


class _Rule(NamedTuple):
  """Rule that makes an array of tensors.

  Attributes:
    path: Path of the array.
    tensor: Name of the tensor; several are stacked on axis 0.
    axes: Axes of the tensor, a letter each; joined letters are one axis.
    order: Axes of the array.
  """

  path: str
  tensor: str | tuple[str, ...]
  axes: str
  order: str


def _attention(path: str, tensor: str) -> list[_Rule]:
  """Returns the rules of SigLIP's queries, keys or values."""
  path = f'MultiHeadDotProductAttention_0/{path}'
  return [
    _Rule(f'{path}/kernel', f'self_attn.{tensor}.weight', 'he d', 'd h e'),
    _Rule(f'{path}/bias', f'self_attn.{tensor}.bias', 'he', 'h e'),
  ]


def _norm(path: str, tensor: str) -> list[_Rule]:
  return [
    _Rule(f'{path}/scale', f'{tensor}.weight', 'd', 'd'),
    _Rule(f'{path}/bias', f'{tensor}.bias', 'd', 'd'),
  ]


def _dense(path: str, tensor: str) -> list[_Rule]:
  return [
    _Rule(f'{path}/kernel', f'{tensor}.weight', 'f d', 'd f'),
    _Rule(f'{path}/bias', f'{tensor}.bias', 'f', 'f'),
  ]


_OUT = 'MultiHeadDotProductAttention_0/out'
_PATCH = 'vision_tower.embeddings.patch_embedding'
_POSITION = 'vision_tower.embeddings.position_embedding.weight'
_RULES: dict[tuple[str, str], list[_Rule]] = {
  _WHOLE: [
    _Rule('img/embedding/kernel', f'{_PATCH}.weight', 'd c p q', 'p q c d'),
    _Rule('img/embedding/bias', f'{_PATCH}.bias', 'd', 'd'),
    _Rule('img/pos_embedding', (_POSITION,), 'n d', 'n d'),
    *_norm('img/Transformer/encoder_norm', 'vision_tower.post_layernorm'),
    *_dense('img/head', 'multi_modal_projector.linear'),
    _Rule(trees.TABLE, _TABLE, 'v d', 'v d'),
    _Rule('llm/final_norm/scale', 'language_model.norm.weight', 'd', 'd'),
  ],
  _VISION: [
    *_norm('LayerNorm_0', 'layer_norm1'),
    *_norm('LayerNorm_1', 'layer_norm2'),
    *_dense('MlpBlock_0/Dense_0', 'mlp.fc1'),
    *_dense('MlpBlock_0/Dense_1', 'mlp.fc2'),
    *_attention('query', 'q_proj'),
    *_attention('key', 'k_proj'),
    *_attention('value', 'v_proj'),
    _Rule(f'{_OUT}/kernel', 'self_attn.out_proj.weight', 'd he', 'h e d'),
    _Rule(f'{_OUT}/bias', 'self_attn.out_proj.bias', 'd', 'd'),
  ],
  _TEXT: [
    _Rule('attn/q_einsum/w', 'self_attn.q_proj.weight', 'he d', 'h d e'),
    _Rule(
      'attn/kv_einsum/w',
      ('self_attn.k_proj.weight', 'self_attn.v_proj.weight'),
      'he d',
      'h d e',
    ),
    _Rule('attn/attn_vec_einsum/w', 'self_attn.o_proj.weight', 'd he', 'h e d'),
    _Rule(
      'mlp/gating_einsum',
      ('mlp.gate_proj.weight', 'mlp.up_proj.weight'),
      'f d',
      'd f',
    ),
    _Rule('mlp/linear', 'mlp.down_proj.weight', 'd f', 'f d'),
    _Rule('pre_attention_norm/scale', 'input_layernorm.weight', 'd', 'd'),
  ],
}
# Gemma 1's post_attention_layernorm is the norm before the MLP.
_NORMS = {
  False: {'pre_ffw_norm': 'post_attention_layernorm'},
  True: {
    'post_attention_norm': 'post_attention_layernorm',
    'pre_ffw_norm': 'pre_feedforward_layernorm',
    'post_ffw_norm': 'post_feedforward_layernorm',
  },
}


class _TensorSlot(NamedTuple):
  """Tensor and the slice of an array that it fills.

  Attributes:
    name: Name of the tensor.
    path: Path of the array.
    place: Index of the slice in the array.
    axes: Order of the slice's axes in the tensor.
    shape: Shape of the tensor.
  """

  name: str
  path: str
  place: tuple[int, ...]
  axes: tuple[int, ...]
  shape: tuple[int, ...]


def _slots(config: paligemma.Config, part: str | None) -> Iterator[_TensorSlot]:
  """Yields the tensors of a part of the model."""
  shapes = trees.flatten(paligemma.shapes(config))
  norms = _NORMS[config.text.post_norms].items()
  norms = [_Rule(f'{a}/scale', f'{b}.weight', 'd', 'd') for a, b in norms]
  for tower, rules in _RULES.items():
    for rule in rules + (norms if tower == _TEXT else []):
      path = tower[0] + rule.path
      if not trees.wanted(path, part):
        continue
      shape = shapes[path].shape
      layers = [()] if tower == _WHOLE else [(i,) for i in range(shape[0])]
      single = isinstance(rule.tensor, str)
      names = (rule.tensor,) if isinstance(rule.tensor, str) else rule.tensor
      order = rule.order.split()
      lengths = dict(zip(order, shape[len(shape) - len(order) :], strict=True))
      axes = tuple(map(order.index, rule.axes.replace(' ', '')))
      tensor_shape = tuple(
        math.prod(lengths[letter] for letter in axis)
        for axis in rule.axes.split()
      )
      for layer, (i, name) in itertools.product(layers, enumerate(names)):
        place = layer if single else (*layer, i)
        name = tower[1].format(*layer) + name
        yield _TensorSlot(name, path, place, axes, tensor_shape)


def read_config(folder: str | os.PathLike[str]) -> paligemma.Config:
  """Reads the dimensions in a folder's config.json.

  Args:
    folder: The folder, after which the model is named.

  Returns:
    The configuration.

  Raises:
    FileNotFoundError: There is no config.json.
    CheckpointError: The file is no JSON, or not the config of a PaliGemma.
  """
  path = pathlib.Path(folder) / CONFIG
  try:
    fields = shards.read_json(path)
    return huggingface_config.read(fields, hub.name_of(path.parent))
  except CheckpointError:
    raise
  except ValueError as error:
    raise CheckpointError(f'{path}: {error}') from error


def entries(
  folder: str | os.PathLike[str],
  config: paligemma.Config,
  part: str | None = None,
  variant: str | None = None,
  adapter: pathlib.Path | None = None,
) -> dict[str, trees.StoredArray]:
  """Finds the arrays of a folder; only headers are read.

  Names and shapes of tensors are compared with the config's. Rows that pad the
  vocabulary are left out.

  Args:
    folder: The folder.
    config: The dimensions; no row is left out if its vocabulary has as many
      rows as the file's.
    part: A key of `trees.PARTS`; other tensors are not read.
    variant: Variant of the files, see `shards.weights_of`.
    adapter: Folder of an adapter to merge into the weights.

  Returns:
    The arrays by path in big_vision's tree.

  Raises:
    CheckpointError: A file is missing, damaged or not the config's.
  """
  folder = pathlib.Path(folder)
  tensors = shards.find(folder, part, variant)
  if adapter is not None:
    tensors = adapters.merge(tensors, adapter, part)
  heads = [tensors.pop(name) for name in shards.HEADS if name in tensors]
  slots = list(_slots(config, part))
  want = {s.name: jax.ShapeDtypeStruct(s.shape, np.float32) for s in slots}
  table = tensors.get(_TABLE)
  if table and _TABLE in want:
    shape = want[_TABLE].shape
    stored = rows(folder) if (folder / CONFIG).exists() else 0
    tensors[_TABLE] = table = _without_padding(table, shape, stored)
    if trees.too_short(table.shape, shape):  # to be filled up later
      want[_TABLE] = jax.ShapeDtypeStruct(table.shape, np.float32)
  trees.check(want, tensors, str(folder))
  for head in heads:
    shards.check_tied(head, tensors[_TABLE], str(folder))
  grouped: dict[str, list[_TensorSlot]] = {}
  for slot in slots:
    grouped.setdefault(slot.path, []).append(slot)
  shapes = trees.flatten(paligemma.shapes(config))
  return {
    path: _entry(group, tensors, shapes[path].shape)
    for path, group in grouped.items()
  }


def rows(folder: pathlib.Path) -> int:
  """Returns the rows of the embedding table by a folder's config.json."""
  fields = shards.read_json(folder / CONFIG)
  text = fields.get('text_config')
  return huggingface_config.table_rows(text if isinstance(text, dict) else {})


def _without_padding(
  table: shards.Tensor, shape: tuple[int, ...], stored: int
) -> shards.Tensor:
  """Returns the table without the rows that Hugging Face adds.

  They are as many as pad the vocabulary, or those that config.json counts.
  """
  counts = (huggingface_config.padded(shape[0]), max(stored, shape[0]))
  if table.shape not in [(count, *shape[1:]) for count in counts]:
    return table
  return dataclasses.replace(table, shape=shape)


def _entry(
  slots: list[_TensorSlot],
  tensors: Mapping[str, trees.StoredArray],
  shape: tuple[int, ...],
) -> trees.StoredArray:
  """Describes an array that is made of tensors."""

  def fill(out: np.ndarray) -> None:
    for slot in slots:
      tensors[slot.name].fill(out[slot.place].transpose(slot.axes))

  if slots[0].name == _TABLE:
    shape = tensors[_TABLE].shape
  dtype = np.result_type(*(tensors[slot.name].dtype for slot in slots))

  def window(index: trees.Window) -> np.ndarray:
    out = np.empty([part.stop - part.start for part in index], dtype)
    for slot in slots:
      if (place := _place_within(slot.place, index)) is not None:
        lengths = shape[len(slot.place) :]
        part = _read_part(
          tensors[slot.name], slot.axes, lengths, index[len(slot.place) :]
        )
        out[place].transpose(slot.axes)[...] = part
    return out

  sliced = all(tensors[slot.name].window is not None for slot in slots)
  return trees.StoredArray(
    shape, dtype, fill, window=window if sliced else None
  )


def _place_within(
  place: tuple[int, ...], index: trees.Window
) -> tuple[int, ...] | None:
  """Returns the place of a slice within a window; None if it is outside."""
  starts = [part.start for part in index[: len(place)]]
  inside = all(
    part.start <= i < part.stop for i, part in zip(place, index, strict=False)
  )
  if not inside:
    return None
  return tuple(i - start for i, start in zip(place, starts, strict=True))


def _read_part(
  tensor: trees.StoredArray,
  axes: tuple[int, ...],
  lengths: tuple[int, ...],
  index: trees.Window,
) -> np.ndarray:
  """Reads what a window of an array needs of a tensor.

  Args:
    tensor: The tensor, some of whose axes are several of the array's.
    axes: Order of the array's axes in the tensor.
    lengths: Lengths of the array's axes.
    index: The window.

  Returns:
    The part, its axes in the tensor's order, one for each of the array's.
  """
  sizes = [lengths[axis] for axis in axes]
  parts = [index[axis] for axis in axes]
  stored: list[slice] = []
  rest: list[slice] = []  # What is left to cut from what was read.
  read_sizes: list[int] = []
  at = 0
  for size in tensor.shape:
    run = at
    while math.prod(sizes[at : run + 1]) < size:
      run += 1
    # The run's first axis is cut in the file, the others in memory.
    inner = math.prod(sizes[at + 1 : run + 1])
    first = parts[at]
    stored.append(slice(first.start * inner, first.stop * inner))
    read_sizes += [first.stop - first.start, *sizes[at + 1 : run + 1]]
    rest += [slice(None), *parts[at + 1 : run + 1]]
    at = run + 1
  window = cast(Any, tensor.window)
  return window(tuple(stored)).reshape(read_sizes)[tuple(rest)]


def save(
  folder: str | os.PathLike[str],
  params: trees.Tree,
  config: paligemma.Config,
  shard_bytes: int = 5 << 30,
  image_id: int | None = None,
) -> None:
  """Writes config.json, preprocessor_config.json and safetensors.

  Tensors have the names of the checkpoints of 2024, which every release of
  transformers reads. The table is padded with its mean row.

  Args:
    folder: Made if missing.
    params: {'img': ..., 'llm': ...}, written in their dtype.
    config: The dimensions.
    shard_bytes: Most bytes in a file, unless a single tensor has more.
    image_id: Id of the placeholder of pictures, if tokens were added behind
      it; None for the first id behind the vocabulary.

  Raises:
    CheckpointError: The parameters are not those of the config.
    ValueError: Hugging Face has no class for the config.
  """
  folder = pathlib.Path(folder)
  trees.check_shapes(paligemma.shapes(config), params, str(folder))
  flat = trees.flatten(params)
  dtype = flat[trees.TABLE].dtype
  described = huggingface_config.write(config, str(dtype))
  if image_id is not None:
    described['image_token_index'] = image_id
  folder.mkdir(parents=True, exist_ok=True)
  slots = list(_slots(config, None))
  sizes = {
    s.name: math.prod(s.shape) * flat[s.path].dtype.itemsize for s in slots
  }
  by_name = {slot.name: slot for slot in slots}
  for file, names in shards.plan(sizes, shard_bytes).items():
    tensors = {
      shards.released(name): _tensor(by_name[name], flat) for name in names
    }
    safetensors.numpy.save_file(tensors, folder / file, {'format': 'pt'})
  shards.write_index(folder, sizes, shard_bytes)
  for name, fields in (
    (CONFIG, described),
    ('preprocessor_config.json', huggingface_config.preprocessor(config)),
  ):
    (folder / name).write_text(json.dumps(fields, indent=1) + '\n')


def tensors(config: paligemma.Config) -> dict[str, tuple[int, ...]]:
  """Returns the shapes of tensors by canonical name, the table padded."""
  shapes = {slot.name: slot.shape for slot in _slots(config, None)}
  rows, width = shapes[_TABLE]
  return shapes | {_TABLE: (huggingface_config.padded(rows), width)}


def _tensor(slot: _TensorSlot, flat: Mapping[str, Any]) -> np.ndarray:
  """Cuts a tensor out of its array."""
  array = np.asarray(flat[slot.path])[slot.place].transpose(slot.axes)
  tensor = np.ascontiguousarray(array.reshape(slot.shape))
  if slot.name != _TABLE:
    return tensor
  mean = tensor.mean(0, dtype=np.float32, keepdims=True).astype(tensor.dtype)
  missing = huggingface_config.padded(len(tensor)) - len(tensor)
  return np.concatenate([tensor, mean.repeat(missing, 0)])
