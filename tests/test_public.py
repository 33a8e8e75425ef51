"""Public names: the same in any order of import, documented, or renamed."""

import importlib
import pathlib
import re
import subprocess
import sys

import pytest

import collab_jax as cj
from collab_jax import _renamed

_ROOT = pathlib.Path(__file__).parents[1]
_API = _ROOT / 'docs' / 'api' / 'index.md'
# Names that docs/api, other pages and notebooks documented before they changed.
_DOCUMENTED = (
  (_ROOT / 'tests' / 'golden' / 'documented_names.txt').read_text().split()
)


def _run(code):
  """Runs lines of Python in a process that has imported nothing."""
  return subprocess.run(
    [sys.executable, '-c', code],
    env={'PYTHONPATH': str(_ROOT), 'PATH': '/usr/bin:/bin'},
    capture_output=True,
    text=True,
    check=False,
  )


def test_dir_is_what_the_reference_lists():
  listed = re.findall(r'`cj\.(\w+)', _API.read_text())
  assert sorted(set(listed)) == sorted(cj.__all__) == dir(cj)
  for name in cj.__all__:
    assert getattr(cj, name) is not None


@pytest.mark.parametrize(
  'first',
  [
    'collab_jax.serving.client.client',
    'collab_jax.exporters.bundle, collab_jax.plots',
    'collab_jax.checkpoints, collab_jax.training.codebooks.feature_dump',
    'collab_jax.__main__',
  ],
)
def test_names_do_not_depend_on_the_order_of_imports(first):
  """Each order runs in its own process, since modules stay imported."""
  code = (
    f'import {first}\nimport collab_jax as cj\n'
    'assert dir(cj) == cj.__all__, dir(cj)\n'
    'assert callable(cj.export) and callable(cj.load), cj.export\n'
    'assert callable(cj.evaluate) and isinstance(cj.Captioner, type)\n'
    'print(cj.__version__)'
  )
  done = _run(code)
  assert done.stdout == f'{cj.__version__}\n', done.stderr


def _resolve(name):
  """Returns the object of a dotted name: a module, or a name in one."""
  module, _, attribute = name.rpartition('.')
  if module.rpartition('.')[2][:1].isupper():  # A method of a class.
    return getattr(_resolve(module), attribute)
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    if error.name != name and not str(error.name).startswith(f'{module}.'):
      raise
  return getattr(importlib.import_module(module), attribute)


def _follow(name):
  """Resolves a name, by what the errors say: a module may have moved, too."""
  for _ in range(3):
    try:
      return _resolve(name)
    except (AttributeError, ImportError) as error:
      said = re.fullmatch(r'(\S+) is now (\S+)', str(error))
      if not said:
        raise
      name = name.replace(said[1], said[2], 1)
  raise AttributeError(name)


def test_documented_names_import_or_say_what_they_are_called_now():
  lost = []
  for name in _DOCUMENTED:
    try:
      _follow(name)
    except (AttributeError, ImportError) as error:
      lost.append(f'{name}: {error}')
  assert lost == []


def _first_names(name):
  """Returns the first names that lead to a name of the table."""
  return {name} | {
    name.replace(new, old, 1)
    for old, new in _renamed.NAMES.items()
    if name.startswith(f'{new}.')
  }


def test_the_table_of_renamed_names_holds_documented_names_only():
  for old, new in _renamed.NAMES.items():
    _resolve(new)
    assert _first_names(old) & set(_DOCUMENTED), old


@pytest.mark.parametrize(
  ('code', 'error'),
  [
    ('import collab_jax.artefacts', ModuleNotFoundError),
    ('from collab_jax import artefacts', ImportError),
    ('from collab_jax.artefacts import export', ModuleNotFoundError),
    ('import collab_jax.artefacts.formats', ModuleNotFoundError),
    ('import collab_jax as cj\ncj.artefacts', AttributeError),
  ],
)
def test_an_old_name_says_its_new_one_in_one_line(code, error):
  with pytest.raises(error) as raised:
    exec(code, {})
  assert str(raised.value) == 'collab_jax.artefacts is now collab_jax.exporters'


@pytest.mark.parametrize('package', ['models', 'testing', 'wire', 'codecs'])
def test_dir_of_a_public_module_is_its_public_names(package):
  module = getattr(cj, package)
  assert dir(module) == sorted(module.__all__)
  for name in module.__all__:
    assert getattr(module, name) is not None


def test_every_public_folder_shows_its_public_names_only():
  for init in sorted((_ROOT / 'collab_jax').glob('*/__init__.py')):
    module = importlib.import_module(f'collab_jax.{init.parent.name}')
    if public := getattr(module, '__all__', None):
      assert dir(module) == sorted(public), module


def test_models_are_imported_when_first_used():
  code = (
    'import sys, collab_jax as cj\ncj.models\n'
    "assert 'jax' not in sys.modules\n"
    "print(cj.models.paligemma.Model.__name__, hasattr(cj.models, 'x'))"
  )
  done = _run(code)
  assert done.stdout == 'Model False\n', done.stderr


@pytest.mark.parametrize(
  'code',
  [
    'import collab_jax.experiment',
    'import collab_jax.experiment.settings',
    'from collab_jax.experiment import evaluate',
    'from collab_jax.experiment.settings import make_data',
  ],
)
def test_modules_of_a_renamed_folder_say_its_new_name(code):
  with pytest.raises(ModuleNotFoundError) as raised:
    exec(code, {})
  assert str(raised.value) == 'collab_jax.experiment is now collab_jax.studies'


def test_a_class_that_is_not_there_is_no_missing_module():
  with pytest.raises(ImportError, match='is now collab_jax') as raised:
    exec('from collab_jax.quantizers import Merge', {})
  assert raised.type is ImportError


def test_a_renamed_name_of_a_package_is_refused_in_either_form():
  sentence = (
    'collab_jax.serving.Settings is now collab_jax.serving.ServerConfig'
  )
  with pytest.raises(ImportError, match=sentence):
    exec('from collab_jax.serving import Settings', {})
  with pytest.raises(AttributeError, match=sentence):
    exec('import collab_jax as cj\ncj.serving.Settings', {})
  with pytest.raises(AttributeError, match="has no attribute 'Setting'"):
    exec('import collab_jax as cj\ncj.serving.Setting', {})
