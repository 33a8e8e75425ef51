"""Adapters of PEFT, merged into a Hugging Face folder's tensors.

A matrix becomes W + scale * B A, with scale = alpha / r, or alpha / sqrt(r)
where `use_rslora` says so; biases and whole modules are replaced. The product
is made in float32 while the tensor is read, and rounded once.

Source: Hu et al. 2021, arXiv 2106.09685; `peft.tuners.lora`, checked against
what its `merge_and_unload` gives (benchmarks/folders.py).
"""

from collections.abc import Mapping
import dataclasses
import math
import pathlib
import re
from typing import Any

import numpy as np

from collab_jax import _validate
from collab_jax.checkpoints import shards, trees
from collab_jax.checkpoints.trees import CheckpointError

CONFIG, WEIGHTS = 'adapter_config.json', 'adapter_model.safetensors'

_PREFIX = re.compile(r'^(?:base_model\.model\.)?')
_FACTOR = re.compile(
  r'(.*)\.lora_(embedding_)?([AB])(?:\.default)?(?:\.(weight|bias))?'
)
# Names with dots, as they are or escaped: other patterns could run for ever.
_NAME = re.compile(r'\^?(?:[\w-]|\\?\.)+')
# Fields that change what is computed, with the values that are understood.
_EXPECTED: dict[str, tuple[Any, ...]] = {
  'peft_type': ('LORA',),
  'use_dora': (False,),
  'use_qalora': (False,),
  'layer_replication': (None,),
  'trainable_token_indices': (None,),
  'target_parameters': (None, []),
  'alora_invocation_tokens': (None,),
  'arrow_config': (None,),
  'init_lora_weights': (None, False, 'gaussian', 'eva', 'orthogonal', True),
}


def is_adapter(folder: pathlib.Path) -> bool:
  """Whether a folder holds an adapter, or says so."""
  return (folder / CONFIG).exists() or any(folder.glob('adapter_model*'))


def merge(
  tensors: Mapping[str, shards.Tensor], folder: pathlib.Path, part: str | None
) -> dict[str, shards.Tensor]:
  """Merges an adapter into tensors, which are not read yet.

  Args:
    tensors: The base's tensors by canonical name.
    folder: Folder with adapter_config.json and adapter_model.safetensors.
    part: A key of `trees.PARTS`, whose tensors these are.

  Returns:
    The tensors, those that the adapter changes with its changes.

  Raises:
    FileNotFoundError: A file is missing.
    CheckpointError: The adapter is damaged, of another kind, or not for these
      tensors.
  """
  config = read_config(folder)
  factors: dict[str, dict[str, shards.Tensor]] = {}
  merged = dict(tensors)
  for name, tensor in shards.read_file(folder / WEIGHTS).items():
    tensor = _checked(tensor, f'{folder / WEIGHTS}: {name}')
    name = shards.canonical(_PREFIX.sub('', name))
    match = _FACTOR.fullmatch(name)
    if match is None:
      name = name.replace('.modules_to_save', '').replace('.base_layer', '')
      if shards.belongs(name, part):
        merged[name] = tensor
    elif shards.belongs(match[1] + '.', part):
      role = f'{match[3]}.bias' if match[4] == 'bias' else match[3]
      table = factors.setdefault(match[1], {})
      table[f'embedding.{role}' if match[2] else role] = tensor
  for module, given in factors.items():
    _merge_module(merged, module, given, config, folder)
  return merged


def _checked(tensor: shards.Tensor, label: str) -> shards.Tensor:
  """Refuses numbers that are not finite when a tensor is read."""

  def fill(out: np.ndarray) -> None:
    tensor.fill(out)
    trees.check_finite(out, label)

  return dataclasses.replace(tensor, fill=fill)


def read_config(folder: pathlib.Path) -> dict[str, Any]:
  """Reads adapter_config.json.

  Raises:
    FileNotFoundError: There is none.
    CheckpointError: It is of an adapter that cannot be merged.
  """
  path = folder / CONFIG
  config = shards.read_json(path)
  for name, known in _EXPECTED.items():
    value = config.get(name, known[-1])
    if value not in known:
      raise CheckpointError(
        f'{path}: {name}: got {value!r:.60}, expected {known[-1]!r}; merge the'
        ' adapter with peft, merge_and_unload() and save_pretrained()'
      )
  for name in ('r', 'lora_alpha'):
    value = config.get(name, 8)
    if not _validate.is_number(value) or not 0 < value < 2**24:
      raise CheckpointError(
        f'{path}: {name}: got {value!r:.60}, expected a number above 0'
      )
  for name in ('rank_pattern', 'alpha_pattern'):
    patterns = config.get(name) or {}
    if not isinstance(patterns, dict) or not all(
      _NAME.fullmatch(pattern) and _validate.is_number(v) and 0 < v < 2**24
      for pattern, v in patterns.items()
    ):
      raise CheckpointError(
        f'{path}: {name}: got {patterns!r:.60}, expected numbers above 0 by'
        ' name of a module'
      )
  return config


