import sys

from absl import flags
import ml_collections
import pytest

from collab_jax import config

FILE = """
import ml_collections
from collab_jax import config

def get_config(arg=None):
  args = config.parse(arg, mode='full', limit=10)
  return ml_collections.ConfigDict({
    'mode': args['mode'],
    'limit': args['limit'],
    'ks': (1, 2),
    'train': {'learning_rate': 0.1, 'steps': 5},
  })
"""


@pytest.fixture
def path(tmp_path):
  file = tmp_path / 'tiny.py'
  file.write_text(FILE)
  return str(file)


def _load(argv, default=None):
  values = flags.FlagValues()
  argv = ['program', *argv]
  holder = config.define(default, flag_values=values, argv=argv)
  values(argv)
  return holder.value


def test_only_folders_of_configs_are_put_on_the_path(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, 'path', [*sys.path])
  before = list(sys.path)
  (tmp_path / 'configs').mkdir()
  for name in ('tiny.py', 'configs/tiny.py'):
    (tmp_path / name).write_text(FILE)
    _load([f'--config={tmp_path / name}'])
    assert sys.path == before
  (tmp_path / 'configs' / 'common.py').touch()
  _load([f'--config={tmp_path}/configs/tiny.py'])
  assert sys.path == [*before, str(tmp_path)]


def test_parse_takes_the_types_of_the_defaults():
  defaults = {'k': 8, 'mode': 'full', 'lr': 0.5, 'blind': False}
  assert config.parse(None, **defaults) == defaults
  assert config.parse('', **defaults) == defaults
  values = config.parse('mode=tiny, k=3,lr=1,blind=true', **defaults)
  assert values == {'k': 3, 'mode': 'tiny', 'lr': 1.0, 'blind': True}
  assert [type(v) for v in values.values()] == [int, str, float, bool]
  assert list(values) == list(defaults)


def test_parse_with_allowed_values():
  assert config.parse(None, mode=('full', 'tiny')) == {'mode': 'full'}
  assert config.parse('mode=tiny', mode=('full', 'tiny')) == {'mode': 'tiny'}
  assert config.parse('k=2', k=(1, 2)) == {'k': 2}


@pytest.mark.parametrize(
  ('arg', 'said'),
  [
    ('mod=tiny', r"argument: got 'mod'; did you mean 'mode'\?"),
    ('xyz=1', r"argument: got 'xyz', expected one of blind, k, mode, size"),
    ('k=x', "k: got 'x', expected a value of type int, as in k=8"),
    ('k=1.5', 'type int'),
    ('blind=maybe', 'type bool'),
    ('k=1,k=2', 'each name once'),
    ('mode', 'expected name=value'),
    ('size=smal', r"size: got 'smal'; did you mean 'small'\?"),
  ],
)
def test_parse_refuses(arg, said):
  with pytest.raises(config.ConfigError, match=said):
    config.parse(arg, k=8, mode='full', blind=False, size=('small', 'large'))


def test_flag_with_arguments_and_overrides(path):
  loaded = _load(
    [
      f'--config={path}:mode=tiny,limit=3',
      '--config.limit=7',
      '--config.train.steps=9',
      '--config.ks=(4, 8)',
    ]
  )
  assert (loaded.mode, loaded.limit, loaded.train.steps) == ('tiny', 7, 9)
  assert loaded.ks == (4, 8)
  assert loaded.is_locked


def test_default_file(path):
  assert _load([], path).limit == 10
  assert _load(['--config.limit=2'], path).limit == 2
  assert _load([f'--config={path}:limit=4'], path).limit == 4


def test_configs_of_the_clone_are_found_from_other_folders(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  named = 'configs/tradeoff.py:mode=smoke'
  assert _load([f'--config={named}']) == _load([], named)
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs' / 'tradeoff.py').write_text(FILE)
  assert _load([], named).mode == 'smoke'  # The folder's own comes first.


@pytest.mark.parametrize(
  ('override', 'nearest'),
  [
    ('--config.limits=1', 'limit'),
    ('--config.train.learning_rat=1', 'train.learning_rate'),
    ('--config.steps=1', 'train.steps'),
    ('-config.mods=1', 'mode'),
  ],
)
def test_unknown_fields_are_refused_with_the_nearest(path, override, nearest):
  said = f"did you mean '{nearest}'"
  with pytest.raises(config.ConfigError, match=said):
    _load([f'--config={path}', override])
  with pytest.raises(SystemExit, match=said):
    _load([override], path)


def test_mistakes_in_the_argument_and_the_path(path):
  with pytest.raises(config.ConfigError, match="did you mean 'mode'"):
    _load([f'--config={path}:mod=tiny'])
  with pytest.raises(config.ConfigError, match=r'did you mean .*tiny\.py'):
    _load([f'--config={path[:-3]}s.py'])


def test_plain_mappings_can_be_checked():
  fields = ml_collections.ConfigDict({'a': 1, 'b': {'c': 2}})
  config.check_overrides(fields, ['--config.b.c=1', '--noconfig.a', '--other'])
  config.check_overrides(fields, ['--config.a[0]=1'])
  with pytest.raises(
    config.ConfigError, match=r"a\[0\]: got a part.*='\(1, 2\)'"
  ):
    config.check_overrides({'a': (1, 2)}, ['--config.a[0]=1'])
  with pytest.raises(config.ConfigError, match=r'one of a, b, b\.c'):
    config.check_overrides({'a': 1, 'b': {'c': 2}}, ['--config.zzz=1'])


def test_things_with_settings():
  read = config.call(' a.b:C(n=-1, x=.5,y=1e-3,z=++) ', 'thing', 'pool')
  assert read == ('a.b:C', {'n': -1, 'x': 0.5, 'y': 1e-3, 'z': '++'})
  assert config.call('pool', 'thing', 'pool') == ('pool', {})
  with pytest.raises(ValueError, match=r"thing: got 'a\(k=1\)'.*'pool'"):
    config.call('a(k=1)', 'thing', 'pool', ('k',))


def test_things_within_things():
  text = 'kmeans( k=8, centroids=pca(dims=32,vectors=scalar(bits=4)) )'
  read = config.call(text, 'thing', 'pool')
  inner = 'pca(dims=32,vectors=scalar(bits=4))'
  assert read == ('kmeans', {'k': 8, 'centroids': inner})
  assert config.call(inner, 'thing', 'pool')[1] == {
    'dims': 32,
    'vectors': 'scalar(bits=4)',
  }


def test_texts_in_quotes():
  text = r'a(b="c, d) = \"e\"\n",f="5",g=x(h="1,2"))'
  assert config.call(text, 'thing', 'pool')[1] == {
    'b': 'c, d) = "e"\n',
    'f': '5',
    'g': 'x(h="1,2")',
  }


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('a(b="c)', 'quotes do not match'),
    ('a(b="c"d)', 'quotes do not match'),
    ('a(b=c(d=1)', 'parentheses do not match'),
    ('a(b=c)d=1)', 'parentheses do not match'),
    ('a(b)(c)', 'parentheses do not match'),
    ('a(b', "got 'a.b', expected 'name'"),
    ('a(k=1,k=2)', "expected .*'k' is there twice"),
    ('a(k=1)', "'k' may not stand there"),
    ('=a', 'expected'),
  ],
)
def test_things_that_cannot_be_read(text, said):
  with pytest.raises(ValueError, match=said):
    config.call(text, 'thing', 'pool', ('k',) if text == 'a(k=1)' else ())
