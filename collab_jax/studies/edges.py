"""Codecs of a model's edge half, for what talks to a server."""

import functools

from collab_jax import checkpoints, codecs, quantizers
from collab_jax.models import paligemma
from collab_jax.studies import build


class Edge:
  """Makes codecs; the image encoder is loaded once, when one needs it.

  Attributes:
    name: Name of the model.
    size: Side of its pictures in pixels.
    vectors: Number of vectors of a picture.
  """

  def __init__(self, model: str, split: str = 'encoder', coding: str = 'best'):
    """Reads the model's dimensions.

    Args:
      model: One of `checkpoints.NAMES`, or the folder of a model.
      split: Where quantizers cut it.
      coding: How their messages are made bytes.

    Raises:
      ValueError: There is no such model.
      FileNotFoundError: A file is missing.
    """
    self._path = model
    self._config = checkpoints.config_of(model)
    self._split = split
    self._coding = coding
    self.name = self._config.name
    self.size = self._config.vision.image_size
    self.vectors = self._config.vision.num_tokens

  def make(
    self, made: codecs.ImageSettings | quantizers.Quantizer | str
  ) -> build.Codec:
    """Makes a codec.

    Args:
      made: From `settings.choose_codec`, or the text of a codec.

    Returns:
      The codec.

    Raises:
      ValueError: There is no such codec, or it does not fit the model.
      ImportError: Its module cannot be imported.
    """
    if isinstance(made, str):
      made = build.parse_codec(made)
    build.check_codec(made, self._config.vision, self._split)
    if isinstance(made, codecs.ImageSettings):
      # The picture itself is sent: no weights.
      model = paligemma.Model(params={}, config=self._config, tokenizer=None)
    else:
      model = self._model
    return build.make_codec(made, model, self._split, self._coding)

  @functools.cached_property
  def _model(self) -> paligemma.Model:
    return checkpoints.load(self._path, part='edge')
