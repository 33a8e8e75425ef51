"""Runs experiments/demo.py, and counts the things that it makes.

The counts go to the file that the environment variable COUNTS names.
"""

import collections
import functools
import json
import os
from pathlib import Path
import runpy

from collab_jax import checkpoints, data, quantizers, sharding

_COUNTS: collections.Counter[str] = collections.Counter()


def _count(module, name):
  function = getattr(module, name)

  @functools.wraps(function)
  def counted(*args, **kw):
    of = f' {args} {kw}' if module is quantizers else ''
    _COUNTS[f'{module.__name__}.{name}{of}'] += 1
    return function(*args, **kw)

  setattr(module, name, counted)


if __name__ == '__main__':
  for module, name in (
    (checkpoints, 'load'),
    (data, 'make'),
    (sharding, 'make_mesh'),
    (quantizers, 'make'),
  ):
    _count(module, name)
  try:
    runpy.run_path('experiments/demo.py', run_name='__main__')
  finally:
    Path(os.environ['COUNTS']).write_text(json.dumps(_COUNTS))
