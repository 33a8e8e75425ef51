"""Operations and bytes that PaliGemma needs, by its dimensions."""

import math
from typing import Any

import jax

from collab_jax.models import paligemma


class Costs:
  """Operations and bytes of a model.

  ::

    Costs(zoo.config('paligemma-3b', 224)).encode()  # 0.22e12 a picture

  Attributes:
    parameters: Number of all parameters.
    image: Those of the image tower that multiply.
    layers: Those of the decoder's layers.
    table: Those of the table of words.
  """

  def __init__(self, config: paligemma.Config):
    """Counts the parameters."""
    shapes: Any = paligemma.shapes(config)

    def count(tree) -> int:
      return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

    self.vision, self.text = config.vision, config.text
    self.parameters = count(shapes)
    self.image = count(shapes['img']) - count(shapes['img']['pos_embedding'])
    self.layers = count(shapes['llm']['layers'])
    self.table = count(shapes['llm']['embedder'])

  def encode(self) -> float:
    """Returns the operations of the image encoder, per picture."""
    v, n = self.vision, self.vision.num_tokens
    return 2 * self.image * n + 4 * n**2 * v.width * v.depth

  def prefill(self, length: int) -> float:
    """Returns the operations of the decoder on a prefix, per picture."""
    t = self.text
    heads = t.num_heads * t.head_dim * t.depth
    return 2 * self.layers * length + 4 * length**2 * heads

  def step(self) -> float:
    """Returns the operations of one token of one row."""
    return 2 * (self.layers + self.table)

  def cache(self, rows: int, slots: int, itemsize: int = 4) -> float:
    """Returns the bytes of keys and values, float32 by default."""
    t = self.text
    numbers = 2 * t.depth * t.num_kv_heads * t.head_dim * rows * slots
    return itemsize * numbers

  def work(self, rows: int, length: int) -> float:
    """Returns the bytes between the products of a prefill, float32."""
    t = self.text
    hidden = 3 * t.mlp_dim * length
    return 4 * rows * (hidden + t.num_heads * length**2)
