"""Models by their ids on the Hugging Face Hub, from a hub on loopback."""

import pathlib
import shutil
import sys

import pytest

from collab_jax import checkpoints
from collab_jax.aot import programs
from collab_jax.checkpoints import hub
from tests.checkpoints import fake_hub
from tests.checkpoints.released import GOLDEN, assert_same, npz_of

ID = 'google/paligemma-56'


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch, tmp_path):
  """A working folder in which no id is a path."""
  folder = tmp_path / 'here'
  folder.mkdir()
  monkeypatch.chdir(folder)


@pytest.fixture
def constants(monkeypatch, tmp_path):
  """Settings of huggingface_hub, with a cache of its own."""
  constants = pytest.importorskip(
    'huggingface_hub.constants', reason="needs the extra 'hub'"
  )
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
  monkeypatch.setattr(constants, 'HF_HUB_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(tmp_path / 'token'))
  # Nobody listens on the port of discarded bytes.
  _direct(constants, monkeypatch, 'http://127.0.0.1:9')
  return constants


def _direct(constants, monkeypatch, url):
  """Lets huggingface_hub ask another hub, as HF_ENDPOINT does at its start."""
  template = url + '/{repo_id}/resolve/{revision}/{filename}'
  monkeypatch.setattr(constants, 'ENDPOINT', url)
  monkeypatch.setattr(constants, 'HUGGINGFACE_CO_URL_TEMPLATE', template)


@pytest.fixture
def served(constants, monkeypatch, tmp_path):
  """The hub, with one model in three shards, and files of no use."""
  folder = tmp_path / 'repository'
  shutil.copytree(GOLDEN / 'pg1_56' / 'hf_old_sharded', folder)
  (folder / 'onnx').mkdir()
  for name in (
    *('onnx/config.json', 'pytorch_model.bin', 'model.fp16.safetensors'),
    *('adapter_model.safetensors', 'picture.png', 'README.md'),
  ):
    (folder / name).write_bytes(b'{}')
  with fake_hub.serving() as served:
    _direct(constants, monkeypatch, served.url)
    served.folders[ID] = folder
    yield served


def test_ids_are_told_from_paths(tmp_path):
  assert hub.parse(ID) == (ID, None)
  assert hub.parse(f'{ID}@refs/pr/1') == (ID, 'refs/pr/1')
  for path in ('tiny', 'a/b/c', '/a/b', './a', '../a', '~/a', 'a/b.npz', 'a/'):
    assert hub.parse(path) is None, path
  assert hub.parse(pathlib.Path(ID)) is None
  pathlib.Path('google').mkdir()
  assert hub.parse(ID) is None
  with pytest.raises(FileNotFoundError, match=r'which is here; to fetch'):
    checkpoints.load(ID)


def test_a_folder_of_that_name_comes_first():
  shutil.copytree(GOLDEN / 'pg1_56' / 'hf_new', pathlib.Path(ID))
  model = checkpoints.load(ID)
  assert model.config.name == 'paligemma-56'


def test_model_is_fetched_once(served):
  model = checkpoints.load(ID)
  assert_same(model.params, npz_of('pg1_56'))
  # The cache calls the folder by its commit.
  assert model.config.name == 'paligemma-56'
  shards = {f'model-0000{i}-of-00003.safetensors' for i in (1, 2, 3)}
  assert set(served.fetched) == shards | {
    *('config.json', 'preprocessor_config.json'),
    'model.safetensors.index.json',
  }
  served.fetched.clear()
  assert checkpoints.load(f'{ID}@main', part='edge').config == model.config
  assert checkpoints.config_of(ID) == model.config
  assert checkpoints.has_encoder(ID)
  assert not served.fetched


def test_what_is_cached_needs_no_hub(served, constants, monkeypatch):
  checkpoints.load(ID)
  served.down = True
  checkpoints.load(ID)
  _direct(constants, monkeypatch, 'http://127.0.0.1:9')
  checkpoints.load(ID)
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  checkpoints.load(ID)


def test_model_is_described_and_converted(served, tmp_path):
  assert not checkpoints.describe(ID).refusals
  checkpoints.convert(ID, tmp_path / 'orbax', 'orbax')
  assert_same(checkpoints.load(tmp_path / 'orbax').params, npz_of('pg1_56'))


def test_dimensions_need_the_config_alone(served):
  config = programs.model_config(ID)
  assert served.fetched == ['config.json']
  assert config.name == 'paligemma-56'
  assert config.vision.image_size == 56


def test_files_are_fetched_into_a_folder(served, tmp_path):
  folder = tmp_path / 'model'
  assert checkpoints.fetch(f'{ID}@bfloat16', folder) == folder
  assert_same(checkpoints.load(folder).params, npz_of('pg1_56'))


def test_failures_are_explained(served, constants, monkeypatch):
  served.folders['google/gated'] = served.folders[ID]
  served.gated.add('google/gated')
  for name, expected in (
    ('google/nothing', 'no model on the Hugging Face Hub that you may read'),
    ('google/gated', 'accepted at https://huggingface.co/google/gated; then'),
    (f'{ID}@nowhere', "has no revision 'nowhere'"),
  ):
    with pytest.raises(checkpoints.HubError, match=expected) as error:
      checkpoints.load(name)
    assert '\n' not in str(error.value)
  served.down = True
  with pytest.raises(checkpoints.HubError, match='answered 500'):
    checkpoints.load(ID)
  _direct(constants, monkeypatch, 'http://127.0.0.1:9')
  with pytest.raises(checkpoints.HubError, match=r'cannot be reached \(.*Conn'):
    checkpoints.load(ID)
  monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
  with pytest.raises(checkpoints.HubError, match='HF_HUB_OFFLINE forbids'):
    checkpoints.load(ID)


def test_the_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  for name in (ID, 'runs/tniy'):
    with pytest.raises(FileNotFoundError, match=r"install 'collab_jax\[hub\]'"):
      checkpoints.load(name)
  with pytest.raises(ModuleNotFoundError, match=r'collab_jax\[hub\]'):
    checkpoints.fetch(ID)
  for name, said in (
    ('google/paligemma-3b-mix-224', 'is no folder here; to fetch it from'),
    ('google/paligemma-3b-mix-225', "did you mean 'google/paligemma-3b-mix-22"),
    ('runs/tniy', 'google/ and paligemma-3b-pt-224/448/896, '),
  ):
    with pytest.raises(checkpoints.HubError, match=said) as error:
      checkpoints.load(name)
    is_released = 'none of the released models' not in str(error.value)
    assert is_released == name.endswith('-mix-224')
  with pytest.raises(checkpoints.HubError, match=r'collab_jax\[hub\]'):
    programs.model_config(ID)
