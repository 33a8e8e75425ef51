"""A sample of the damaged pictures that the benchmark tries."""

import pytest

from benchmarks import picture_files


def test_whole_files_of_all_kinds_are_read():
  files = picture_files.kinds()
  assert len(files) >= 60
  outcomes = {name: picture_files.read(data) for name, data in files.items()}
  assert {outcome.kind for outcome in outcomes.values()} == {'read'}
  turned = [name for name in files if outcomes[name].sides == (60, 40)]
  assert turned == [name for name in files if name.endswith('metadata')]


@pytest.mark.filterwarnings('ignore')
def test_damaged_files_are_read_or_named():
  files = picture_files.kinds()
  damaged = picture_files.mutations(files, 20 * len(files), seed=7)
  outcomes = {picture_files.read(data).kind for _, data in damaged}
  assert outcomes == {'read', 'refused'}
