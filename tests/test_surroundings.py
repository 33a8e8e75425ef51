"""Odd surroundings: the work goes on with one warning, or ends in one line."""

import os
import subprocess
import sys

import pytest

from tests import launching, surrounded

WARNINGS = {
  'no home': 'compiled programs are not kept',
  'home that may not be written to': 'compiled programs are not kept',
  **{
    name: 'has no locks'
    for name in surrounded.SURROUNDINGS
    if name.startswith('flock') and not name.endswith('EIO')
  },
  'fsync ENOSYS': 'has no fsync',
  'fsync EINVAL': 'has no fsync',
  'strict promotion': 'jax_numpy_dtype_promotion=strict is taken for standard',
  'rank promotion': 'jax_numpy_rank_promotion=raise is taken for allow',
  'full disk for programs': 'has entries that cannot be read or written',
}
ERRORS = {
  'flock EIO': 'Input/output error: {}/records.jsonl',
  'fsync EIO': 'Input/output error: {}/records.jsonl',
  'full disk for settings': 'File too large: {}/records.settings.json',
  'full disk for records': 'File too large: {}/records.jsonl',
  'full disk for figures': 'File too large: {}/tradeoff.png',
  'full disk for weights': 'File too large: {}/weights.npz',
}

pytestmark = pytest.mark.skipif(
  sys.platform != 'linux', reason='the surroundings are made by calls of Linux'
)


@pytest.fixture(scope='module')
def usual(tmp_path_factory):
  """The captions, and the records without their times."""
  return attempt('usual', tmp_path_factory.mktemp('usual')).stdout


def attempt(name, folder):
  return launching.run('tests/surrounded.py', name, folder)


@pytest.mark.parametrize('name', surrounded.SURROUNDINGS)
def test_the_work_goes_on_or_ends_in_one_line(name, usual, tmp_path):
  done = attempt(name, tmp_path)
  said = done.stderr.replace("'", '').splitlines()
  if name in ERRORS:
    assert done.returncode == 1
    (line,) = said
    assert line.startswith('error: ')
    assert line.endswith(ERRORS[name].format(tmp_path))
    assert not [*tmp_path.glob('*.draft')]
    return
  assert done.returncode == 0
  assert len(said) == (name in WARNINGS), done.stderr
  assert WARNINGS.get(name, '') in done.stderr
  # Under another kind of numbers the quantizer draws others.
  if name not in ('rbg', 'x64'):
    assert done.stdout == usual


def test_damaged_programs_are_compiled_again(usual, tmp_path):
  """Entries cut off by a kill or a full disk cost time, and one warning."""
  cache = tmp_path / 'cache'

  def run():
    return launching.run(
      *('tests/surrounded.py', 'a cache in XDG_CACHE_HOME', tmp_path),
      XDG_CACHE_HOME=str(cache),
    )

  assert (run().stdout, run().stderr) == (usual, '')
  entries = [path for path in cache.rglob('*-cache') if path.is_file()]
  assert len(entries) > 3
  for path in entries:
    path.write_bytes(path.read_bytes()[:100])
  done = run()
  assert done.stdout == usual
  (line,) = done.stderr.splitlines()
  assert 'has entries that cannot be read' in line


def test_a_full_disk_is_gone_on_from(usual, tmp_path):
  """Records that were cut off by a full disk are completed."""
  assert attempt('full disk for records', tmp_path).returncode == 1
  assert (tmp_path / 'records.jsonl').stat().st_size == 3000
  assert attempt('usual', tmp_path).stdout == usual


@pytest.mark.parametrize('link', ['records', 'folder'])
def test_links(link, usual, tmp_path):
  """A link stays a link, and what it points to is written."""
  there = tmp_path / 'there'
  there.mkdir()
  folder = tmp_path / 'here'
  if link == 'folder':
    folder.symlink_to(there)
  else:
    folder.mkdir()
    (folder / 'records.jsonl').symlink_to(there / 'records.jsonl')
  assert attempt('usual', folder).stdout == usual
  assert (there / 'records.jsonl').stat().st_size
  assert folder.is_symlink() or (folder / 'records.jsonl').is_symlink()


def shell(command, **environment):
  """Runs a shell command, in which $python stands for this Python."""
  return subprocess.run(
    ['bash', '-c', command],
    cwd=launching.ROOT,
    env={
      **os.environ,
      'PYTHONPATH': str(launching.ROOT),
      'python': sys.executable,
      **environment,
    },
    capture_output=True,
    text=True,
    errors='surrogateescape',
    check=False,
  )


PROGRAM = """
from collab_jax import studies
with studies.runtime():
  print('a caf\\xe9', '\\U0001f600', '\\udc80')
"""


@pytest.mark.parametrize(
  ('redirect', 'status', 'said'),
  [
    ('>&-', 0, ''),
    ('2>&-', 0, ''),
    ('>&- 2>&-', 0, ''),
    ('| true; exit ${PIPESTATUS[0]}', 1, ''),
    ('>/dev/full', 1, 'error: [Errno 28] No space left on device\n'),
  ],
)
def test_nobody_reads_what_is_printed(redirect, status, said):
  done = shell(
    f'(sleep 0.2; "$python" -c "$program") {redirect}', program=PROGRAM
  )
  assert (done.returncode, done.stderr) == (status, said)


@pytest.mark.parametrize(
  'environment',
  [
    {'PYTHONIOENCODING': 'ascii'},
    {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'},
    {'PYTHONUTF8': '1'},
  ],
)
def test_letters_that_a_terminal_lacks(environment):
  done = shell('"$python" -c "$program"', program=PROGRAM, **environment)
  assert (done.returncode, done.stderr) == (0, '')
  assert done.stdout.startswith('a caf')
  assert '\\udc80' in done.stdout


@pytest.mark.parametrize('unbuffered', ['', '1'])
def test_the_overview_into_a_closed_pipe(unbuffered):
  done = shell(
    '"$python" -m collab_jax --help | true; exit ${PIPESTATUS[0]}',
    PYTHONUNBUFFERED=unbuffered,
  )
  assert (done.returncode, done.stderr) == (1, '')


def test_a_platform_that_is_not_there():
  program = 'import jax\n' + PROGRAM.replace('print', 'jax.devices(); print')
  done = shell('"$python" -c "$p"', p=program, JAX_PLATFORMS='bogus')
  assert done.returncode == 1
  (line,) = done.stderr.splitlines()
  assert line.startswith('error: Unable to initialize backend')
