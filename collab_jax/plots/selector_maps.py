"""What each selector leaves of a picture, as maps."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

import jax
from jaxtyping import UInt8
import matplotlib as mpl
from matplotlib import figure as figures
import numpy as np

from collab_jax import codecs, quantizers
from collab_jax.evaluation.report import settings
from collab_jax.models import paligemma
from collab_jax.plots import maps, style

_PANEL = 1.32  # Inches.
_TITLE = 0.27


def selector_maps(
  model: paligemma.Model,
  images: Mapping[str, UInt8[np.ndarray, 'H W 3']],
  made: Sequence[Any],
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
    images: Pictures of the model's size, by what to call them.
    made: Quantizers; the titles tell where one does not send as many vectors as
      the first.
    columns: Panels in a row.
    key: Random key, by default key(0).

  Returns:
    The figure.
  """
  key = jax.random.key(0) if key is None else key
  rows = math.ceil((len(made) + 1) / columns)
  band = rows * (_PANEL + _TITLE)
  width = columns * _PANEL + 0.2
  height = len(images) * (band + 0.12) + 0.55
  figure = style.new_figure(width, height)
  with mpl.rc_context(style.RC):
    for n, (name, image) in enumerate(images.items()):
      top = height - 0.5 - n * (band + 0.12)
      panels = _panels(model, name, image, made, key)
      for i, panel in enumerate(panels):
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
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.imshow(panel['image'], interpolation='nearest')
        axes.set_title(panel['title'], fontsize=7.5, pad=2.5)
        if 'clusters' in panel:
          maps.borders(axes, panel['clusters'])
    figure.text(
      0.1 / width,
      1 - 0.1 / height,
      f'What each leaves of the {model.config.vision.num_tokens} vectors:'
      f' {made[0].sent(model.config.vision.num_tokens)} are sent',
      fontsize=11,
      fontweight='bold',
      va='top',
    )
    figure.text(
      0.1 / width,
      1 - 0.3 / height,
      f'Features of the {model.config.name} model',
      fontsize=8,
      color=style.GREY,
      va='top',
    )
  return figure


def _panels(model, name, image, made, key) -> list[dict[str, Any]]:
  whole = codecs.FeatureCodec(model, quantizers.Identity())
  features = whole.features(image[None])
  original = np.asarray(features[0], np.float32)
  colours = codecs.colours_by_axes(original)
  side = math.isqrt(len(original))
  panels: list[dict[str, Any]] = [{'title': name, 'image': image}]
  for quantizer in made:
    codec = codecs.FeatureCodec(model, quantizer)
    seen, extra = codec.observe(image[None], features)
    message = codec.quantize(seen, key, None, extra)
    rebuilt = np.asarray(codec.rebuild_message(message)[0].x[0], np.float32)
    sent = quantizer.sent(len(original))
    other = sent if sent != made[0].sent(len(original)) else None
    panel: dict[str, Any] = {'title': _short(quantizer, other)}
    shown = np.full((side * side, 3), 0.93)
    if len(rebuilt) == len(original):
      shown = np.asarray(colours(rebuilt)).reshape(-1, 3)
      # Of vectors that are equal, the first says which cluster it is.
      found = np.unique(rebuilt.round(4), axis=0, return_inverse=True)[1]
      panel['clusters'] = _clusters(message, found.ravel()).reshape(side, side)
    else:
      one = {field: value[0] for field, value in message.items()}
      shown[np.asarray(quantizer.origins(one))] = np.asarray(
        colours(rebuilt)
      ).reshape(-1, 3)
    panels.append({**panel, 'image': shown.reshape(side, side, 3)})
  return panels


def _clusters(message, otherwise):
  """The assignments of a message, wherever they stand in it."""
  for name, value in message.items():
    if name.rpartition('/')[2] == 'assignments':
      return value[0]
  return otherwise


def _short(quantizer, sent: int | None) -> str:
  """Its name without k, in at most two lines, and how many it sends."""
  name = settings.text(settings.without(quantizers.settings(quantizer), 'k'))
  if sent is not None:
    name += f', {sent} sent'
  if len(name) > 22:
    head, _, rest = name.partition('(')
    name = f'{head}\n({rest}'
  return name
