"""Records which pictures a model of generated scenes was trained on.

python tools/feature_statistics.py --model=collab_jax/assets/tiny

Fits a normal distribution to the mean features of training scenes, half of them
dense, before and after the projection; the largest distance of the scenes in
'val' becomes the threshold. Writes the file of that name into the folder, from
where `load` takes it: pictures further away are then warned of.
"""

import pathlib

from absl import app, flags
import jax
import numpy as np
import tqdm

from collab_jax import checkpoints, codecs, data, launcher
from collab_jax.models import feature_statistics

_MODEL = flags.DEFINE_string('model', None, "The model's folder.")
_SCENES = flags.DEFINE_integer(
  'scenes', 4000, 'Scenes of each training split.', lower_bound=100
)
flags.mark_flag_as_required('model')

_BATCH = 100
_PICTURES = 'the generated scenes'


def mean_features(model, scenes) -> dict[str, np.ndarray]:
  """Returns the mean feature vector of each scene, f32[B D], by split."""
  means = {split: [] for split in codecs.SPLITS}
  encode = codecs.FeatureCodec(model, 'identity', 'encoder').features
  project = jax.jit(model.project)
  for start in tqdm.trange(0, len(scenes), _BATCH, desc=scenes.name):
    images = np.stack([e.image for e in _examples(scenes, start)])
    features = encode(images)
    for split, x in (('encoder', features), ('head', project(features))):
      means[split].append(np.asarray(x).mean(1))
  return {split: np.concatenate(rows) for split, rows in means.items()}


def _examples(scenes, start: int):
  return [scenes[i] for i in range(start, min(start + _BATCH, len(scenes)))]


def main(argv):
  """Writes the statistics."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with launcher.runtime('highest'):
    folder = pathlib.Path(_MODEL.value)
    model = checkpoints.load(folder, part='edge', dtype='float32')
    count = _SCENES.value
    training = [
      mean_features(model, data.scenes(split, count))
      for split in ('train', 'train_dense')
    ]
    held_out = mean_features(model, data.scenes('val'))
    splits = {
      split: feature_statistics.fit(
        np.concatenate([means[split] for means in training]), held_out[split]
      )
      for split in codecs.SPLITS
    }
    statistics = feature_statistics.FeatureStatistics(
      _PICTURES, codecs.encoder_fingerprint(model), splits
    )
    path = folder / feature_statistics.FILE
    feature_statistics.save(path, statistics)
    for split, gaussian in splits.items():
      print(f'{path}: {split}: threshold {gaussian.threshold:.4f}')


if __name__ == '__main__':
  app.run(main)
