"""Growth of a trained decoder: more pieces in its vocabulary, more layers."""

import dataclasses
from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float, Key
import numpy as np

from collab_jax import _validate
from collab_jax.models import gemma
from collab_jax.models import tokenizer as tokenizer_lib

# Output projections of a layer: zeros there make it pass on its input.
_OUTPUTS = (('attn', 'attn_vec_einsum', 'w'), ('mlp', 'linear'))
# Deviation of new rows from the mean of the old ones, in that of these.
_NOISE = 0.1


def extend_vocabulary(
  table: Float[Array, 'V D'],
  old: tokenizer_lib.Tokenizer,
  new: tokenizer_lib.Tokenizer,
  size: int,
  key: Key[Array, ''],
) -> Float[Array, 'size D']:
  """Makes the embedding table of another vocabulary.

  Pieces of both vocabularies keep their rows. The others begin near the mean of
  all, where they are hardly ever predicted.

  Args:
    table: Embeddings of the old pieces.
    old: Tokenizer of the table.
    new: Tokenizer of the new table.
    size: Rows of the new table, as many as it has pieces or more.
    key: Random key of the new rows.
  """
  noise = jax.random.normal(key, (size, table.shape[1]))
  fresh = table.mean(0) + _NOISE * table.std(0) * noise
  ids = {piece: i for i, piece in enumerate(old.vocabulary)}
  kept = [
    (ids[piece], i) for i, piece in enumerate(new.vocabulary) if piece in ids
  ]
  sources, places = np.asarray(kept, np.int32).T
  return fresh.at[places].set(table[sources])


def add_layers(
  config: gemma.TextConfig, layers: Any, depth: int, key: Key[Array, '']
) -> Any:
  """Puts fresh layers on top of stacked ones, which pass on their input.

  Args:
    config: Dimensions of the decoder that has the layers.
    layers: Its parameters `layers`.
    depth: Number of layers afterwards, not below that of before.
    key: Random key of the fresh layers.

  Raises:
    ValueError: The decoder has more layers than `depth`.
  """
  _validate.integer('depth', depth, config.depth)
  if depth == config.depth:
    return layers
  count = depth - config.depth
  fresh = gemma.init(dataclasses.replace(config, depth=count), key)['layers']
  for *folders, name in _OUTPUTS:
    folder = fresh
    for part in folders:
      folder = folder[part]
    folder[name] = jnp.zeros_like(folder[name])
  return jax.tree.map(
    lambda p, q: jnp.concatenate([p.astype(q.dtype), q]), layers, fresh
  )
