"""Imports point one way."""

import ast
from collections.abc import Iterator
import pathlib

import pytest

_ROOT = pathlib.Path(__file__).parents[1]

# A module imports from the rows above its own only. A new one is added here.
_ROWS = (
  {'_validate', '__version__'},
  {
    '_config_help',
    '_interrupts',
    '_output',
    '_terminal',
    '_platform',
    '_renamed',
    'message',
    'config',
    'distributed',
    'registry',
    'jsonl',
    'provenance',
    'colours',
    'boxes',
    'masks',
    '_precision',
    '_ray_address',
    'random_keys',
  },
  {'regions'},
  {
    'engines',
    'launcher',
    'monitoring',
    'models',
    'quantizers',
    'wire',
    'channels',
    'data',
    'metrics',
    'sharding',
  },
  {'checkpoints', 'codecs', 'captioner', 'tasks'},
  {'evaluation', 'training', 'serving', 'exporters', 'testing'},
  {'plots', 'aot'},
  {'studies'},
  {'commands'},
  {'__main__'},
)
_ROW_OF = {room: row for row, rooms in enumerate(_ROWS) for room in rooms}

_NOWHERE = {'tensorflow', 'torch', 'pickle', 'flax.nnx'}
_JAX = {'jax', 'jaxlib', 'flax', 'optax', 'orbax', 'jaxtyping.Array'}
_NUMPY_ROOMS = {'wire', 'data', 'metrics'}
_FLAX_ROOMS = {'models'}
# Products run without the research code.
_RESEARCH = {
  f'collab_jax.{room}'
  for room in ('studies', 'evaluation', 'plots', 'training')
}
_PRODUCT_ROOMS = {'serving', 'commands', 'exporters'}


def _imports(path: pathlib.Path) -> Iterator[tuple[int, str]]:
  """Yields line and dotted name of every import, anywhere in a file."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield node.lineno, alias.name
    elif isinstance(node, ast.ImportFrom):
      start = '.' * node.level + (node.module or '')
      for alias in node.names:
        yield node.lineno, f'{start}.{alias.name}'


def _under(name: str, packages: set[str]) -> bool:
  return any(name == p or name.startswith(p + '.') for p in packages)


def _fault(room: str, name: str) -> str | None:
  """Returns the fault of an import in a part of the package, or None."""
  if name.startswith('.'):
    return 'is relative'
  if _under(name, _NOWHERE):
    return 'is imported nowhere in the package'
  if room in _NUMPY_ROOMS and _under(name, _JAX):
    return f'is JAX, and {room} is NumPy only'
  if room not in _FLAX_ROOMS and _under(name, {'flax'}):
    return 'is imported by models only'
  if _under(name, {'configs', 'experiments', 'benchmarks', 'tests'}):
    return 'is no part of the package'
  if room in _PRODUCT_ROOMS and _under(name, _RESEARCH):
    return f'is research code, without which {room} runs'
  if not _under(name, {'collab_jax'}):
    return None
  other = name.split('.')[1] if '.' in name else ''
  if other == room:
    return None
  if other not in _ROW_OF:
    return 'is in no row'
  if _ROW_OF[other] >= _ROW_OF[room]:
    return f'is not in a row above {room}'
  return None


def violations(root: pathlib.Path) -> list[str]:
  """Returns every import below `root` that the order of the rows forbids."""
  found = []
  package = root / 'collab_jax'
  for path in sorted(package.rglob('*.py')):
    parts = path.relative_to(package).with_suffix('').parts
    if parts == ('__init__',):
      continue  # The table of contents sees everything.
    where = path.relative_to(root)
    if parts[0] not in _ROW_OF:
      found.append(f'{where}: {parts[0]} is in no row')
      continue
    found += [
      f'{where}:{line}: {name} {fault}'
      for line, name in _imports(path)
      if (fault := _fault(parts[0], name))
    ]
  for path in sorted((root / 'configs').rglob('*.py')):
    found += [
      f'{path.relative_to(root)}:{line}: {name} is not collab_jax.config, nor'
      ' configs.common'
      for line, name in _imports(path)
      if _under(name, {'collab_jax', 'configs', 'experiments', 'jax', 'flax'})
      and not _under(name, {'collab_jax.config', 'configs.common'})
    ]
  return found


def test_imports_point_one_way():
  assert violations(_ROOT) == []


@pytest.mark.parametrize(
  ('path', 'source', 'fault'),
  [
    ('models/a.py', 'import jax\nfrom flax import linen', None),
    ('models/a.py', 'from collab_jax import message', None),
    ('models/a.py', 'from collab_jax.models import b', None),
    ('models/a.py', 'from collab_jax import quantizers', 'not in a row above'),
    ('models/a.py', 'import collab_jax.codecs', 'not in a row above'),
    ('models/a.py', 'def f():\n  from collab_jax import plots', 'not in a row'),
    ('models/a.py', 'from collab_jax import utils', 'is in no row'),
    ('models/a.py', 'import collab_jax', 'is in no row'),
    ('models/a.py', 'from . import b', 'is relative'),
    ('models/a.py', 'from ..message import Tokens', 'is relative'),
    ('models/a.py', 'import torch.nn', 'imported nowhere'),
    ('models/a.py', 'from flax import nnx', 'imported nowhere'),
    ('quantizers/a.py', 'import jax.numpy as jnp', None),
    ('quantizers/a.py', 'from flax import linen', 'by models only'),
    ('wire/a.py', 'import numpy\nfrom jaxtyping import Int', None),
    ('wire/a.py', 'from jax import numpy', 'wire is NumPy only'),
    ('data/a.py', 'from jaxtyping import Array', 'data is NumPy only'),
    ('codecs/a.py', 'from collab_jax import models, wire', None),
    ('codecs.py', 'from collab_jax import captioner', 'not in a row above'),
    ('commands/a.py', 'from collab_jax import serving, codecs', None),
    ('commands/a.py', 'from collab_jax import studies', 'is research code'),
    ('serving/a.py', 'import collab_jax.plots.style', 'is research code'),
    ('codecs.py', 'from configs import tradeoff', 'no part of the package'),
    ('message.py', 'from collab_jax import config', 'not in a row above'),
    ('utils.py', 'import os', 'utils is in no row'),
    ('helpers/__init__.py', '', 'helpers is in no row'),
    ('__init__.py', 'from collab_jax import plots', None),
    ('../configs/a.py', 'from collab_jax import config', None),
    ('../configs/a.py', 'from configs import common', None),
    ('../configs/a.py', 'from configs import b', 'not collab_jax.config'),
    ('../configs/a.py', 'from collab_jax import codecs', 'not collab_jax.conf'),
    ('../configs/a.py', 'import jax', 'not collab_jax.config'),
  ],
)
def test_the_check_itself(tmp_path, path, source, fault):
  file = tmp_path / 'collab_jax' / path
  (tmp_path / 'collab_jax').mkdir()
  file.parent.mkdir(parents=True, exist_ok=True)
  file.write_text(source)
  found = violations(tmp_path)
  if fault is None:
    assert found == []
  else:
    assert len(found) == 1
    assert fault in found[0]
