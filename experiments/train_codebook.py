r"""Trains quantizer parameters, which both ends of a link hold.

python experiments/train_codebook.py \
    --config=configs/codebook.py:mode=centroids --workdir=runs/centroids

Then 'pca(dims=64,vectors=ecsq(...),book=runs/centroids/book.safetensors)'
names it, here and in what stands within. Beside it lie config.json, and
summary.json with what it was made with.
"""

if __name__ == '__main__':  # Imports take seconds.
  from collab_jax import _interrupts

  _interrupts.watch_imports(_interrupts.BEGINS_ANEW)

from pathlib import Path

from absl import app, flags

from collab_jax import config as config_lib
from collab_jax import (
  distributed,
  jsonl,
  launcher,
  provenance,
  sharding,
  studies,
)
from collab_jax.training import codebooks, train_loop

_CONFIG = config_lib.define('configs/codebook.py')
_WORKDIR = flags.DEFINE_string('workdir', 'runs/codebook', 'Where to write.')


def main(argv):
  """Trains, and prints the files."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  config = _CONFIG.value
  with studies.runtime(config.precision, resumes=False):
    mesh = studies.make_mesh(config)
    model = studies.load_model(config)
    reader = studies.make_data(config, model.config.vision.image_size)
    pictures = f'{reader.name}, {len(reader):,} pictures'
    work = f'{config.kind} parameters of {", ".join(config.sent)}'
    print(
      studies.describe_training(model.config, pictures, work, mesh), flush=True
    )
    workdir = Path(_WORKDIR.value)
    depends_on = train_loop.codebook_dependencies(config, model, reader)
    params = codebooks.train(config, model, reader, workdir)
    if not distributed.is_first():  # Which alone writes.
      return
    jsonl.write_json(workdir / 'config.json', config.to_dict())
    summary = {
      'settings': config.to_dict(),
      'depends_on': depends_on,
      'made_with': provenance.provenance(),
      'mesh': sharding.sizes(mesh),
      'fingerprint': params.fingerprint,
      'notes': dict(params.notes),
    }
    jsonl.write_json(workdir / 'summary.json', summary)
    print(f'{workdir}: {studies.list_files(workdir)}')


if __name__ == '__main__':
  launcher.start(main)
