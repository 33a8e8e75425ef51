"""How the tests start a launcher."""

import os
from pathlib import Path
import subprocess
import sys

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def launch(tmp_path_factory):
  cache = tmp_path_factory.mktemp('cache')

  def start(script, *flags):
    return subprocess.run(
      [sys.executable, f'experiments/{script}.py', *map(str, flags)],
      cwd=ROOT,
      env={
        **os.environ,
        'PYTHONPATH': str(ROOT),
        'JAX_COMPILATION_CACHE_DIR': str(cache),
      },
      capture_output=True,
      text=True,
      check=False,
    )

  return start
