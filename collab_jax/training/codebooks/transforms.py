"""Trains the transforms of `quantizers.PCA` and `quantizers.PositionMean`."""

from typing import Any, NamedTuple

from jax import numpy as jnp
from jaxtyping import Float
import numpy as np

from collab_jax import sharding
from collab_jax.models import paligemma
from collab_jax.quantizers.vectors import symbol_tables

# Quantiles are taken of at most so many vectors, evenly spread.
_QUANTILE_ROWS = 2**17
_CHUNK = 2**16


class Transform(NamedTuple):
  """Linear transform z = (x - mean) @ forward, and x = z @ inverse + mean.

  Attributes:
    mean: Mean of the vectors.
    forward: To the axes, by falling variance; the mean variance is 1.
    inverse: From the axes back.
    variances: Variances of the coordinates z.
  """

  mean: Float[np.ndarray, ' d']
  forward: Float[np.ndarray, 'd d']
  inverse: Float[np.ndarray, 'd d']
  variances: Float[np.ndarray, ' d']


def principal_axes(
  x: Float[np.ndarray, 'count d'],
  metric: Float[np.ndarray, 'd d'] | None = None,
) -> Transform:
  """Computes the principal axes of vectors, in a metric.

  With the root R of the metric M, an error e costs e M e, the square of e R,
  so that the axes are those of the covariance of x R. Without one they are
  PCA's.

  Args:
    x: Vectors; a file is read a part at a time.
    metric: Symmetric and positive.

  Returns:
    The transform; the largest entry of each axis is positive.

  Raises:
    ValueError: There is no vector, or all are equal.
  """
  mean, covariance = _moments(x)
  root = inverse_root = np.eye(len(mean))
  if metric is not None:
    values, axes = np.linalg.eigh(metric)
    values = np.maximum(values, values.max() * 1e-9)
    root = (axes * np.sqrt(values)) @ axes.T
    inverse_root = (axes / np.sqrt(values)) @ axes.T
  variances, axes = np.linalg.eigh(root @ covariance @ root)
  order = np.argsort(-variances, kind='stable')
  variances, axes = np.maximum(variances[order], 0), axes[:, order]
  largest = np.abs(axes).argmax(axis=0)
  axes = axes * np.sign(axes[largest, np.arange(len(mean))])
  if not variances.mean() > 0:
    raise ValueError(
      f'x: got {len(x)} vectors that are all equal, expected others'
    )
  unit = np.sqrt(variances.mean())
  return Transform(
    mean,
    root @ axes / unit,
    axes.T @ inverse_root * unit,
    variances / unit**2,
  )


def _moments(x):
  """Returns mean and covariance, of a file a part at a time."""
  count, d = x.shape
  total, outer = np.zeros(d), np.zeros((d, d))
  # About the first vector, so that the sums do not cancel.
  centre = np.asarray(x[:1], np.float64).sum(axis=0)
  for start in range(0, count, _CHUNK):
    part = x[start : start + _CHUNK].astype(np.float64) - centre
    total += part.sum(axis=0)
    outer += part.T @ part
  shift = total / max(count, 1)
  return centre + shift, outer / max(count, 1) - np.outer(shift, shift)


def make_metric(
  model: paligemma.Model, config: Any, moments: np.ndarray | None
) -> np.ndarray | None:
  """Makes the metric that a config asks for; None for the plain one.

  'head' counts errors as they are after the projection to the decoder's
  width; 'gradient' by how much they change the captions' loss, to the second
  order (the Fisher information), with `ridge` times its mean added.
  """
  if config.metric == 'plain':
    return None
  if config.metric == 'gradient':
    if moments is None:
      raise ValueError('metric: gradient needs the gradients of captions')
    d = len(moments)
    return moments + config.ridge * np.trace(moments) / d * np.eye(d)
  width = model.config.vision.width
  if config.split != 'encoder':
    raise ValueError(
      f"metric: got 'head' with split {config.split!r}, which lies behind the"
      " head; expected 'plain' or 'gradient'"
    )
  both = jnp.concatenate([jnp.eye(width), jnp.zeros((1, width))])[None]
  projected = sharding.gather(model.project(both))
  rows = np.asarray(projected[0], np.float64)
  kernel = rows[:-1] - rows[-1]
  return kernel @ kernel.T


def fit_pca(
  x: Float[np.ndarray, 'count d'], metric: Float[np.ndarray, 'd d'] | None
) -> dict[str, np.ndarray]:
  """Computes the arrays of a PCA: axes, and quantiles of the coordinates."""
  transform = principal_axes(x, metric)
  rows = x[:: -(-len(x) // _QUANTILE_ROWS)]
  z = (rows - transform.mean) @ transform.forward
  levels = (np.arange(symbol_tables.POINTS) + 0.5) / symbol_tables.POINTS
  arrays = {
    **transform._asdict(),
    'quantiles': np.quantile(z, levels, axis=0).T,
  }
  return {name: a.astype(np.float32) for name, a in arrays.items()}


def fit_position_mean(
  x: Float[np.ndarray, 'count d'], pictures: int
) -> Float[np.ndarray, 'n d']:
  """Computes the mean vector of each position of the grid, in float16.

  Args:
    x: All vectors of picture after picture; a file is read a part at a time.
    pictures: Number of pictures, at least 1.
  """
  n = len(x) // pictures
  total = np.zeros((n, x.shape[1]))
  for start in range(0, len(x), n):
    total += x[start : start + n]
  return (total / pictures).astype(np.float16)
