"""Trains the parameters that both ends of a quantizer hold.

    from collab_jax.training import codebooks

    params = codebooks.train(config, model, reader, 'runs/codebook')

The config is that of configs/codebook.py: a PCA, the mean of each position, or
residual, product and shared codebooks.
"""

from typing import TYPE_CHECKING

from collab_jax import _renamed
from collab_jax.training.codebooks.pipeline import fit_codebook, train
from collab_jax.training.codebooks.transforms import (
  Transform,
  fit_pca,
  fit_position_mean,
  make_metric,
  principal_axes,
)

__all__ = [
  'Transform',
  'fit_codebook',
  'fit_pca',
  'fit_position_mean',
  'make_metric',
  'principal_axes',
  'train',
]

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)
