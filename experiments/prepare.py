r"""Prepares a dataset with TensorFlow Datasets, to be read without TensorFlow.

python experiments/prepare.py --dataset=coco_captions --folder=/data
python experiments/evaluate.py --config.data=tfds \
    --config.data_dir=/data/coco_captions --config.data_split=val
"""

if __name__ == '__main__':  # Imports take seconds.
  from collab_jax import _interrupts

  _interrupts.watch_imports(_interrupts.BEGINS_ANEW)

from absl import app, flags

from collab_jax import (
  data,
  launcher,
  studies,
)

_DATASET = flags.DEFINE_string(
  'dataset', 'scenes', "'scenes', or 'coco_captions' (downloads 40 GB)."
)
_FOLDER = flags.DEFINE_string('folder', 'runs/tfds', 'Where datasets are kept.')


def main(argv):
  """Prepares the dataset, and prints its folder."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with studies.runtime(resumes=False):
    print(data.prepare(_DATASET.value, _FOLDER.value))


if __name__ == '__main__':
  launcher.start(main)
