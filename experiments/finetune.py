r"""Trains a model with the quantizer inside of it: `make finetune`.

python experiments/finetune.py --config=configs/finetune.py:mode=full \
    --workdir=runs/finetune

For a released model and photographs, with adapters:

python experiments/finetune.py --config=configs/finetune.py:mode=released \
    --config.model_path=/path/to/folder --config.data_dir=/path/to/coco \
    --workdir=runs/tuned --only_train

It trains through the quantizer and, as much, without it, and compares both and
the start model in captions and bytes. Started again, it goes on where it was.
The models, in trained_through/model and trained_without/model, are what
`collab_jax.load` reads. `--only_train` leaves out all but the first.
"""

if __name__ == '__main__':  # Imports take seconds.
  from collab_jax import _interrupts

  _interrupts.watch_imports()

from pathlib import Path
import runpy
import time

from absl import app, flags

from collab_jax import config as config_lib
from collab_jax import launcher, monitoring, studies
from collab_jax.training import memory

_CONFIG = config_lib.define('configs/finetune.py')
_WORKDIR = flags.DEFINE_string('workdir', 'runs/finetune', 'Where to write.')
_MONITOR = monitoring.define_flags()
_ONLY = flags.DEFINE_bool('only_train', False, 'Train through it, no more.')


def _changed(name, changes):
  """Reads a config, by 'name' or 'name:argument', and changes some fields."""
  name, _, argument = name.partition(':')
  path = Path(__file__).parents[1] / 'configs' / f'{name}.py'
  config = runpy.run_path(str(path))['get_config'](argument)
  config.update({k: v for k, v in changes.items() if k != 'mode'})
  return config


def _pictures(config, split):
  """Returns the fields that name pictures; none for the generated scenes."""
  if config.data == 'scenes':
    return {}
  names = ('data', 'data_dir', 'preprocess', 'tokenizer', 'prompt', 'mesh')
  return {'data_split': split, **{name: config[name] for name in names}}


def main(argv):
  """Trains, compares the models, and prints the tables and the files."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with studies.runtime(), _MONITOR(_WORKDIR.value, _CONFIG.value):
    start = time.perf_counter()
    config, workdir = _CONFIG.value, Path(_WORKDIR.value)
    compare = config.compare
    rate = None
    if not _ONLY.value:
      pictures = _pictures(config, config.eval_split)
      rate = _changed('rate', {**pictures, **compare.rate})
    pictures = _pictures(config, config.data_split)
    books = {
      name: _changed(f'codebook:mode={changes.mode}', {**pictures, **changes})
      for name, changes in compare.books.items()
    }
    study = studies.FinetuneStudy(config, rate, books)
    study.validate()
    print(study.describe(), flush=True)
    print(memory.estimate(config, study.dimensions), flush=True)
    if _ONLY.value:
      study.train(workdir, both=False)
    else:
      print(study.report(study.run(workdir), workdir))
    print(f'{workdir}: {studies.list_files(workdir)}')
    print(f'{time.perf_counter() - start:.0f} s')


if __name__ == '__main__':
  launcher.start(main)
