"""Docstring summaries, class names and reference pages keep the house rules."""

import ast
import collections
from collections.abc import Iterator
import importlib
import pathlib
import re

import pytest

_ROOT = pathlib.Path(__file__).parents[1]
# A summary names its thing with a noun, or begins with a verb.
_STARTS = re.compile(
  r'(?:What|How|That|Of|Whose|Who|Whom|One|Ones|Which|Where|As|There|Those)\b'
)
_FOLDERS = (
  'collab_jax',
  'configs',
  'experiments',
  'benchmarks',
  'tools',
  'tests',
)
_DEFINITIONS = (
  ast.Module,
  ast.ClassDef,
  ast.FunctionDef,
  ast.AsyncFunctionDef,
)


def _trees(*folders: str) -> Iterator[tuple[pathlib.Path, ast.Module]]:
  """Yields the syntax tree of every source file that is not generated."""
  for folder in folders:
    for path in sorted((_ROOT / folder).rglob('*.py')):
      if not path.name.endswith(('_pb2.py', '_pb2_grpc.py')):
        yield path.relative_to(_ROOT), ast.parse(path.read_text())


def _bad_summaries(tree: ast.Module) -> Iterator[tuple[int, str]]:
  """Yields line and summary of docstrings that begin with a pronoun."""
  for node in ast.walk(tree):
    if isinstance(node, _DEFINITIONS):
      summary = (ast.get_docstring(node) or '').partition('\n')[0]
      if _STARTS.match(summary):
        yield getattr(node, 'lineno', 1), summary


@pytest.mark.parametrize('folder', _FOLDERS)
def test_summaries_begin_with_a_noun_or_a_verb(folder):
  bad = [
    f'{path}:{line}: {summary}'
    for path, tree in _trees(folder)
    for line, summary in _bad_summaries(tree)
  ]
  assert bad == []


@pytest.mark.parametrize(
  ('summary', 'bad'),
  [
    ('What a server tells.', True),
    ('How many there are.', True),
    ('As a config has it.', True),
    ('Onefold codebooks.', False),
    ('Offers codecs.', False),
    ('Server facts of the handshake.', False),
  ],
)
def test_the_check_of_summaries_itself(summary, bad):
  for source in (f'"""{summary}"""', f'def f():\n  """{summary}\n\n  What."""'):
    assert len(list(_bad_summaries(ast.parse(source)))) == bad


def test_no_class_name_is_used_twice():
  places = collections.defaultdict(list)
  for path, tree in _trees('collab_jax'):
    for node in ast.walk(tree):
      if isinstance(node, ast.ClassDef):
        places[node.name].append(f'{path}:{node.lineno}')
  twice = {name: at for name, at in places.items() if len(at) > 1}
  assert twice == {}


def _documented() -> tuple[set[str], set[str]]:
  """Returns the modules and the single names that pages of docs/api list."""
  modules, names = set(), set()
  for page in sorted((_ROOT / 'docs' / 'api').glob('*.md')):
    current = ''
    directives = re.findall(r'^\.\. (\w+):: (\S+)', page.read_text(), re.M)
    for kind, name in directives:
      if kind == 'automodule':
        modules.add(name)
      elif kind == 'currentmodule':
        current = name
      elif kind in {'autoclass', 'autofunction', 'autodata'}:
        names.add(name if '.' in name else f'{current}.{name}')
  return modules, names


def test_every_public_name_stands_in_a_reference_page():
  """Holds for `__all__` of the package's folders that are not private."""
  modules, names = _documented()
  missing = []
  for init in sorted((_ROOT / 'collab_jax').glob('*/__init__.py')):
    package = f'collab_jax.{init.parent.name}'
    if package in modules:
      continue
    missing += [
      f'{package}.{name}'
      for name in getattr(importlib.import_module(package), '__all__', ())
      if f'{package}.{name}' not in names | modules
    ]
  assert missing == []
