"""Codecs of a model's edge half, for programs that talk to a server."""

from collections.abc import Callable
import functools
from typing import Any

from collab_jax.codecs import base
from collab_jax.codecs import spec as specs
from collab_jax.models import paligemma


class EdgeModel:
  """Binds codecs to a model's edge half, whose weights are loaded once.

  ::

    config = checkpoints.config_of('tiny')
    edge = EdgeModel(config, lambda: checkpoints.load('tiny', part='edge'))
    codec = edge.bind('kmeans(k=8)')

  The weights are loaded when the first codec needs them; image codecs do not.

  Attributes:
    config: The model's dimensions.
    size: Side of its pictures in pixels.
    vectors: Number of vectors of a picture.
  """

  def __init__(
    self,
    config: paligemma.Config,
    load: Callable[[], paligemma.Model],
    split: str = 'encoder',
    coding: str = 'best',
  ):
    """Binds dimensions and weights.

    Args:
      config: The model's dimensions.
      load: Returns the model, or its edge half.
      split: Where quantizers given as text cut it.
      coding: How their messages are coded.
    """
    self.config = config
    self.size = config.vision.image_size
    self.vectors = config.vision.num_tokens
    self._load = functools.cache(load)
    self._split = split
    self._coding = coding

  def bind(self, spec: base.CodecSpec | str) -> Any:
    """Makes a codec.

    Args:
      spec: A spec, or text as `codecs.parse` reads it.

    Raises:
      ValueError: There is no such codec, or it does not fit the model.
      ImportError: Its module cannot be imported.
    """
    if isinstance(spec, str):
      spec = specs.parse(spec, self._split, self._coding)
    spec.validate(self.config)
    if spec.needs_weights:
      return spec.bind(self._load())
    return spec.bind(
      paligemma.Model(params={}, config=self.config, tokenizer=None)
    )
