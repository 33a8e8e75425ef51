r"""Evaluates captions over channels that lose packets, and over radio links.

python experiments/channel.py --config=configs/channel.py:mode=tiny \
    --config.limit=100 --workdir=runs/channel

Started again, it goes on where it was stopped.
"""

if __name__ == '__main__':  # Imports take seconds.
  from collab_jax import _interrupts

  _interrupts.watch_imports()

from pathlib import Path

from absl import app, flags

from collab_jax import config as config_lib
from collab_jax import launcher, monitoring, studies
from collab_jax.studies import sweep

_CONFIG = config_lib.define('configs/channel.py')
_WORKDIR = flags.DEFINE_string('workdir', 'runs/channel', 'Where to write.')
_MONITOR = monitoring.define_flags()
_SWEEP = sweep.define_flags()


def main(argv):
  """Evaluates, then prints the tables and the files."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with studies.runtime(), _MONITOR(_WORKDIR.value, _CONFIG.value):
    workdir, study = Path(_WORKDIR.value), studies.ChannelStudy(_CONFIG.value)
    records = _SWEEP().run(study, workdir)
    print(study.report(records, workdir))
    print(f'\n{workdir}: {studies.list_files(workdir)}')


if __name__ == '__main__':
  launcher.start(main)
