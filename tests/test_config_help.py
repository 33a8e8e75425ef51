"""Every field of every config is shown with a comment of its file."""

import importlib
from pathlib import Path

import ml_collections
import pytest

from collab_jax import _config_help

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
  path for path in ROOT.glob('configs/*.py') if path.stem != 'common'
)
SHARED = """
import ml_collections

def shared():
  config = ml_collections.ConfigDict()
  config.limit = 5  # Number of pictures.
  return config

def budget():
  return ml_collections.ConfigDict({
    'watts': 1.0,  # Power of the edge.
  })
"""
FILE = '''
"""A config.

Modes: `tiny`.
"""

import ml_collections
from settings import shared

def get_config(arg=None):
  config = shared.shared()
  # Sizes of the
  # batches.
  config.batch, config.rows = 4, 2
  config.bare = 1

  # Learning rates
  config.rates = ml_collections.ConfigDict({
    'img': 1.0,  # of the encoder.
    # and the text,
    'llm': (1, 2),
  })
  # Devices.
  config.mesh = ml_collections.ConfigDict({'side': 1})
  config.budget = shared.budget()
  config.limit = 6  # At most 9.
  if arg:
    config.limit = 7  # For tests.
    config.bare = 2  # Sometimes.
    _fill(config)
  return config

def _fill(config):
  config.side = 1  # Of no group.
'''


@pytest.fixture
def path(tmp_path):
  folder = tmp_path / 'settings'
  folder.mkdir()
  (folder / 'shared.py').write_text(SHARED)
  (folder / 'mine.py').write_text(FILE)
  return folder / 'mine.py'


def config():
  return ml_collections.ConfigDict(
    {
      'limit': 6,
      'batch': 4,
      'rows': 2,
      'bare': 1,
      'rates': {'img': 1.0, 'llm': (1, 2)},
      'mesh': {'side': 1},
      'budget': {'watts': 1.0},
    }
  )


def test_comments_above_and_behind(path):
  fields = {f.name: f.comment for f in _config_help.fields(config(), path)}
  assert fields == {
    'limit': 'Number of pictures. At most 9.',
    'batch': 'Sizes of the batches.',
    'rows': 'Sizes of the batches.',
    'bare': 'Sometimes.',
    'rates.img': 'Learning rates of the encoder.',
    'rates.llm': 'and the text,',
    'mesh.side': 'Devices.',
    'budget.watts': 'Power of the edge.',
  }
  assert [*fields][-1] == 'budget.watts'  # In the order of the files.


def test_the_text_of_help(path):
  text = _config_help.render(config(), f'{path}:a=1')
  assert text.startswith(f'fields of --config={path}:a=1:')
  assert '  Modes: tiny.\n' in text
  assert '  --config.rates.llm=(1, 2)\n    and the text,\n' in text


def test_long_tuples_are_cut():
  assert _config_help.literal(tuple(range(9))) == (
    '(0, 1, 2, 3, 4, 5, ... 3 more)'
  )
  assert _config_help.literal(tuple(range(8))) == '(0, 1, 2, 3, 4, 5, 6, 7)'


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_every_field_of_a_config_has_a_comment(path):
  made = importlib.import_module(f'configs.{path.stem}').get_config()
  fields = _config_help.fields(made, path)
  assert {field.name for field in fields} == set(_config_help.paths(made))
  groups: dict[str, str] = {}
  for field in fields:
    group = field.name.rpartition('.')[0] and field.name.split('.')[0]
    if field.comment:
      groups[group] = field.comment
    # A group's comment stands at its first field.
    assert field.comment or (group and groups.get(group)), field.name
