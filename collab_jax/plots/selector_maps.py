"""Maps of the vectors that each selector keeps of a picture."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

import jax
from jaxtyping import UInt8
import matplotlib as mpl
from matplotlib import figure as figures
import numpy as np

from collab_jax import codecs, quantizers, random_keys
from collab_jax.evaluation.report import settings
from collab_jax.models import paligemma
from collab_jax.plots import maps, style

_PANEL = 1.32  # Inches.
_TITLE = 0.27


def selector_maps(
  model: paligemma.Model,
  images: Mapping[str, UInt8[np.ndarray, 'H W 3']],
  selectors: Sequence[Any],
  columns: int = 8,
  key: jax.Array | None = None,
) -> figures.Figure:
  """Draws which vectors stand for which, a panel for each selector.

  A vector's colour is its place on the three main axes of the picture's own
  features, so it means the same in all panels of a picture. Where clusters are
  sent, lines part what is rebuilt to different vectors; where vectors are
  selected, only these have a colour.

  Args:
    model: The model, whose vectors form a square grid.
    images: Pictures of the model's size, by label.
    selectors: Quantizers; the titles tell where one does not send as many
      vectors as the first.
    columns: Panels in a row.
    key: Random key, by default key(0).

  Returns:
    The figure.
  """
  key = random_keys.make(0) if key is None else key
  rows = math.ceil((len(selectors) + 1) / columns)
  band = rows * (_PANEL + _TITLE)
  width = columns * _PANEL + 0.2
  height = len(images) * (band + 0.12) + 0.55
  figure = style.new_figure(width, height)
  with mpl.rc_context(style.RC):
    for n, (name, image) in enumerate(images.items()):
      top = height - 0.5 - n * (band + 0.12)
      for i, panel in enumerate(_panels(model, name, image, selectors, key)):
        x = 0.1 + (i % columns) * _PANEL
        y = top - (i // columns + 1) * (_PANEL + _TITLE)
        axes = figure.add_axes(
          (
            (x + 0.04) / width,
            y / height,
            (_PANEL - 0.08) / width,
            (_PANEL - 0.08) / height,
          )
        )
        style.bare(axes)
        axes.imshow(panel['image'], interpolation='nearest')
        axes.set_title(panel['title'], fontsize=7.5, pad=2.5)
        if 'clusters' in panel:
          maps.borders(axes, panel['clusters'])
    vectors = model.config.vision.num_tokens
    style.titles(
      figure,
      f'What each leaves of the {vectors} vectors:'
      f' {selectors[0].sent(vectors)} are sent',
      f'Features of the {style.plain(model.config.name)} model',
      (1 - 0.1 / height, 1 - 0.3 / height),
      0.1 / width,
      (11, 8),
    )
  return figure


def _panels(model, name, image, selectors, key) -> list[dict[str, Any]]:
  """Returns title, image and clusters of each selector's panel."""
  whole = codecs.FeatureCodec(model, quantizers.Identity())
  features = whole.features(image[None])
  original = np.asarray(features[0], np.float32)
  colours = codecs.colours_by_axes(original)
  n, side = len(original), math.isqrt(len(original))
  panels: list[dict[str, Any]] = [{'title': style.plain(name), 'image': image}]
  for quantizer in selectors:
    codec = codecs.FeatureCodec(model, quantizer)
    inputs, aux = codec.observe(image[None], features)
    message = codec.quantize(inputs, key, None, aux)
    rebuilt = np.asarray(codec.rebuild_message(message)[0].x, np.float32)[0]
    sent = quantizer.sent(n)
    panel: dict[str, Any] = {
      'title': _title(quantizer, None if sent == selectors[0].sent(n) else sent)
    }
    pixels = np.asarray(colours(rebuilt)).reshape(-1, 3)
    if len(rebuilt) == n:
      # Of vectors that are equal, the first says which cluster it is.
      equal = np.unique(rebuilt.round(4), axis=0, return_inverse=True)[1]
      panel['clusters'] = _clusters(message, equal.ravel()).reshape(side, side)
    else:
      first = {field: value[0] for field, value in message.items()}
      origins = np.asarray(quantizer.origins(first))
      # Tokens behind these are of vectors that are not used.
      selected, pixels = pixels[: len(origins)], np.full((n, 3), 0.93)
      pixels[origins] = selected
    panels.append({**panel, 'image': pixels.reshape(side, side, 3)})
  return panels


def _clusters(message, default):
  """Returns the assignments of a message, at whatever level they are."""
  for name, value in message.items():
    if name.rpartition('/')[2] == 'assignments':
      return value[0]
  return default


def _title(quantizer, sent: int | None) -> str:
  """Returns a selector's name without k, and how many it sends if not None."""
  shown = settings.without(quantizers.settings(quantizer), 'k')
  name = style.plain(settings.text(shown))
  if sent is not None:
    name += f', {sent} sent'
  if len(name) > 22:  # In two lines.
    name = name.replace('(', '\n(', 1)
  return name
