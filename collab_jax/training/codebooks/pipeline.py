"""Trains quantizer parameters from a config: transforms and codebooks."""

import contextlib
import os
import pathlib
import time
from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import Float
import numpy as np

from collab_jax import codecs, distributed, jsonl, random_keys
from collab_jax.models import paligemma
from collab_jax.quantizers import pretrained
from collab_jax.quantizers.vectors import vq
from collab_jax.training.codebooks import (
  feature_dump,
  joint_rvq,
  minibatch_kmeans,
  transforms,
  validate,
)

# Settings that matter to some kinds only, and are in their notes.
_METRIC_SETTINGS = ('ridge', 'prompt', 'text_length')
_CODEBOOK_SETTINGS = ('size', 'steps', 'rows', 'passes')
_KIND_SETTINGS = {
  'residual': ('stages', 'joint', 'weight', 'beam'),
  'product': ('groups',),
  'shared': (),
}
_CHUNK = 2**16


def fit_codebook(
  x: Float[np.ndarray, 'count d'], config: Any
) -> dict[str, np.ndarray]:
  """Trains the arrays of a codebook: codes and their counts.

  Residual stages are trained one after the other, each on the residuals of
  those before it, then `joint` times together; the subspaces of a product each
  by itself.

  Args:
    x: Vectors; a file is read a part at a time.
    config: From configs/codebook.py.
  """
  key = random_keys.make(config.seed)
  trained: list[minibatch_kmeans.KMeansResult] = []
  rounds = {
    'residual': config.stages,
    'product': config.groups,
    'shared': 1,
  }[config.kind]
  width = x.shape[1] // rounds if config.kind == 'product' else x.shape[1]

  def read(rows):
    part = jnp.asarray(x[rows], jnp.float32)
    if config.kind == 'product':
      first = len(trained) * width
      return part[:, first : first + width]
    for stage in trained:
      part = _residual(part, stage.codes)
    return part

  for i in range(rounds):
    clusters = minibatch_kmeans.kmeans(
      read,
      len(x),
      config.size,
      jax.random.fold_in(key, i),
      steps=config.steps,
      batch=config.rows,
      passes=config.passes,
    )
    # In the stored precision, so that the next stage sees the real residuals.
    codes = clusters.codes.astype(np.float16).astype(np.float32)
    error = clusters.error
    print(f'codebook {i + 1} of {rounds}: mean squared error {error:.4g}')
    trained.append(clusters._replace(codes=codes))
  codes = np.stack([c.codes for c in trained])
  counts = np.stack([c.counts for c in trained])
  if config.kind == 'residual' and config.joint:
    joint = joint_rvq.refine(
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
      f'together: mean squared error {joint.error:.4g}, {joint.bits:.1f} bits'
    )
    codes, counts = joint.codes, joint.counts
  return {
    'codes': codes.astype(np.float16),
    'counts': counts.astype(np.int32),
  }


@jax.jit
def _residual(x, codes):
  return x - codes[vq.nearest(x, codes)]


def train(
  config: Any,
  model: paligemma.Model,
  reader: Any,
  workdir: str | os.PathLike[str],
) -> pretrained.QuantizerParams:
  """Trains the quantizer parameters that a config describes.

  Args:
    config: From configs/codebook.py.
    model: The model whose features they are for.
    reader: Pictures to train on, with captions for the metric 'gradient'.
    workdir: Gets vectors.npy, the training data, and book.safetensors.

  Returns:
    The parameters, as they were written.

  Raises:
    ValueError: As `validate.check`, or there are too few vectors.
    BlockingIOError: Another process trains in the folder.
  """
  transform = validate.check(config, model)
  for text in config.sent:  # Raises before anything is written.
    feature_dump.FeatureDump(model, text, config.split)
  workdir = pathlib.Path(workdir)
  with contextlib.ExitStack() as stack:
    if distributed.is_first():
      stack.enter_context(jsonl.locked(workdir))
    return _train(config, model, reader, transform, workdir)


def _train(
  config: Any,
  model: paligemma.Model,
  reader: Any,
  transform: Any,
  workdir: pathlib.Path,
) -> pretrained.QuantizerParams:
  """Collects vectors and trains on them, in a folder of one's own."""
  began = time.perf_counter()
  x, moments = feature_dump.collect(
    model, reader, config, workdir / 'vectors.npy'
  )
  took = time.perf_counter() - began
  print(f'{len(x):,} vectors of width {x.shape[1]}, {took:.0f} s')
  features = codecs.features_of(model, config.split)
  metric = None
  if config.kind == 'linear':
    metric = transforms.make_metric(model, config, moments)
  notes = {
    'model': model.config.name,
    'data': f'{reader.name}, {len(reader)} pictures',
    'sent': ' '.join(config.sent),
    'transform': config.transform,
    'metric': config.metric,
    'vectors': str(len(x)),
    'seed': str(config.seed),
    **_kind_notes(config),
  }
  path = workdir / 'book.safetensors'
  # From here on no process needs the others' devices.
  if distributed.is_first():
    arrays, kind, width = _fit(
      config, x, metric, len(reader), transform, workdir
    )
    pretrained.save(
      path,
      arrays,
      kind=kind,
      width=width,
      features=features,
      transform=transform.coordinates() if transform else '',
      notes=notes,
    )
  distributed.wait()
  params = pretrained.load(str(path))
  took = time.perf_counter() - began
  print(f'{took:.0f} s, fingerprint {params.fingerprint}')
  return params


def _fit(
  config: Any,
  x: Float[np.ndarray, 'count d'],
  metric: Float[np.ndarray, 'd d'] | None,
  pictures: int,
  transform: Any,
  workdir: pathlib.Path,
) -> tuple[dict[str, np.ndarray], str, int]:
  """Returns the arrays that vectors make, their kind, and their width."""
  if config.kind == 'places':
    mean = transforms.fit_position_mean(x, pictures)
    return {'mean': mean}, 'places', x.shape[1]
  if config.kind == 'linear':
    return transforms.fit_pca(x, metric), 'linear', x.shape[1]
  if transform:
    x = _transformed(x, transform, workdir / 'transformed.npy')
  return fit_codebook(x, config), 'codebook', x.shape[1]


def _kind_notes(config):
  """Returns the notes of the settings that matter to a kind."""
  names = ()
  if config.kind in _KIND_SETTINGS:
    names = _CODEBOOK_SETTINGS + _KIND_SETTINGS[config.kind]
  elif config.kind == 'linear' and config.metric == 'gradient':
    names = _METRIC_SETTINGS
  return {'kind': config.kind, **{name: str(config[name]) for name in names}}


def _transformed(x, pca, path):
  """Writes the coordinates of vectors, as `quantizers.PCA` makes them."""
  params = pca.init_params(random_keys.make(0), 1, x.shape[1])
  shape = (len(x), pca.dims)
  out = np.lib.format.open_memmap(path, 'w+', np.float32, shape)
  for start in range(0, len(x), _CHUNK):
    part = jnp.asarray(x[start : start + _CHUNK]) - params['mean']
    out[start : start + _CHUNK] = part @ params['forward']
  return out
