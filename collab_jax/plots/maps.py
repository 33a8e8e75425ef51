"""Fig. 2 of the paper: the features of one picture, before and after."""

from collections.abc import Sequence
import math
import textwrap
from typing import Any

import jax
from jaxtyping import Int, UInt8
import matplotlib as mpl
from matplotlib import axes as mpl_axes
from matplotlib import collections
from matplotlib import figure as figures
import numpy as np

from collab_jax import _validate, codecs, quantizers, random_keys
from collab_jax import captioner as captioning
from collab_jax.evaluation.report import text as text_lib
from collab_jax.models import paligemma
from collab_jax.plots import style

KS = (64, 32, 16, 8, 4)

_COLUMN = 1.62  # Inches.


def check_picture(image: Any) -> None:
  """Raises ValueError unless this is one picture."""
  shape = tuple(getattr(image, 'shape', ()))
  if len(shape) != 3:
    got = f'shape {shape}' if shape else type(image).__name__
    raise ValueError(
      f'image: got {got}, expected one picture [H, W, 3]; of a batch take one,'
      ' images[0]'
    )


def fig2(
  model: paligemma.Model,
  image: UInt8[np.ndarray, 'H W 3'],
  ks: Sequence[int] | None = None,
  init: str = '++',
  key: jax.Array | None = None,
  captioner: captioning.Captioner | None = None,
  batch_size: int = 1,
) -> figures.Figure:
  """Draws a picture's features before and after k-means.

  Above: the L2 norm of each vector, all maps on one scale. Below: the
  clusters. A cluster's colour is its centroid's place on the three main axes
  of the picture's features, so it means the same in every map; white lines
  part the clusters.

  Args:
    model: The model.
    image: A picture of the model's size, 0..255.
    ks: Numbers of centroids; by default 64, 32, 16, 8 and 4, as far as the
      model has so many vectors.
    init: Of k-means: '++' or 'random'.
    key: Random key, by default key(0).
    captioner: If given, its captions stand under the columns.
    batch_size: Copies of the picture that are computed; with the batch size
      of an evaluation in the same process, its compiled programs serve again.

  Returns:
    The figure.

  Raises:
    ValueError: A k is larger than the model's number of vectors.
  """
  key = random_keys.make(0) if key is None else key
  tokens = model.config.vision.num_tokens
  side = math.isqrt(tokens)
  if ks is None:
    ks = [k for k in KS if k <= tokens]
  full = codecs.FeatureCodec(model, quantizers.Identity())
  check_picture(image)
  features = full.features(np.stack([image] * batch_size))
  original = np.asarray(features, np.float32)[0]
  colours = codecs.colours_by_axes(original)
  packets = full.encode_features(features, key)
  columns = [_column('features', full, packets, original, colours)]
  for k in ks:
    codec = codecs.FeatureCodec(model, quantizers.KMeans(k=k, init=init))
    message = codec.quantize(features, key)
    packets = codec.pack(message)
    rebuilt = np.asarray(codec.rebuild(packets)[0].x)[0]
    column = _column(f'k = {k}', codec, packets, rebuilt, colours)
    column['clusters'] = message['assignments'][0].reshape(side, side)
    columns.append(column)
  if captioner:
    for column in columns:
      prefix = column['codec'].decode(column['packets'])
      column['caption'] = captioner(prefix)[0]
  return _draw(image, columns, side, model.config.name)


def cluster_maps(
  model: paligemma.Model,
  images: Sequence[UInt8[np.ndarray, 'H W 3']],
  ks: Sequence[int] = (32, 8, 4),
  init: str = '++',
  key: jax.Array | None = None,
  batch_size: int | None = None,
) -> figures.Figure:
  """Draws the clusters of several pictures, a column each; see `fig2`.

  Of photographs too, of which the tiny model's captions mean nothing: clusters
  are made of features alone.

  Args:
    model: The model.
    images: Pictures of the model's size, 0..255.
    ks: Numbers of centroids.
    init: Of k-means: '++' or 'random'.
    key: Random key, by default key(0).
    batch_size: Pictures that are computed, the last one repeated; with the
      batch size of an evaluation in the same process, its compiled programs
      serve again. None for the number of pictures.

  Returns:
    The figure.

  Raises:
    ValueError: There are no pictures, more than the batch size, or a k is
      larger than the model's number of vectors.
  """
  size = len(images) if batch_size is None else batch_size
  if not 0 < len(images) <= size:
    raise _validate.error('images: number', len(images), f'1 to {size}')
  key = random_keys.make(0) if key is None else key
  side = math.isqrt(model.config.vision.num_tokens)
  last = [images[-1]] * (size - len(images))
  full = codecs.FeatureCodec(model, quantizers.Identity())
  features = full.features(np.stack([*images, *last]))
  original = np.asarray(features, np.float32)[: len(images)]
  colours = [codecs.colours_by_axes(vectors) for vectors in original]
  figure = style.new_figure(
    1.25 * len(images) + 0.45, 1.25 * (len(ks) + 1) + 0.75
  )
  width, height = figure.get_size_inches()

  def place(row: int, column: int) -> mpl_axes.Axes:
    left, top = 0.4 + 1.25 * column, 0.7 + 1.25 * (row + 1)
    box = left / width, 1 - top / height, 1.19 / width, 1.19 / height
    axes = figure.add_axes(box)
    style.bare(axes)
    return axes

  with mpl.rc_context(style.RC):
    for column, image in enumerate(images):
      axes = place(0, column)
      axes.imshow(image, interpolation='nearest')
      if not column:
        axes.set_ylabel('picture', labelpad=3)
    for row, k in enumerate(ks, 1):
      codec = codecs.FeatureCodec(model, quantizers.KMeans(k=k, init=init))
      message = codec.quantize(features, key)
      rebuilt = np.asarray(codec.rebuild(codec.pack(message))[0].x)
      for column, colour in enumerate(colours):
        axes = place(row, column)
        axes.imshow(colour(rebuilt[column]).reshape(side, side, 3))
        borders(axes, message['assignments'][column].reshape(side, side))
        if not column:
          axes.set_ylabel(f'k = {k}', labelpad=3)
    style.titles(
      figure,
      'Clusters of several pictures',
      f'Features of the {style.plain(model.config.name)} model in k clusters;'
      " colours are of each picture's own main axes",
      (1 - 0.12 / height, 1 - 0.39 / height),
      0.12 / width,
    )
  return figure


