r"""What edges see when something breaks, or somebody attacks.

python -m benchmarks.faults
python -m benchmarks.faults --cases=killed_server,fuzzed --scenes=50
python -m benchmarks.faults --cases=memory --minutes=10

A server of the tiny model in a process of its own, with 32 rows and 32 places
in the queue; edges in this process, or in ones that are killed. Lost is
whatever must not be: pictures without the caption that they have without a
network, requests answered twice, bad bytes that were taken, rows or memory that
were not given back. It must be 0, else the exit status is 1.
"""

import os
import sys
import time

from absl import app, flags

from benchmarks import attacking, breaking, trials
from collab_jax import studies
from collab_jax.evaluation.report import text

CASES = {
  'killed_server': breaking.killed_server,
  'cut_link': breaking.cut_link,
  'killed_client': breaking.killed_client,
  'slow_client': breaking.slow_client,
  'half_open': breaking.half_open,
  'corrupted': attacking.corrupted,
  'truncated': attacking.truncated,
  'version': attacking.version,
  'codebook': attacking.codebook,
  'strangers': attacking.strangers,
  'fuzzed': attacking.fuzzed,
  'oversized': attacking.oversized,
  'full_queue': breaking.full_queue,
  'throttled': breaking.throttled,
  'memory': lambda world: breaking.memory(world, _MINUTES.value),
}

_CASES = flags.DEFINE_list('cases', list(CASES), 'Which ones.')
_MODEL = flags.DEFINE_string('model', 'tiny', "Name, or a model's folder.")
_SCENES = flags.DEFINE_integer(
  'scenes', 100, 'Test scenes.', lower_bound=60, upper_bound=1000
)
_MINUTES = flags.DEFINE_integer(
  'minutes', 10, 'Of load while the memory is watched.', lower_bound=1
)


def main(argv):
  """Prints a line per case as it ends, then a table."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  unknown = set(_CASES.value) - set(CASES)
  if unknown:
    raise app.UsageError(
      f'cases: got {", ".join(sorted(unknown))}, expected some of'
      f' {", ".join(CASES)}'
    )
  rows, lost = [], 0
  with studies.runtime():
    world = trials.World(_MODEL.value, _SCENES.value)
    try:
      for name in _CASES.value:
        start = time.monotonic()
        outcome = CASES[name](world)
        seconds = time.monotonic() - start
        lost += outcome.lost
        cells = [name, f'{outcome.tries:,}', str(outcome.lost)]
        rows.append([*cells, f'{seconds:.0f}', outcome.saw])
        print(f'{name}: {outcome}', file=sys.stderr, flush=True)
    finally:
      world.server.kill()
  head = ['case', 'tries', 'lost', 'seconds', 'what the client saw']
  print(text.align([head, *rows]))
  load = ' '.join(f'{one:.1f}' for one in os.getloadavg())
  print(f'load average at the end: {load}')
  if lost:
    raise SystemExit(1)


if __name__ == '__main__':
  app.run(main)
