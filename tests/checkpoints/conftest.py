"""Copies of the recorded folders."""

import shutil

import pytest

from tests.checkpoints.released import GOLDEN


@pytest.fixture
def copy(tmp_path):
  """A folder that may be spoiled."""

  def make(folder='hf_new', model='pg1_56'):
    return shutil.copytree(GOLDEN / model / folder, tmp_path / folder)

  return make
