"""The released models: their shapes, and loading by name."""

import json
import pathlib
import sys
import types

import jax
import pytest

from collab_jax import checkpoints
from collab_jax.checkpoints import trees
from collab_jax.models import paligemma, zoo
from tests.checkpoints.released import GOLDEN, config_of

# Recorded from big_vision's own initialization, without computing it.
TABLES = json.loads((GOLDEN / 'keytables.json').read_text())


@pytest.mark.parametrize('name', TABLES)
def test_shapes_are_the_released_ones(name):
  decoder, _, size = name.rpartition('_')
  config = zoo.config(decoder.replace('_', '-'), int(size))
  flat = trees.flatten(paligemma.shapes(config), 'params/')
  assert {k: list(v.shape) for k, v in flat.items()} == TABLES[name]


@pytest.mark.parametrize(
  ('name', 'parameters'),
  [
    ('paligemma-3b-mix-224', 2_923_335_408),
    ('paligemma-3b-ft-cococap-448', 2_924_220_144),
    ('paligemma-3b-pt-896', 2_927_759_088),
    ('paligemma2-3b-mix-224', 3_032_094_960),
    ('paligemma2-10b-pt-224', 9_662_409_456),
    ('paligemma2-28b-pt-224', 27_650_192_112),
  ],
)
def test_parameters(name, parameters):
  assert zoo.card(name).parameters == parameters


@pytest.mark.parametrize('name', zoo.NAMES)
def test_cards(name):
  card = zoo.card(name)
  assert card.config.name == card.name == name
  size = card.config.vision.image_size
  assert name.endswith(f'-{size}')
  assert card.config.vision.num_tokens == {224: 256, 448: 1024, 896: 4096}[size]
  assert card.config.text.post_norms == name.startswith('paligemma2')
  assert card.huggingface == f'google/{name}'
  assert paligemma.Config.from_dict(card.config.to_dict()) == card.config


def test_names():
  assert len(set(zoo.NAMES)) == len(zoo.NAMES) == 47
  assert {
    'paligemma-3b-ft-cococap-224',
    'paligemma-3b-pt-896',
    'paligemma2-28b-mix-448',
  } <= set(zoo.NAMES)


def test_unknown_name_suggests_the_nearest():
  with pytest.raises(ValueError, match="mean 'paligemma-3b-mix-224'"):
    zoo.card('paligemma-3b-mix-22')
  with pytest.raises(ValueError, match="mean 'paligemma-3b-mix-224'"):
    checkpoints.load('paligemma-3b-mix-22')


def test_name_without_a_path_says_how_to_get_it():
  with pytest.raises(ValueError, match='does not ship') as error:
    checkpoints.load('paligemma-3b-mix-224')
  said = str(error.value)
  assert "load('paligemma-3b-mix-224', path)" in said
  assert '2,923,335,408 parameters, 5.8 GB in bfloat16' in said
  assert 'https://huggingface.co/google/paligemma-3b-mix-224' in said
  assert 'Gemma terms of use' in said


@pytest.fixture
def tiny(monkeypatch):
  """Two recorded models as if they were released."""
  real = zoo.card

  def card(name):
    model = {'paligemma-3b-mix-224': 'pg1_56'}.get(name, 'pg2_56')
    config = config_of(model)
    return types.SimpleNamespace(
      config=paligemma.Config(config.vision, config.text, real(name).name)
    )

  monkeypatch.setattr(zoo, 'card', card)


@pytest.mark.parametrize('path', ['model.npz', 'hf_new', 'hf_old_sharded'])
def test_loading_by_name(tiny, path):
  got = checkpoints.load('paligemma-3b-mix-224', GOLDEN / 'pg1_56' / path)
  assert got.config.name == 'paligemma-3b-mix-224'
  assert got.config.text == config_of('pg1_56').text
  assert len(jax.tree.leaves(got.params)) == 32


def test_the_folder_says_whether_there_is_a_window(tiny):
  name = 'paligemma2-3b-pt-224'
  windows = [
    checkpoints.load(name, GOLDEN / 'pg2_56' / path).config.text.window
    for path in ('model.npz', 'hf_new')
  ]
  assert windows == [None, 4096]


def test_a_folder_with_another_model(tiny):
  with pytest.raises(trees.CheckpointError) as error:
    checkpoints.load('paligemma-3b-mix-224', GOLDEN / 'pg2_56/hf_new')
  assert 'is not paligemma-3b-mix-224' in str(error.value)
  assert 'llm/depth: got 4, expected 3' in str(error.value)


def test_an_npz_with_another_model(tiny):
  with pytest.raises(trees.CheckpointError, match='does not fit the config'):
    checkpoints.load('paligemma-3b-mix-224', GOLDEN / 'pg2_56/model.npz')


def test_a_name_that_was_not_released():
  with pytest.raises(ValueError, match="model: got 'tinny', expected one of"):
    checkpoints.load('tinny', GOLDEN / 'pg1_56/model.npz')


def test_fetching(monkeypatch, tmp_path):
  calls = []
  hub = types.ModuleType('huggingface_hub')
  hub.__dict__['snapshot_download'] = lambda repo, **kw: (
    calls.append((repo, kw)) or str(tmp_path)
  )
  monkeypatch.setitem(sys.modules, 'huggingface_hub', hub)
  got = checkpoints.fetch('paligemma-3b-mix-224', revision='bfloat16')
  assert got == pathlib.Path(tmp_path)
  ((repo, settings),) = calls
  assert repo == 'google/paligemma-3b-mix-224'
  assert settings['revision'] == 'bfloat16'
  assert '*.safetensors' in settings['allow_patterns']


def test_fetching_names_its_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(ModuleNotFoundError, match=r'collab_jax\[hub\]'):
    checkpoints.fetch('paligemma-3b-mix-224')
