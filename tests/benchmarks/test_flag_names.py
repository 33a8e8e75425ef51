"""Unknown names in flags of benchmarks: one line, before any work."""

import pytest

from benchmarks import flag_names
from collab_jax import checkpoints
from tests import launching


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (('asking', '--codec=nope'), "quantizer: got 'nope', expected one of"),
    (('asking', '--codec=a.b:C'), "got 'a.b:C', expected a module on the path"),
    (('asking', '--model=nope'), "model: got 'nope', expected one of"),
    (('task_runs', '--tasks=okvq'), "tasks: got 'okvq'; did you mean 'okvqa'?"),
    (('questions', '--model=nope'), "model: got 'nope', expected one of"),
    (('questions', '--limit=0'), 'limit: got 0, expected at least 1'),
    (('selector_times', '--model=nope'), "model: got 'nope', expected one of"),
    (
      ('selector_times', '--selectors=merge(smoth=2)'),
      "field of merge: got 'smoth'; did you mean 'smooth'?",
    ),
    (
      ('selector_times', '--selectors=a.b:C'),
      "got 'a.b:C', expected a module on the path",
    ),
    (('links', '--codecs=webp;jpg'), "codec: got 'jpg'; did you mean 'jpeg'?"),
    (('export', '--formats=onx'), "formats: got 'onx'; did you mean 'onnx'?"),
    (
      ('engines', '--engines=slrm'),
      "engines: got 'slrm'; did you mean 'slurm'",
    ),
    (('prompt_lengths', '--released=x'), "released: got 'x', expected one of"),
    (
      ('prompt_lengths', '--lengths=a'),
      "lengths: got 'a', expected an integer",
    ),
    (
      ('prompt_lengths', '--lengths=2'),
      "lengths: got '2', expected an integer",
    ),
    (
      ('progressive', '--codec=merge(k=4)'),
      'got 2 layers to send first, expected fewer than merge(k=4) has, 1',
    ),
    (('unlike_pictures', '--folder=/x'), "folder: got '/x', expected one with"),
    (('sharding', '--models=x'), "models: got 'x', expected one of"),
  ],
)
def test_unknown_names_are_refused_at_once(arguments, said):
  module, *flags = arguments
  done = launching.run('-m', f'benchmarks.{module}', *flags)
  assert done.returncode != 0
  assert not done.stdout
  assert 'Traceback' not in done.stderr
  last = done.stderr.rstrip().splitlines()[-1]
  assert 'error: ' in last
  assert said in last


def test_names_that_are_there_pass():
  config = flag_names.model('tiny')
  assert config == checkpoints.config_of('tiny')
  assert flag_names.model('paligemma-3b-pt-224', or_random=True).name
  flag_names.quantizer('merge(k=8)', config)
  flag_names.codec('webp(quality=20)', config)
  with pytest.raises(SystemExit, match=r'error: .*512'):
    flag_names.quantizer('merge(k=512)', config)
