r"""Measures edges' answers under faults and attacks.

python -m benchmarks.faults
python -m benchmarks.faults --cases=killed_server,fuzzed --scenes=50
python -m benchmarks.faults --cases=memory --minutes=10

A server of the tiny model in a process of its own, with 32 rows and 32 places
in the queue; edges in this process, or in processes that are killed. Losses are
pictures without the caption that they have without a network, requests answered
twice, damaged bytes that were accepted, slots or memory that were not freed.
They must be 0, else the exit status is 1.
"""

import os
import sys
import time

from absl import app, flags

from benchmarks import fault_injection, harness, hostile_clients
from collab_jax import launcher
from collab_jax.evaluation.report import text

CASES = {
  'killed_server': fault_injection.killed_server,
  'cut_link': fault_injection.cut_link,
  'killed_client': fault_injection.killed_client,
  'slow_client': fault_injection.slow_client,
  'half_open': fault_injection.half_open,
  'corrupted': hostile_clients.corrupted,
  'truncated': hostile_clients.truncated,
  'version': hostile_clients.version,
  'codebook': hostile_clients.codebook,
  'strangers': hostile_clients.strangers,
  'fuzzed': hostile_clients.fuzzed,
  'oversized': hostile_clients.oversized,
  'full_queue': fault_injection.full_queue,
  'throttled': fault_injection.throttled,
  'memory': lambda testbed: fault_injection.memory(testbed, _MINUTES.value),
}

_CASES = flags.DEFINE_list('cases', list(CASES), 'Cases to run.')
_MODEL = flags.DEFINE_string('model', 'tiny', "Name, or a model's folder.")
_SCENES = flags.DEFINE_integer(
  'scenes', 100, 'Test scenes.', lower_bound=60, upper_bound=1000
)
_MINUTES = flags.DEFINE_integer(
  'minutes', 10, 'Minutes of load while the memory is measured.', lower_bound=1
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
  with launcher.runtime():
    testbed = harness.Testbed(_MODEL.value, _SCENES.value)
    try:
      for name in _CASES.value:
        start = time.monotonic()
        result = CASES[name](testbed)
        seconds = time.monotonic() - start
        lost += result.lost
        cells = [name, f'{result.tries:,}', str(result.lost)]
        rows.append([*cells, f'{seconds:.0f}', result.saw])
        print(f'{name}: {result}', file=sys.stderr, flush=True)
    finally:
      testbed.server.kill()
  head = ['case', 'tries', 'lost', 'seconds', 'effect on the edges']
  print(text.align([head, *rows]))
  load = ' '.join(f'{value:.1f}' for value in os.getloadavg())
  print(f'load average at the end: {load}')
  if lost:
    raise SystemExit(1)


if __name__ == '__main__':
  app.run(main)
