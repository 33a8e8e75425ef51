"""Hugging Face folders: every spelling and layout, read and written."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors
from safetensors import numpy as st

from collab_jax import checkpoints
from collab_jax.checkpoints import huggingface, shards, trees
from tests.checkpoints.released import (
  FOLDERS,
  GOLDEN,
  MODELS,
  SHARD,
  assert_same,
  config_of,
  npz_of,
)


def respell(folder, rename, extra=None):
  path = folder / shards.SINGLE
  tensors = {rename(k): v for k, v in st.load_file(path).items()}
  st.save_file({**tensors, **(extra or {})}, path)


@pytest.mark.parametrize('model', MODELS)
@pytest.mark.parametrize('folder', FOLDERS)
def test_released_spellings(model, folder):
  got = checkpoints.load(GOLDEN / model / folder)
  assert_same(got.params, npz_of(model))
  assert got.tokenizer is None
  text = config_of(model).text
  window = got.config.text.window
  assert window == (4096 if model == 'pg2_56' else None)
  assert got.config.name == folder
  assert vars(got.config.text) == vars(text) | {'window': window}
  assert got.config.vision == config_of(model).vision


@pytest.mark.parametrize('model', MODELS)
def test_spelling_of_4_52_with_its_tied_head(copy, model):
  folder = copy(model=model)
  table = st.load_file(folder / shards.SINGLE)[
    'model.language_model.embed_tokens.weight'
  ]
  respell(
    folder,
    lambda k: k.replace('vision_tower.', 'vision_tower.vision_model.'),
    {'lm_head.weight': table},
  )
  assert_same(checkpoints.load(folder).params, npz_of(model))


@pytest.mark.parametrize(
  'name',
  [
    'vision_tower.vision_model.post_layernorm.bias',
    'model.vision_tower.vision_model.post_layernorm.bias',
    'model.vision_tower.post_layernorm.bias',
    'vision_tower.post_layernorm.bias',
  ],
)
def test_canonical_vision(name):
  assert shards.canonical(name) == 'vision_tower.post_layernorm.bias'


@pytest.mark.parametrize(
  ('name', 'want'),
  [
    ('language_model.model.norm.weight', 'language_model.norm.weight'),
    ('model.language_model.norm.weight', 'language_model.norm.weight'),
    ('language_model.lm_head.weight', 'language_model.lm_head.weight'),
    ('lm_head.weight', 'lm_head.weight'),
    (
      'model.multi_modal_projector.linear.bias',
      'multi_modal_projector.linear.bias',
    ),
  ],
)
def test_canonical_text(name, want):
  assert shards.canonical(name) == want


def test_old_head_and_buffers_are_ignored(copy):
  folder = copy('hf_saved')
  table = st.load_file(folder / shards.SINGLE)[
    'language_model.model.embed_tokens.weight'
  ]
  respell(
    folder,
    lambda k: k,
    {
      'language_model.lm_head.weight': table,
      'vision_tower.vision_model.embeddings.position_ids': np.arange(16)[None],
      'language_model.model.layers.0.self_attn.rotary_emb.inv_freq': table[0],
    },
  )
  assert_same(checkpoints.load(folder).params, npz_of('pg1_56'))


@pytest.mark.parametrize(
  'change',
  [
    np.ones_like,
    lambda t: t[0, 0],
    lambda t: t[0],
    lambda t: t[:0],
    lambda t: t[:500],
    lambda t: t[:, :40],
    lambda t: t + (np.arange(576) == 511)[:, None],
  ],
  ids=['other', 'scalar', 'row', 'empty', 'short', 'narrow', 'last'],
)
def test_head_of_its_own_is_refused(copy, monkeypatch, change):
  monkeypatch.setattr(shards, '_BLOCK', 1 << 14)  # More than one.
  folder = copy()
  table = st.load_file(folder / shards.SINGLE)[
    'model.language_model.embed_tokens.weight'
  ]
  head = np.ascontiguousarray(change(table), 'f4')
  head = head.reshape(np.shape(change(table)))
  respell(folder, lambda k: k, {'lm_head.weight': head})
  with pytest.raises(trees.CheckpointError, match='lm_head'):
    checkpoints.load(folder)
  checkpoints.load(folder, part='edge')


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
def test_half_precision(copy, dtype):
  folder = copy()
  tensors = st.load_file(folder / shards.SINGLE)
  st.save_file(
    {k: v.astype(dtype) for k, v in tensors.items()}, folder / shards.SINGLE
  )
  name = 'model.f16.npz' if dtype == np.float16 else 'model.bf16.npz'
  assert_same(checkpoints.load(folder).params, npz_of('pg1_56', name))


def test_dtype():
  got = checkpoints.load(GOLDEN / 'pg2_56/hf_old_sharded', dtype='bfloat16')
  assert_same(got.params, npz_of('pg2_56', 'model.bf16.npz'))


def test_blocks_of_rows(monkeypatch):
  monkeypatch.setattr(shards, '_BLOCK', 1000)
  got = checkpoints.load(GOLDEN / 'pg1_56/hf_new')
  assert_same(got.params, npz_of('pg1_56'))


def test_padding_is_kept_on_demand():
  folder = GOLDEN / 'pg1_56/hf_new'
  config = config_of('pg1_56').to_dict()
  config['llm']['vocab_size'] = 576
  got = checkpoints.load(folder, config=config).params
  want = st.load_file(folder / shards.SINGLE)
  np.testing.assert_array_equal(
    got['llm']['embedder']['input_embedding'],
    want['model.language_model.embed_tokens.weight'],
  )


def test_fewer_rows_are_filled_up():
  config = config_of('pg1_56').to_dict()
  config['llm']['vocab_size'] = 700
  got = checkpoints.load(GOLDEN / 'pg1_56/hf_new', config=config).params
  table = got['llm']['embedder']['input_embedding']
  assert table.shape == (700, 48)
  np.testing.assert_array_equal(
    table[:512], npz_of('pg1_56')['llm']['embedder']['input_embedding']
  )


def test_files_without_an_index(copy):
  folder = copy('hf_old_sharded')
  (folder / shards.INDEX).unlink()
  assert_same(checkpoints.load(folder).params, npz_of('pg1_56'))


@pytest.mark.parametrize('part', trees.PARTS)
@pytest.mark.parametrize('folder', FOLDERS)
def test_nothing_of_the_other_part_is_read(monkeypatch, folder, part):
  read, real = set(), safetensors.safe_open

  class Slice:
    def __init__(self, name, inner):
      self.name, self.inner = name, inner

    def __getattr__(self, name):
      return getattr(self.inner, name)

    def __getitem__(self, index):
      read.add(shards.canonical(self.name))
      return self.inner[index]

  class Spy:
    def __init__(self, *args, **kw):
      self.file = real(*args, **kw)

    def __enter__(self):
      self.inner = self.file.__enter__()
      return self

    def __exit__(self, *error):
      return self.file.__exit__(*error)

    def keys(self):
      return self.inner.keys()

    def get_slice(self, name):
      return Slice(name, self.inner.get_slice(name))

  monkeypatch.setattr(safetensors, 'safe_open', Spy)
  params = checkpoints.load(GOLDEN / 'pg1_56' / folder, part=part).params
  want = trees.select(npz_of('pg1_56'), part)
  assert_same(params, want)
  rooms = {name.split('.')[0] for name in read}
  assert (
    rooms
    == {
      None: {'vision_tower', 'multi_modal_projector', 'language_model'},
      'edge': {'vision_tower', 'multi_modal_projector'},
      'server': {'language_model', 'multi_modal_projector'},
    }[part]
  )


def test_edge_needs_no_shard_of_the_decoder(copy):
  folder = copy('hf_old_sharded')
  (folder / SHARD.format(1)).unlink()
  params = checkpoints.load(folder, part='edge').params
  assert_same(params, trees.select(npz_of('pg1_56'), 'edge'))
  with pytest.raises(trees.CheckpointError, match='00001-of-00003'):
    checkpoints.load(folder, part='server')


@pytest.mark.parametrize('model', MODELS)
def test_what_is_written_is_what_transformers_has(tmp_path, model):
  params = jax.tree.map(np.asarray, npz_of(model))
  huggingface.save(tmp_path, params, config_of(model))
  got = st.load_file(tmp_path / shards.SINGLE)
  want = {}
  for path in (GOLDEN / model / 'hf_old_sharded').glob('*.safetensors'):
    want |= st.load_file(path)
  assert set(got) == set(want)
  for name, tensor in want.items():
    assert got[name].shape == tensor.shape, name
    rows = 512 if 'embed_tokens' in name else None
    np.testing.assert_array_equal(got[name][:rows], tensor[:rows], name)
  table = got['language_model.model.embed_tokens.weight']
  np.testing.assert_allclose(
    table[512:], np.tile(table[:512].mean(0), (64, 1)), atol=1e-6
  )
  preprocessor = json.loads((tmp_path / 'preprocessor_config.json').read_text())
  theirs = GOLDEN / model / 'hf_old_sharded/preprocessor_config.json'
  assert preprocessor.items() >= json.loads(theirs.read_text()).items()


def test_many_files(tmp_path):
  params = npz_of('pg2_56')
  config = config_of('pg2_56')
  huggingface.save(tmp_path, params, config, shard_bytes=120_000)
  index = json.loads((tmp_path / shards.INDEX).read_text())
  files = sorted(p.name for p in tmp_path.glob('*.safetensors'))
  assert len(files) > 3
  assert sorted(set(index['weight_map'].values())) == files
  assert_same(checkpoints.load(tmp_path).params, params)


def test_writing_checks_the_tree(tmp_path):
  params = trees.select(npz_of('pg1_56'), 'edge')
  with pytest.raises(trees.CheckpointError, match='got nothing'):
    huggingface.save(tmp_path / 'x', params, config_of('pg1_56'))
  assert not (tmp_path / 'x').exists()