def _merge_module(
  merged: dict[str, shards.Tensor],
  module: str,
  factors: dict[str, shards.Tensor],
  config: dict[str, Any],
  folder: pathlib.Path,
) -> None:
  """Puts a module's low-rank product into its tensor."""
  embedding = 'embedding.A' in factors
  pair = [factors.get(f'embedding.{k}' if embedding else k) for k in 'AB']
  a, b = pair
  weight = merged.get(f'{module}.weight')
  if a is None or b is None or weight is None:
    raise CheckpointError(
      f'{folder / WEIGHTS}: {module}: got {sorted(factors)}, expected A and B'
      f' of a module of the base{"" if weight else ", which has none such"}'
    )
  rank = a.shape[0] if a.shape else 0
  rows, columns = (b.shape[0], a.shape[-1]) if b.shape and rank else (0, 0)
  shape = (columns, rows) if embedding else (rows, columns)
  matched = len(a.shape) == len(b.shape) == 2 and b.shape[1] == rank
  declared = round(_pattern(config, 'rank_pattern', 'r', module))
  if not matched or shape != weight.shape or rank != declared:
    raise CheckpointError(
      f'{folder / WEIGHTS}: {module}: got A {a.shape} and B {b.shape},'
      f' expected a product of {weight.shape} of rank {declared}'
    )
  alpha = _pattern(config, 'alpha_pattern', 'lora_alpha', module)
  scale = alpha / (math.sqrt(rank) if config.get('use_rslora') else rank)
  merged[f'{module}.weight'] = _Product(weight, a, b, scale, embedding).tensor()
  if bias := factors.get('B.bias'):
    base = merged.get(f'{module}.bias')
    if base is None or base.shape != bias.shape:
      raise CheckpointError(
        f'{folder / WEIGHTS}: {module}: got a bias {bias.shape}, expected the'
        f" shape of the base's, {base and base.shape}"
      )
    merged[f'{module}.bias'] = _sum(base, bias, scale)


def _pattern(config, patterns: str, default: str, module: str) -> float:
  """Returns a module's rank or alpha; the first pattern that fits counts."""
  for pattern, value in (config.get(patterns) or {}).items():
    names = f'model.{module}', shards.released(module), module
    if any(re.match(rf'(.*\.)?({pattern})$', name) for name in names):
      return float(value)
  return float(config.get(default, 8))


def _read(tensor: shards.Tensor) -> np.ndarray:
  array = np.empty(tensor.shape, np.float32)
  tensor.fill(array)
  return array


def _sum(
  base: shards.Tensor, other: shards.Tensor, scale: float
) -> shards.Tensor:
  """Adds a scaled vector."""

  def fill(out: np.ndarray) -> None:
    total = _read(base) + np.float32(scale) * _read(other)
    out[...] = total.astype(base.dtype).reshape(out.shape)

  def rows(start: int, stop: int) -> np.ndarray:
    total = _read(base) + np.float32(scale) * _read(other)
    return total.astype(base.dtype)[start:stop]

  return dataclasses.replace(base, fill=fill, rows=rows, window=None)


@dataclasses.dataclass(frozen=True)
class _Product:
  """A matrix and the product that is added to it."""

  base: shards.Tensor
  a: shards.Tensor
  b: shards.Tensor
  scale: float
  embedding: bool

  def rows(self, start: int, stop: int) -> np.ndarray:
    """Computes rows in float32 and rounds them to the base's dtype."""
    left, right = _read(self.b), _read(self.a)
    if self.embedding:
      left, right = right.T, left.T
    base = self.base.rows(start, stop).astype(np.float32)
    total = base + np.float32(self.scale) * (left[start:stop] @ right)
    return total.astype(self.base.dtype)

  def tensor(self) -> shards.Tensor:
    """Returns the sum as a tensor that is not read yet."""

    def fill(out: np.ndarray) -> None:
      # Of an embedding table the rows that pad it may be left out.
      whole = out.shape[1:] != self.base.shape[1:]
      stop = self.base.shape[0] if whole else len(out)
      out[...] = self.rows(0, stop).reshape(out.shape)

    return dataclasses.replace(
      self.base, fill=fill, rows=self.rows, window=None
    )
