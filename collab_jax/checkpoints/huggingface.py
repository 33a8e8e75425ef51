"""Reads and writes Hugging Face folders: config.json and safetensors.

The tensors have had four spellings, all of which are reduced to one. Each
array of ours is made of one or more of theirs, with axes turned as `_RULES`
says. Files are mapped into memory one tensor at a time, so that neither the
other tower nor what has been read stays resident.

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
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy

from collab_jax.checkpoints import huggingface_config, shards, trees
from collab_jax.checkpoints.trees import CheckpointError
from collab_jax.models import paligemma

CONFIG = 'config.json'
_TABLE = 'language_model.embed_tokens.weight'

# Where the arrays of a layer are, ours and theirs; {} is the layer.
_VISION = 'img/Transformer/encoderblock/', 'vision_tower.encoder.layers.{}.'
_TEXT = 'llm/layers/', 'language_model.layers.{}.'
_WHOLE = '', ''


class _Rule(NamedTuple):
  """How an array of ours is made.

  Attributes:
    ours: Its path.
    theirs: Tensor's name; names in turns are stacked on axis 0.
    axes: The tensor's axes, a letter each; joined letters are one axis.
    order: Our axes.
  """

  ours: str
  theirs: str | tuple[str, ...]
  axes: str
  order: str


def _attention(ours: str, theirs: str) -> list[_Rule]:
  """SigLIP's queries, keys or values."""
  ours = f'MultiHeadDotProductAttention_0/{ours}'
  return [
    _Rule(f'{ours}/kernel', f'self_attn.{theirs}.weight', 'he d', 'd h e'),
    _Rule(f'{ours}/bias', f'self_attn.{theirs}.bias', 'he', 'h e'),
  ]


def _norm(ours: str, theirs: str) -> list[_Rule]:
  return [
    _Rule(f'{ours}/scale', f'{theirs}.weight', 'd', 'd'),
    _Rule(f'{ours}/bias', f'{theirs}.bias', 'd', 'd'),
  ]


