"""--help of the launchers, and flags that are none."""

import pytest

from tests import standin


def test_help_shows_the_config(launch):
  done = launch('rate', '--config=configs/rate.py:mode=smoke', '--help')
  assert done.returncode == 0, done.stderr
  for said in (
    'Evaluates captions against bytes',
    "  --workdir='runs/rate'\n    Where to write.",
    'fields of --config=configs/rate.py:mode=smoke',
    '  --config.limit=6\n    Number of pictures, the first ones.',
    '  --config.budget.edge_watts=5.0\n    Power of the edge at work.',
  ):
    assert said in done.stdout


@pytest.mark.parametrize(
  ('script', 'flag', 'said'),
  [
    (
      'evaluate',
      '--limit=3',
      'flag: got --limit=3, expected a flag, and limit is a field of the'
      ' config; write --config.limit=3',
    ),
    ('evaluate', '--wrkdir=x', 'which is none; did you mean --workdir?'),
    ('evaluate', '--xyzzy', 'flag: got --xyzzy, which is none; --help shows'),
    ('evaluate', 'more', "unexpected arguments: ['more']; --help shows"),
    (
      'evaluate',
      '--config.limit=few',
      "config.limit: got 'few', expected a value of type int; write for"
      " instance --config.limit='500'",
    ),
    ('plot', '--resamples=few', "resamples: got 'few', expected an integer"),
    ('plot', '--level=0.5', 'records: is not given, expected --records=...'),
  ],
)
def test_wrong_flags_are_told_in_a_line(launch, script, flag, said):
  done = launch(script, flag)
  assert done.returncode == 1
  assert done.stderr.startswith('error: ')
  assert said in done.stderr
  assert done.stderr.count('\n') == 1


def test_a_folder_that_may_not_be_written_to(launch):
  done = launch(
    'evaluate',
    '--config=configs/tradeoff.py:mode=smoke',
    f'--config.model={standin.folder()}',
    f'--workdir={__file__}/runs',
  )
  assert done.returncode == 1
  assert done.stderr.startswith('error: ')
  assert 'name another one, of results by --workdir' in done.stderr
  assert done.stderr.count('\n') == 1
