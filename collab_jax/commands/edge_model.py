"""Codecs of a model's edge half, for programs that talk to a server."""

import functools
from typing import Any

from collab_jax import checkpoints, codecs
from collab_jax.models import paligemma


class EdgeModel:
  """Binds codecs to a model's edge half, whose weights are loaded once.

  ::

    codec = EdgeModel('tiny').bind('kmeans(k=8)')

  The weights are loaded when the first codec needs them; image codecs do not.

  Attributes:
    config: The model's dimensions.
    size: Side of its pictures in pixels.
    vectors: Number of vectors of a picture.
  """

  def __init__(
    self,
    model: str,
    path: str | None = None,
    split: str = 'encoder',
    coding: str = 'best',
    dtype: str | None = None,
    compute_dtype: str | None = None,
    adapter: str | None = None,
  ):
    """Reads the model's dimensions.

    Args:
      model: One of `checkpoints.NAMES`, or the folder of a model; with `path`
        the name of a released one.
      path: Folder or npz of a released model.
      split: Where quantizers given as text cut it.
      coding: How their messages are coded.
      dtype: As of `checkpoints.load`.
      compute_dtype: As of `checkpoints.load`.
      adapter: As of `checkpoints.load`.

    Raises:
      ValueError: There is no such model.
      FileNotFoundError: A file is missing.
    """
    self.config = checkpoints.config_of(model, path)
    self.size = self.config.vision.image_size
    self.vectors = self.config.vision.num_tokens
    self._source = model, path
    self._split = split
    self._coding = coding
    self._arguments: dict[str, Any] = {
      'dtype': dtype,
      'compute_dtype': compute_dtype,
      'adapter': adapter,
    }

  def supports(self, text: str) -> bool:
    """Returns whether there is such a codec, and it fits the model.

    Args:
      text: As `codecs.parse` reads it.
    """
    try:
      codecs.parse(text, self._split, self._coding).validate(self.config)
    except (ValueError, ImportError):
      return False
    return True

  def bind(self, spec: codecs.CodecSpec | str) -> Any:
    """Makes a codec.

    Args:
      spec: A spec, or text as `codecs.parse` reads it.

    Raises:
      ValueError: There is no such codec, or it does not fit the model.
      ImportError: Its module cannot be imported.
    """
    if isinstance(spec, str):
      spec = codecs.parse(spec, self._split, self._coding)
    spec.validate(self.config)
    if spec.needs_weights:
      return spec.bind(self._weights)
    return spec.bind(
      paligemma.Model(params={}, config=self.config, tokenizer=None)
    )

  @functools.cached_property
  def _weights(self) -> paligemma.Model:
    return checkpoints.load(*self._source, part='edge', **self._arguments)
