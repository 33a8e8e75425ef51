r"""Trains the tiny model from nothing: vocabulary, encoder, captions, answers.

python experiments/train.py --config=configs/train_tiny.py \
    --workdir=runs/train_tiny

Started again, it goes on from its last checkpoint. The result, in
workdir/model, is what `collab_jax.load` reads.

python experiments/train.py --config=configs/train_questions.py \
    --workdir=runs/train_tiny_questions

teaches that captioner to answer questions and to find boxes.
"""

if __name__ == '__main__':  # Imports take seconds.
  from collab_jax import _interrupts

  _interrupts.watch_imports()

from typing import Any, cast

from absl import app, flags

from collab_jax import config as config_lib
from collab_jax import (
  launcher,
  monitoring,
  sharding,
  studies,
  training,
)
from collab_jax.models import paligemma

_CONFIG = config_lib.define('configs/train_tiny.py')
_WORKDIR = flags.DEFINE_string('workdir', 'runs/train_tiny', 'Where to write.')
_MONITOR = monitoring.define_flags()


def main(argv):
  """Trains, and prints the files."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with studies.runtime(), _MONITOR(_WORKDIR.value, _CONFIG.value):
    config = cast(Any, _CONFIG.value)
    dimensions = paligemma.Config.from_dict(config.model.to_dict())
    mesh = sharding.make_mesh(config.mesh.data)
    work = f'{config.steps:,} steps of {config.batch_size} pictures'
    print(
      studies.describe_training(dimensions, 'scenes/train', work, mesh),
      flush=True,
    )
    train = training.train
    if config.get('stage') == 'questions':
      train = training.train_questions
    train(config, _WORKDIR.value)
    print(f'{_WORKDIR.value}: {studies.list_files(_WORKDIR.value)}')


if __name__ == '__main__':
  launcher.start(main)
