"""Trains books: linear transforms with quantiles, and codebooks."""

import os
import pathlib
import time
from typing import Any, NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Float
import numpy as np

from collab_jax import codecs, quantizers
from collab_jax.models import paligemma
from collab_jax.quantizers import pretrained
from collab_jax.quantizers.vectors import symbol_tables
from collab_jax.training.codebooks import (
  feature_dump,
  joint_rvq,
  minibatch_kmeans,
  validate,
)

# Settings that matter to some books only, and are in their notes.
_OF_METRIC = ('ridge', 'prompt', 'text_length')
_OF_CODES = ('size', 'steps', 'rows', 'passes')
_ROUNDS = {
  'residual': ('stages', 'joint', 'weight', 'beam'),
  'product': ('groups',),
  'shared': (),
}

# Quantiles are taken of at most so many vectors, evenly spread.
_QUANTILE_ROWS = 2**17
_CHUNK = 2**16


class Transform(NamedTuple):
  """z = (x - mean) @ forward and x = z @ inverse + mean.

  Attributes:
    mean: Of the vectors.
    forward: To the axes, in the order of their variance; 1 on average.
    inverse: And back.
    variances: Of the coordinates.
  """

  mean: Float[np.ndarray, ' d']
  forward: Float[np.ndarray, 'd d']
  inverse: Float[np.ndarray, 'd d']
  variances: Float[np.ndarray, ' d']


def principal(
  x: Float[np.ndarray, 'count d'],
  metric: Float[np.ndarray, 'd d'] | None = None,
) -> Transform:
  """Returns the principal axes of vectors, in a metric.

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
  count, d = x.shape
  total, outer = np.zeros(d), np.zeros((d, d))
  # About the first vector, so that the sums do not cancel.
  centre = np.asarray(x[:1], np.float64).sum(axis=0)
  for start in range(0, count, _CHUNK):
    part = x[start : start + _CHUNK].astype(np.float64) - centre
    total += part.sum(axis=0)
    outer += part.T @ part
  shift = total / max(count, 1)
  covariance = outer / max(count, 1) - np.outer(shift, shift)
  root = inverse_root = np.eye(d)
  if metric is not None:
    values, axes = np.linalg.eigh(metric)
    values = np.maximum(values, values.max() * 1e-9)
    root = (axes * np.sqrt(values)) @ axes.T
    inverse_root = (axes / np.sqrt(values)) @ axes.T
  variances, axes = np.linalg.eigh(root @ covariance @ root)
  order = np.argsort(-variances, kind='stable')
  variances, axes = np.maximum(variances[order], 0), axes[:, order]
  largest = np.abs(axes).argmax(axis=0)
  axes = axes * np.sign(axes[largest, np.arange(d)])
  if not variances.mean() > 0:
    raise ValueError(f'got {count} vectors that are all equal, expected others')
  unit = np.sqrt(variances.mean())
  return Transform(
    centre + shift,
    root @ axes / unit,
    axes.T @ inverse_root * unit,
    variances / unit**2,
  )


def make_metric(
  model: paligemma.Model, config: Any, moments: np.ndarray | None
) -> np.ndarray | None:
  """Returns the metric that a config asks for; None for the plain one.

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
  rows = np.asarray(model.project(both)[0], np.float64)
  kernel = rows[:-1] - rows[-1]
  return kernel @ kernel.T