def _column(title: str, codec, packets, vectors, colours) -> dict[str, Any]:
  """Returns norms and colours of the vectors that a codec rebuilds."""
  return {
    'title': title,
    'norms': np.linalg.norm(vectors, axis=-1),
    'colours': colours(vectors),
    'packets': packets,
    'codec': codec,
  }


def _draw(image, columns, side: int, name: str) -> figures.Figure:
  """Draws the columns of maps beside the picture."""
  captions = any('caption' in column for column in columns)
  width = _COLUMN * (len(columns) + 1.28) + 0.68
  top, bottom = 0.85, 1.15 if captions else 0.35
  height = 2 * _COLUMN + top + bottom
  figure = style.new_figure(width, height)
  cell, gap = _COLUMN / width, 0.1 / width
  tall, low = _COLUMN / height, bottom / height

  def place(column: float, row: int, size: float = 1.0) -> mpl_axes.Axes:
    axes = figure.add_axes(
      (
        0.12 / width + column * cell,
        low + row * tall + 0.04 / height,
        size * cell - gap,
        size * (tall - 0.1 / height),
      )
    )
    style.bare(axes)
    return axes

  norms = [column['norms'] for column in columns]
  scale = {'vmin': np.min(norms), 'vmax': np.max(norms), 'cmap': 'magma'}
  with mpl.rc_context(style.RC):
    picture = place(0, 0, 1.22)
    picture.imshow(image, interpolation='nearest')
    picture.set_title('picture', fontsize=9.5)
    shift = (2 * tall - 1.22 * tall) / 2
    box = picture.get_position()
    picture.set_position((box.x0, box.y0 + shift, box.width, box.height))
    shown = None
    for n, column in enumerate(columns, 1):
      above, below = place(n + 0.28, 1), place(n + 0.28, 0)
      shown = above.imshow(column['norms'].reshape(side, side), **scale)
      below.imshow(column['colours'].reshape(side, side, 3))
      above.set_title(column['title'], fontsize=9.5, fontweight='bold')
      if n == 1:
        above.set_ylabel('L2 norm', labelpad=3)
        below.set_ylabel('clusters', labelpad=3)
      if 'clusters' in column:
        borders(below, column['clusters'])
      _under(below, column)
    left, up = 0.12 / width + (len(columns) + 1.28) * cell, low + tall
    bar = figure.add_axes(
      (left, up + 0.04 / height, 0.09 / width, tall - 0.1 / height)
    )
    assert shown is not None  # There is always the column of all features.
    figure.colorbar(shown, cax=bar)
    bar.tick_params(labelsize=7.5, length=2)
    bar.spines[:].set_visible(False)
    style.titles(
      figure,
      'What k-means leaves of a picture',
      f'Features of the {style.plain(name)} model before and after'
      ' quantization; equal colours inside white lines are one cluster',
      (1 - 0.12 / height, 1 - 0.39 / height),
      0.12 / width,
    )
  return figure


def borders(axes: mpl_axes.Axes, clusters: Int[np.ndarray, 'h w']):
  """Draws a line between neighbours of different clusters."""
  rows, cols = np.nonzero(clusters[:, 1:] != clusters[:, :-1])
  across = [
    [(x + 0.5, y - 0.5), (x + 0.5, y + 0.5)]
    for y, x in zip(rows, cols, strict=True)
  ]
  rows, cols = np.nonzero(clusters[1:] != clusters[:-1])
  down = [
    [(x - 0.5, y + 0.5), (x + 0.5, y + 0.5)]
    for y, x in zip(rows, cols, strict=True)
  ]
  axes.add_collection(
    collections.LineCollection(
      across + down, colors='white', linewidths=0.6, capstyle='round'
    )
  )


def _under(axes: mpl_axes.Axes, column: dict[str, Any]):
  text = text_lib.size(len(column['packets'][0]))
  axes.set_xlabel(text, fontsize=8, color=style.GREY, labelpad=3)
  if 'caption' in column:
    axes.text(
      0,
      -0.16,
      '\n'.join(textwrap.wrap(style.plain(column['caption']), 25)[:6]),
      transform=axes.transAxes,
      fontsize=6.8,
      verticalalignment='top',
      linespacing=1.25,
    )
