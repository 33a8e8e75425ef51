r"""Draws the vectors that each selector keeps of a scene and a photograph.

python experiments/selector_maps.py --out=docs/images/selector_maps.png

The photograph is scikit-image's, to look at, if that is installed; no number
comes from it.
"""

if __name__ == '__main__':  # Imports take seconds.
  from collab_jax import _interrupts

  _interrupts.watch_imports(_interrupts.BEGINS_ANEW)

import importlib
import importlib.util
import math
from pathlib import Path

from absl import app, flags
import numpy as np
from PIL import Image

from collab_jax import (
  checkpoints,
  codecs,
  data,
  launcher,
  plots,
  quantizers,
  studies,
)
from collab_jax import config as config_lib

_CONFIG = config_lib.define('configs/baselines.py')
_MODEL = flags.DEFINE_string('model', 'tiny', "Name, or a model's folder.")
_K = flags.DEFINE_integer('k', 8, 'Number of vectors sent.', lower_bound=1)
_SCENE = flags.DEFINE_integer('scene', 7, 'Which of the test scenes.')
_OUT = flags.DEFINE_string('out', 'runs/selector_maps.png', 'Where to write.')


def main(argv):
  """Draws, and says where the figure is."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with studies.runtime(resumes=False):
    # The last two send other numbers: at most k, and squares.
    methods = (*_CONFIG.value.methods, 'adaptive(error=0.5)')
    selectors = [codecs.make_method(text, _K.value) for text in methods]
    square = max(1, round(math.sqrt(_K.value))) ** 2
    selectors.append(quantizers.make('resized', k=square))
    model = checkpoints.load(_MODEL.value)
    size = model.config.vision.image_size
    scene = data.scenes('test', _SCENE.value + 1)[_SCENE.value]
    images = {'a scene': scene.image}
    if importlib.util.find_spec('skimage'):
      pictures = importlib.import_module('skimage.data')
      photo = Image.fromarray(np.asarray(pictures.astronaut())).resize(
        (size, size), Image.Resampling.BICUBIC
      )
      images['a photograph'] = np.asarray(photo)
    out = Path(_OUT.value)
    figure = plots.selector_maps(model, images, selectors)
    plots.save(figure, out.with_suffix(''))
    print(f'{out}: {", ".join(images)}, {len(selectors)} selectors')


if __name__ == '__main__':
  launcher.start(main)
