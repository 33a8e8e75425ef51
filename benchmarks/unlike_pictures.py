r"""Counts pictures that the tiny model's statistics call unlike its scenes.

pip install --no-deps --target=/tmp/photographs scikit-image scikit-learn \
    matplotlib gradio imgaug ultralytics
python -m benchmarks.unlike_pictures --folder=/tmp/photographs

False alarms on scenes that neither the statistics nor their threshold were made
of, as they are and as JPEG files; alarms on photographs: those that ship with
this package, and those that the packages above have in their wheels. Nothing of
those packages is run.
"""

import io
import pathlib

from absl import app, flags
import numpy as np
from PIL import Image

from collab_jax import checkpoints, codecs, data, launcher
from collab_jax.data import pictures
from collab_jax.evaluation.report import text

_FOLDER = flags.DEFINE_string('folder', '', 'Folder of those packages.')
_SCENES = flags.DEFINE_integer('scenes', 500, 'Scenes of each kind.')

_BATCH = 50
_QUALITY = 75

# Photographs in the packages' folders; no drawings, no scans of text, none of
# those that ship here.
PHOTOGRAPHS = {
  'skimage/data': (
    *('brick.png', 'cell.png', 'clock_motion.png', 'coins.png', 'grass.png'),
    *('gravel.png', 'hubble_deep_field.jpg', 'ihc.png', 'microaneurysms.png'),
    *('moon.png', 'motorcycle_left.png', 'retina.jpg'),
  ),
  'sklearn/datasets/images': ('china.jpg', 'flower.jpg'),
  'matplotlib/mpl-data/sample_data': ('grace_hopper.jpg',),
  'gradio/media_assets/images': (
    *('cheetah.jpg', 'cheetah1.jpg', 'groot.jpeg', 'lion.jpg', 'tower.jpg'),
  ),
  'gradio/test_data': ('cheetah2.jpg',),
  'imgaug': ('quokka.jpg',),
  'ultralytics/assets': ('bus.jpg', 'zidane.jpg'),
}


def find_photographs(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the photographs that are there."""
  paths = [
    folder / place / name
    for place, names in PHOTOGRAPHS.items()
    for name in names
  ]
  return [path for path in paths if path.is_file()]


def as_jpeg(image: np.ndarray) -> np.ndarray:
  """Returns a picture as a JPEG file leaves it."""
  file = io.BytesIO()
  Image.fromarray(image).save(file, 'JPEG', quality=_QUALITY)
  return pictures.decode(file.getvalue(), 'JPEG')


class Alarms:
  """Rows of the table: pictures, alarms, and distances over the threshold."""

  def __init__(self, dtype: str):
    """Loads the model, its products in a dtype."""
    self.model = checkpoints.load('tiny', part='edge', compute_dtype=dtype)
    self.codecs = {
      split: codecs.FeatureCodec(self.model, 'identity', split)
      for split in codecs.SPLITS
    }

  def distances(self, images: list[np.ndarray], split: str) -> np.ndarray:
    """Returns the distance of each picture over the threshold."""
    assert self.model.statistics is not None
    gaussian = self.model.statistics.splits[split]
    means = []
    for start in range(0, len(images), _BATCH):
      batch = images[start : start + _BATCH]
      padded = np.stack(batch + batch[-1:] * (_BATCH - len(batch)))
      features = np.asarray(self.codecs[split].features(padded), np.float32)
      means.append(features.mean(1)[: len(batch)])
    distances = gaussian.distances(np.concatenate(means))
    return distances / gaussian.threshold

  def row(self, name: str, images: list[np.ndarray], split: str) -> list[str]:
    """Returns a row of the table."""
    ratios = self.distances(images, split)
    dtype = self.model.compute_dtype
    low, middle, high = np.quantile(ratios, (0, 0.5, 1))
    return [
      name,
      split,
      dtype,
      f'{len(images):,}',
      f'{(ratios > 1).sum()}',
      f'{100 * (ratios > 1).mean():.1f}%',
      f'{low:.2f} {middle:.2f} {high:.2f}',
    ]


def main(argv):
  """Prints the table."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  paths = find_photographs(pathlib.Path(_FOLDER.value))
  if _FOLDER.value and not paths:
    raise SystemExit(
      f'error: folder: got {_FOLDER.value!r}, expected one with'
      f' {"/, ".join(PHOTOGRAPHS)}/'
    )
  with launcher.runtime('highest'):
    count = _SCENES.value
    kinds = {
      f'{split} scenes': [e.image for e in data.scenes(split, count)]
      for split in ('test', 'dense')
    }
    jpegs = [as_jpeg(image) for image in kinds['test scenes']]
    kinds[f'test scenes, JPEG {_QUALITY}'] = jpegs
    size = kinds['test scenes'][0].shape[0]
    kinds['shipped photographs'] = [e.image for e in data.photos(size=size)]
    if _FOLDER.value:
      others = [data.read_image(path, size) for path in paths]
      kinds["packages' photographs"] = others
    head = ['pictures', 'split', 'products', 'number', 'alarms', '', 'distance']
    rows = [head]
    for dtype in ('float32', 'bfloat16'):
      alarms = Alarms(dtype)
      rows += [
        alarms.row(name, images, split)
        for split in codecs.SPLITS
        for name, images in kinds.items()
      ]
    print(text.align(rows, left=3))
    print('distance: smallest, median and largest, over the threshold')


if __name__ == '__main__':
  app.run(main)
