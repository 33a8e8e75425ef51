r"""Runs the work units of a config's sweep, or one machine's share of them.

python experiments/sweep.py --config=configs/tradeoff.py:mode=tiny \
    --workdir=runs/sweep --shard=0/2
python experiments/plot.py --records='runs/sweep/units/*.jsonl'

A unit is a file of records; started again, the sweep makes what is missing.
"""

if __name__ == '__main__':  # Imports take seconds.
  from collab_jax import _interrupts

  _interrupts.watch_imports()

from pathlib import Path
from typing import Any, cast

from absl import app, flags

from collab_jax import config as config_lib
from collab_jax import evaluation, jsonl, launcher, monitoring, studies
from collab_jax.studies import sweep as sweep_lib

_CONFIG = config_lib.define('configs/tradeoff.py')
_WORKDIR = flags.DEFINE_string('workdir', 'runs/sweep', 'Where to write.')
_MONITOR = monitoring.define_flags()
_SHARD = flags.DEFINE_string('shard', '0/1', 'Units i, i + n, ..., as i/n.')


def main(argv):
  """Evaluates this shard's units one after the other."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with studies.runtime(), _MONITOR(_WORKDIR.value, _CONFIG.value):
    first, count = sweep_lib.parse_shard(_SHARD.value)
    flag = cast(Any, flags.FLAGS['config'])  # Of ml_collections.
    sweep = sweep_lib.load_sweep(config_lib.locate(flag.config_filename))
    units = sweep_lib.work_units(_CONFIG.value, sweep)
    # The headline is of the whole sweep, by the model of its units.
    *unit_studies, whole = sweep_lib.make_studies([*units, _CONFIG.value])
    for study in unit_studies:
      study.validate()
    print(whole.describe(), flush=True)
    folder = Path(_WORKDIR.value) / 'units'
    for number, study in enumerate(unit_studies):
      if number % count == first:
        methods = list(cast(tuple[str, ...], study.config.methods))
        print(f'unit {number} of {len(units)}: {methods or "lines"}')
        jsonl.write_json(folder / f'{number:03}.json', study.config.to_dict())
        records = study.run(folder / f'{number:03}.jsonl')
        if any(record['references'] for record in records):
          rows = evaluation.summarize(
            records, metrics=study.metrics, **study.draws
          )
          studies.write_scores(rows)


if __name__ == '__main__':
  launcher.start(main)