def _dense(ours: str, theirs: str) -> list[_Rule]:
  return [
    _Rule(f'{ours}/kernel', f'{theirs}.weight', 'f d', 'd f'),
    _Rule(f'{ours}/bias', f'{theirs}.bias', 'f', 'f'),
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
# What Gemma 1 calls post_attention_layernorm is the norm before the MLP.
_NORMS = {
  False: {'pre_ffw_norm': 'post_attention_layernorm'},
  True: {
    'post_attention_norm': 'post_attention_layernorm',
    'pre_ffw_norm': 'pre_feedforward_layernorm',
    'post_ffw_norm': 'post_feedforward_layernorm',
  },
}


class _Piece(NamedTuple):
  """A tensor of theirs and the place in ours that it fills.

  Attributes:
    name: The tensor's name.
    ours: The array's path.
    place: Where in the array.
    turn: The order of that place's axes in the tensor.
    shape: The tensor's shape.
  """

  name: str
  ours: str
  place: tuple[int, ...]
  turn: tuple[int, ...]
  shape: tuple[int, ...]


def _pieces(config: paligemma.Config, part: str | None) -> Iterator[_Piece]:
  """Every tensor of theirs that a part of the model is made of."""
  shapes = trees.flatten(paligemma.shapes(config))
  norms = _NORMS[config.text.post_norms].items()
  norms = [_Rule(f'{a}/scale', f'{b}.weight', 'd', 'd') for a, b in norms]
  for tower, rules in _RULES.items():
    for rule in rules + (norms if tower == _TEXT else []):
      path = tower[0] + rule.ours
      if not trees.wanted(path, part):
        continue
      shape = shapes[path].shape
      layers = [()] if tower == _WHOLE else [(i,) for i in range(shape[0])]
      names = (rule.theirs,) if isinstance(rule.theirs, str) else rule.theirs
      order = rule.order.split()
      lengths = dict(zip(order, shape[len(shape) - len(order) :], strict=True))
      turn = tuple(map(order.index, rule.axes.replace(' ', '')))
      theirs = tuple(
        math.prod(lengths[letter] for letter in axis)
        for axis in rule.axes.split()
      )
      for layer, (i, name) in itertools.product(layers, enumerate(names)):
        index = layer if isinstance(rule.theirs, str) else (*layer, i)
        name = tower[1].format(*layer) + name
        yield _Piece(name, path, index, turn, theirs)


def read_config(folder: str | os.PathLike[str]) -> paligemma.Config:
  """The dimensions that a folder's config.json says.

  Args:
    folder: The folder, after which the model is named.

  Returns:
    The configuration.

  Raises:
    FileNotFoundError: There is no config.json.
    CheckpointError: It is no JSON, or not the config of a PaliGemma.
  """
  path = pathlib.Path(folder) / CONFIG
  try:
    fields = shards.read_json(path)
    return huggingface_config.read(fields, path.parent.absolute().name)
  except CheckpointError:
    raise
  except ValueError as error:
    raise CheckpointError(f'{path}: {error}') from error


def entries(
  folder: str | os.PathLike[str],
  config: paligemma.Config,
  part: str | None = None,
) -> dict[str, trees.StoredArray]:
  """Finds the arrays of a folder; only headers are read.

  Names and shapes are compared with the config's in Hugging Face's terms. Rows
  that pad the vocabulary are left out.

  Args:
    folder: The folder.
    config: The dimensions; with a vocabulary of as many rows as the file has,
      none is left out.
    part: A key of `trees.PARTS`; nothing of the rest is read.

  Returns:
    The arrays by our path.

  Raises:
    CheckpointError: Something is missing, damaged or not the config's.
  """
  folder = pathlib.Path(folder)
  found = shards.find(folder, part)
  heads = [found.pop(k) for k in shards.HEADS if k in found]
  pieces = list(_pieces(config, part))
  want = {p.name: jax.ShapeDtypeStruct(p.shape, np.float32) for p in pieces}
  table = found.get(_TABLE)
  if table and _TABLE in want:
    shape = want[_TABLE].shape
    found[_TABLE] = table = _without_padding(table, shape)
    if trees.too_short(table.shape, shape):  # to be filled up later
      want[_TABLE] = jax.ShapeDtypeStruct(table.shape, np.float32)
  trees.check(want, found, str(folder))
  for head in heads:
    shards.check_tied(head, found[_TABLE], str(folder))
  grouped: dict[str, list[_Piece]] = {}
  for piece in pieces:
    grouped.setdefault(piece.ours, []).append(piece)
  shapes = trees.flatten(paligemma.shapes(config))
  return {
    path: _entry(group, found, shapes[path].shape)
    for path, group in grouped.items()
  }


def _without_padding(
  table: shards.Tensor, shape: tuple[int, ...]
) -> shards.Tensor:
  """The table without the rows that Hugging Face adds to a vocabulary."""
  rows = huggingface_config.padded(shape[0])
  if table.shape != (rows, *shape[1:]):
    return table
  return dataclasses.replace(table, shape=shape)


def _entry(
  pieces: list[_Piece],
  tensors: Mapping[str, trees.StoredArray],
  shape: tuple[int, ...],
) -> trees.StoredArray:
  """One array of ours, made of theirs."""

  def fill(out: np.ndarray) -> None:
    for piece in pieces:
      place = out[piece.place].transpose(piece.turn)
      tensors[piece.name].fill(place)

  if pieces[0].name == _TABLE:
    shape = tensors[_TABLE].shape
  dtypes = [tensors[piece.name].dtype for piece in pieces]
  return trees.StoredArray(shape, np.result_type(*dtypes), fill)


def save(
  folder: str | os.PathLike[str],
  params: trees.Tree,
  config: paligemma.Config,
  shard_bytes: int = 5 << 30,
) -> None:
  """Writes config.json, preprocessor_config.json and safetensors.

  Names are those of the checkpoints of 2024, which every release of
  transformers reads. The table is padded with its mean row.

  Args:
    folder: Made if missing.
    params: {'img': ..., 'llm': ...}, written in their dtype.
    config: The dimensions.
    shard_bytes: Most bytes in a file, unless one tensor has more.

  Raises:
    CheckpointError: The parameters are not those of the config.
    ValueError: Hugging Face has no class for the config.
  """
  folder = pathlib.Path(folder)
  trees.check_shapes(paligemma.shapes(config), params, str(folder))
  flat = trees.flatten(params)
  dtype = flat[trees.TABLE].dtype
  described = huggingface_config.write(config, str(dtype))
  folder.mkdir(parents=True, exist_ok=True)
  pieces = list(_pieces(config, None))
  sizes = {
    p.name: math.prod(p.shape) * flat[p.ours].dtype.itemsize for p in pieces
  }
  by_name = {piece.name: piece for piece in pieces}
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
  """The shapes of a model's tensors by canonical name, the table padded."""
  shapes = {piece.name: piece.shape for piece in _pieces(config, None)}
  rows, width = shapes[_TABLE]
  return shapes | {_TABLE: (huggingface_config.padded(rows), width)}


def _tensor(piece: _Piece, flat: Mapping[str, Any]) -> np.ndarray:
  """One tensor of theirs, cut out of ours."""
  array = np.asarray(flat[piece.ours])[piece.place].transpose(piece.turn)
  tensor = np.ascontiguousarray(array.reshape(piece.shape))
  if piece.name != _TABLE:
    return tensor
  mean = tensor.mean(0, dtype=np.float32, keepdims=True).astype(tensor.dtype)
  missing = huggingface_config.padded(len(tensor)) - len(tensor)
  return np.concatenate([tensor, mean.repeat(missing, 0)])
