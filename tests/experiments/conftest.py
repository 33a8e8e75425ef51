"""Fixture that starts a launcher."""

import pytest

from tests import launching


@pytest.fixture(scope='session')
def launch():
  def run(script, *flags):
    return launching.run(f'experiments/{script}.py', *flags)

  return run
