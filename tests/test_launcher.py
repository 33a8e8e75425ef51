"""Mistakes in flags, each told in one line of our grammar."""

from absl import flags
import pytest

from collab_jax import _validate, launcher


@pytest.fixture
def parse(monkeypatch):
  """Returns a function from arguments to the error they end with."""
  known = flags.FlagValues()
  monkeypatch.setattr(flags, 'FLAGS', known)
  names = {'flag_values': known}
  flags.DEFINE_integer('port', 1, 'Port.', lower_bound=0, **names)
  flags.DEFINE_integer('level', 1, '', lower_bound=1, upper_bound=9, **names)
  flags.DEFINE_integer('seed', 1, 'Seed.', **names)
  flags.DEFINE_float('goal_ms', 1.0, '', lower_bound=0.0, **names)
  flags.DEFINE_enum('coding', 'best', ['best', 'fixed'], '', **names)
  flags.DEFINE_bool('stream', False, '', **names)
  flags.DEFINE_string('log_requests', '', 'File for lines.', **names)
  flags.DEFINE_string('quantizer', '', '', **names)
  flags.DEFINE_string('prompt', '', '', **names)
  flags.DEFINE_string('model', '', '', **names)

  def parse(*arguments):
    with pytest.raises(SystemExit) as ended:
      launcher.parse_flags(['program', *arguments])
    return str(ended.value)

  return parse


@pytest.mark.parametrize(
  ('argument', 'said'),
  [
    ('--port=x', "port: got 'x', expected an integer of at least 0"),
    ('--port=-1', "port: got '-1', expected an integer of at least 0"),
    ('--level=11', "level: got '11', expected an integer from 1 to 9"),
    ('--seed=1.5', "seed: got '1.5', expected an integer"),
    ('--goal_ms=-1', "goal_ms: got '-1', expected a number of at least 0"),
    ('--coding=bost', "coding: got 'bost'; did you mean 'best'?"),
    ('--coding=', "coding: got '', expected one of best, fixed"),
    ('--stream=maybe', "stream: got 'maybe', expected true or false"),
    (
      '--nostream=1',
      'stream: got --nostream=1, expected --stream or --nostream',
    ),
    (
      '--log_requests',
      'log_requests: got no value, expected --log_requests=VALUE: File for'
      ' lines.',
    ),
    ('--seed', 'seed: got no value, expected --seed=VALUE: Seed.'),
    ('--flagfile=x', "flagfile: got 'x', expected a file with flags"),
    ('--flagfile', 'flagfile: got no value, expected --flagfile=VALUE'),
    ('--prot=3', 'flag: got --prot=3, which is none; did you mean --port?'),
    (
      '--method=merge',
      'flag: got --method=merge, which is now --quantizer; write'
      ' --quantizer=merge',
    ),
    (
      '--methods',
      'flag: got --methods, which is now --quantizer; write --quantizer=',
    ),
  ],
)
def test_a_wrong_flag_is_told_in_our_words(parse, argument, said):
  assert parse(argument) == f'error: {said}'


@pytest.mark.parametrize(
  ('got', 'name'),
  [
    ('prot', 'port'),
    ('kmean', 'kmeans'),
    ('max_token', 'max_tokens'),
    ('zzz', None),
  ],
)
def test_the_nearest_name_has_the_fewest_typing_errors(got, name):
  known = ['port', 'prompt', 'kmeans', 'max_tokens', 'max_prompt', 'min_tokens']
  assert _validate.nearest(got, known) == name


@pytest.mark.parametrize(
  ('a', 'b', 'errors'),
  [
    ('', '', 0),
    ('', 'abc', 3),
    ('prot', 'port', 1),
    ('prot', 'prompt', 2),
    ('kitten', 'sitting', 3),
    ('ca', 'abc', 3),
  ],
)
def test_typing_errors_are_counted(a, b, errors):
  assert _validate._typing_errors(a, b) == errors
  assert _validate._typing_errors(b, a) == errors
