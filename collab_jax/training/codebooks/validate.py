"""Checks the settings of codebooks, before vectors are collected."""

from typing import Any

from collab_jax import _validate, codecs, quantizers
from collab_jax.models import paligemma
from collab_jax.quantizers import (
  pretrained,
)

KINDS = ('linear', 'residual', 'product', 'shared', 'places')

# Quantizers that send all vectors of a picture, for the kind 'places'.
ALL = ('identity(dtype=float32)',)
METRICS = ('plain', 'head', 'gradient')

# Most codes that are trained together: the counts of all pairs, in float64,
# take half a gigabyte.
_MAX_JOINT_CODES = 2**13

# A transform without an inner quantizer.
_BARE_PCA = quantizers.PCA()


def check(config: Any, model: paligemma.Model) -> quantizers.PCA | None:
  """Checks the settings of quantizer parameters.

  Args:
    config: From configs/codebook.py.
    model: The model whose features they are for.

  Returns:
    The transform that is applied to the vectors first; None for none.

  Raises:
    ValueError: A setting is out of range, or has no meaning for this kind.
    QuantizerParamsError: The transform is not for the model's features.
  """
  for name, known in (
    ('kind', KINDS),
    ('metric', METRICS),
    ('split', codecs.SPLITS),
  ):
    _validate.choice(name, config[name], known)
  if not config.sent:
    raise ValueError('sent: got none, expected one or more quantizers')
  if config.kind == 'places' and tuple(config.sent) != ALL:
    raise ValueError(
      f"sent: got {config.sent} with kind 'places', expected {ALL}: a mean of"
      ' every place needs all vectors'
    )
  _validate.integer('batch_size', config.batch_size, 1, 2**16)
  _validate.number('ridge', config.ridge, 0.0, 1e6)
  vision = model.config.vision
  width = vision.width if config.split == 'encoder' else vision.out_dim
  pca = _transform(config, model, width)
  _validate.integer('joint', config.joint, 0, 10**4)
  if config.joint and config.kind != 'residual':
    raise ValueError(
      f'joint: got {config.joint} with kind {config.kind!r}, expected 0: only'
      " the stages of 'residual' are trained together"
    )
  if config.kind not in ('linear', 'places'):
    _check_codes(config, vision.num_tokens, pca.dims if pca else width)
  return pca


def _check_codes(config, n, width):
  """Checks the limits of codebooks: those of the quantizers that read them."""
  _validate.integer('steps', config.steps, 0, 10**6)
  _validate.integer('rows', config.rows, 1, 2**24)
  _validate.integer('passes', config.passes, 0, 10**6)
  stages, size, book = config.stages, config.size, pretrained.RANDOM
  if config.kind == 'product':
    quantizers.ProductVQ(config.groups, size, book).fields(n, width)
  elif config.kind == 'shared':
    quantizers.SharedVQ(size, book)
  elif not config.joint:
    quantizers.ResidualVQ(stages, size, book)
  else:
    quantizers.ECVQ(stages, size, config.weight, config.beam, book)
    if stages * size > _MAX_JOINT_CODES:
      raise ValueError(
        f'joint: got {stages} stages of {size} codes to train together,'
        f' expected at most {_MAX_JOINT_CODES} codes in all; lower stages or'
        ' size, or set joint to 0'
      )


def _transform(config, model, width):
  """Makes the transform that a config names, and checks its features."""
  if not config.transform:
    return None
  pca = quantizers.make(config.transform)
  if not isinstance(pca, quantizers.PCA) or pca.vectors != _BARE_PCA.vectors:
    raise ValueError(
      f'transform: got {config.transform!r}, expected like'
      " 'pca(dims=32,book=...)', with nothing within"
    )
  if config.kind in ('linear', 'places'):
    raise ValueError(
      f'transform: got {config.transform!r} for a book of kind'
      f' {config.kind!r}, which is a transform itself; leave it empty'
    )
  pretrained.check_features(pca, codecs.features_of(model, config.split))
  pca.fields(model.config.vision.num_tokens, width)
  return pca
