"""The paper's two figures on the tiny model, from nothing: `make demo`.

python experiments/demo.py --config.limit=100 --workdir=runs/demo
"""

from pathlib import Path
import time

from absl import app, flags

from collab_jax import config as config_lib
from collab_jax import (
  evaluation,
  jsonl,
  studies,
)

_CONFIG = config_lib.define('configs/tradeoff.py')
_WORKDIR = flags.DEFINE_string('workdir', 'runs/demo', 'Where to write.')


def main(argv):
  """Evaluates, draws both figures, and prints what came out."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with studies.runtime():
    start = time.perf_counter()
    workdir, config = Path(_WORKDIR.value), _CONFIG.value
    print(studies.describe_run(config), flush=True)
    records = studies.evaluate(config, workdir / 'records.jsonl')
    jsonl.write_json(workdir / 'config.json', config.to_dict())
    text = studies.report(records, workdir, config)
    studies.draw_fig2(config, workdir / 'fig2')
    print('', evaluation.samples(records), '', text, '', sep='\n')
    print(f'{workdir}: {studies.list_files(workdir)}')
    print(f'{len(records):,} captions, {time.perf_counter() - start:.0f} s')


if __name__ == '__main__':
  app.run(main)