def linear(
  x: Float[np.ndarray, 'count d'], metric: Float[np.ndarray, 'd d'] | None
) -> dict[str, np.ndarray]:
  """Returns the arrays of a book of kind 'linear'."""
  found = principal(x, metric)
  rows = x[:: -(-len(x) // _QUANTILE_ROWS)]
  z = (rows - found.mean) @ found.forward
  levels = (np.arange(symbol_tables.POINTS) + 0.5) / symbol_tables.POINTS
  arrays = {
    **found._asdict(),
    'quantiles': np.quantile(z, levels, axis=0).T,
  }
  return {name: a.astype(np.float32) for name, a in arrays.items()}


def places(
  x: Float[np.ndarray, 'count d'], pictures: int
) -> Float[np.ndarray, 'n d']:
  """Returns the mean vector of each place of the grid, in float16.

  Args:
    x: All vectors of picture after picture; a file is read a part at a time.
    pictures: How many there are, at least 1.
  """
  n = len(x) // pictures
  total = np.zeros((n, x.shape[1]))
  for start in range(0, len(x), n):
    total += x[start : start + n]
  return (total / pictures).astype(np.float16)


def codebook(
  x: Float[np.ndarray, 'count d'], config: Any
) -> dict[str, np.ndarray]:
  """Returns the arrays of a book of kind 'codebook': codes and counts.

  Residual stages are trained one after the other, each on what those before
  it leave, then `joint` times together; the pieces of a product each by itself.
  """
  key = jax.random.key(config.seed)
  chosen: list[minibatch_kmeans.Codes] = []
  rounds = {
    'residual': config.stages,
    'product': config.groups,
    'shared': 1,
  }[config.kind]
  width = x.shape[1] // rounds if config.kind == 'product' else x.shape[1]

  def read(rows):
    part = jnp.asarray(x[rows], jnp.float32)
    if config.kind == 'product':
      at = len(chosen) * width
      return part[:, at : at + width]
    for stage in chosen:
      part = _leave(part, stage.codes)
    return part

  for i in range(rounds):
    found = minibatch_kmeans.kmeans(
      read,
      len(x),
      config.size,
      jax.random.fold_in(key, i),
      steps=config.steps,
      batch=config.rows,
      passes=config.passes,
    )
    # As they will be read, so that the next stage knows what is really left.
    codes = found.codes.astype(np.float16).astype(np.float32)
    print(f'codebook {i + 1} of {rounds}: mean squared error {found.error:.4g}')
    chosen.append(found._replace(codes=codes))
  codes = np.stack([c.codes for c in chosen])
  counts = np.stack([c.counts for c in chosen])
  if config.kind == 'residual' and config.joint:
    found = joint_rvq.refine(
      lambda rows: x[rows],
      len(x),
      codes,
      counts,
      weight=config.weight,
      beam=config.beam,
      passes=config.joint,
      batch=config.rows,
    )
    print(
      f'together: mean squared error {found.error:.4g}, {found.bits:.1f} bits'
    )
    codes, counts = found.codes, found.counts
  return {
    'codes': codes.astype(np.float16),
    'counts': counts.astype(np.int32),
  }


@jax.jit
def _leave(x, codes):
  return x - codes[quantizers.codebook.nearest(x, codes)]


def train(
  config: Any,
  model: paligemma.Model,
  reader: Any,
  workdir: str | os.PathLike[str],
) -> pretrained.QuantizerParams:
  """Trains the book that a config describes.

  Args:
    config: From configs/codebook.py.
    model: Whose features.
    reader: Pictures to train on, with captions for the metric 'gradient'.
    workdir: Gets vectors.npy, what it was trained on, and book.safetensors.

  Returns:
    The book.

  Raises:
    ValueError: As `limits.check`, or there are too few vectors.
  """
  transform = validate.check(config, model)
  workdir, began = pathlib.Path(workdir), time.perf_counter()
  x, moments = feature_dump.collect(
    model, reader, config, workdir / 'vectors.npy'
  )
  took = time.perf_counter() - began
  print(f'{len(x):,} vectors of width {x.shape[1]}, {took:.0f} s')
  if config.kind == 'places':
    arrays, kind = {'mean': places(x, len(reader))}, 'places'
  elif config.kind == 'linear':
    arrays = linear(x, make_metric(model, config, moments))
    kind = 'linear'
  else:
    if transform:
      x = _transformed(x, transform, workdir / 'transformed.npy')
    arrays, kind = codebook(x, config), 'codebook'
  book = pretrained.save(
    workdir / 'book.safetensors',
    arrays,
    kind=kind,
    width=x.shape[1],
    features=codecs.features_of(model, config.split),
    transform=transform.coordinates() if transform else '',
    notes={
      'model': model.config.name,
      'data': f'{reader.name}, {len(reader)} pictures',
      'sent': ' '.join(config.sent),
      'transform': config.transform,
      'metric': config.metric,
      'vectors': str(len(x)),
      'seed': str(config.seed),
      **_settings(config),
    },
  )
  print(f'{time.perf_counter() - began:.0f} s, fingerprint {book.fingerprint}')
  return book


def _settings(config):
  """The notes of a book's kind."""
  rounds = _ROUNDS.get(config.kind)
  names = () if rounds is None else _OF_CODES + rounds
  if config.kind == 'linear' and config.metric == 'gradient':
    names = _OF_METRIC
  return {'kind': config.kind, **{name: str(config[name]) for name in names}}


def _transformed(x, pca, path):
  """Writes the coordinates of vectors, as `quantizers.PCA` makes them."""
  params = pca.init_params(jax.random.key(0), 1, x.shape[1])
  shape = (len(x), pca.dims)
  out = np.lib.format.open_memmap(path, 'w+', np.float32, shape)
  for start in range(0, len(x), _CHUNK):
    part = jnp.asarray(x[start : start + _CHUNK]) - params['mean']
    out[start : start + _CHUNK] = part @ params['forward']
  return out
