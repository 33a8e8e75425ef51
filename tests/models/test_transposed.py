"""A model whose layers are apart, the decoder's weights transposed."""

import dataclasses
import functools

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from benchmarks import parity
from collab_jax import checkpoints, codecs, sharding
from collab_jax.checkpoints import huggingface, orbax, trees
from collab_jax.models import (
  common,
  decoding,
  paligemma,
  tokenizer,
)

SOURCES = ('model.npz', 'model.f16.npz', 'model.bf16.npz')
FOLDERS = ('hf_new', 'hf_old_sharded', 'hf_saved')


@functools.cache
def golden(name):
  return parity.load_golden(name)


@functools.cache
def load(name, source, layout):
  folder = parity.GOLDEN / name
  config = None if source in FOLDERS else folder / 'config_bv.json'
  return checkpoints.load(folder / source, config=config, layout=layout)


@pytest.mark.parametrize('source', SOURCES + FOLDERS)
@pytest.mark.parametrize('name', parity.MODELS)
def test_every_format_is_read_transposed(name, source):
  want = load(name, source, 'stacked').transposed()
  got = load(name, source, 'transposed')
  assert got.config == want.config
  assert jax.tree.structure(got.params) == jax.tree.structure(want.params)
  jax.tree.map(np.testing.assert_array_equal, got.params, want.params)
  assert got.config.to_dict() == got.config.with_layout('stacked').to_dict()


PARTS = parity.image_tower, parity.whole_sequences, parity.greedy


@pytest.mark.parametrize('part', PARTS)
@pytest.mark.parametrize('name', parity.MODELS)
def test_recorded_arrays(name, part):
  got = part(load(name, 'model.npz', 'transposed'), golden(name))
  for array in [a for a in got if a.startswith('bf16w/')]:
    del got[array]  # Of other weights.
  for array, value in got.items():
    want, atol = golden(name)[array], parity.tolerance(array)
    np.testing.assert_allclose(value, want, rtol=0, atol=atol, err_msg=array)


@pytest.mark.parametrize('name', parity.MODELS)
def test_bfloat16_rounds_what_it_multiplies(name):
  """Rounding the activations adds no more than rounding the weights does."""
  full = golden(name)['full/text_logits']
  rounded = np.abs(golden(name)['bf16w/text_logits'] - full).max()
  model = load(name, 'model.bf16.npz', 'transposed')
  got = parity.whole_sequences(model, golden(name))['full/text_logits']
  difference = np.abs(got - golden(name)['bf16w/text_logits']).max()
  assert 1e-3 < difference < rounded


@pytest.mark.parametrize('name', parity.MODELS)
def test_bfloat16_rounds_what_the_encoder_multiplies(name):
  recorded = golden(name)
  rounded = np.abs(recorded['bf16w/encoded'] - recorded['enc/encoded']).max()
  model = load(name, 'model.bf16.npz', 'transposed')
  got = jax.jit(paligemma.Model.encode_image)(model, recorded['inputs/images'])
  assert got.dtype == jnp.float32
  difference = np.abs(got - recorded['bf16w/encoded']).max()
  assert 1e-4 < difference < rounded


def test_one_row_of_bfloat16():
  key = jax.random.key(0)
  w = jax.random.normal(key, (48, 32), jnp.bfloat16)
  x = jax.random.normal(key, (3, 32))
  want = np.asarray(x.astype(jnp.bfloat16), np.float64) @ np.asarray(
    w.T, np.float64
  )
  # Products of bfloat16 are exact in float32, and 32 of them are added.
  for rows in (1, 2, 3):
    got = common.linear(x[:rows], w, 'bfloat16')
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want[:rows], rtol=0, atol=2e-5)


def test_windows_when_rows_are_halved():
  model = load('pg2_56', 'hf_new', 'transposed')
  text = dataclasses.replace(model.config.text, window=8)
  model = model.replace(config=dataclasses.replace(model.config, text=text))
  zimg = golden('pg2_56')['enc/zimg']
  zimg = jnp.concatenate([zimg, zimg[::-1] * 0.5])
  tokens = jnp.tile(jnp.array([[2, 5, 6]]), (len(zimg), 1))

  @functools.partial(jax.jit, static_argnums=(0, 1, 2))
  def run(eos, method, halvings):
    return model.generate(
      zimg, tokens, tokens > 0, 12, eos, method, halvings=halvings
    )

  whole = np.asarray(run(-1, None, 0))
  eos = int(np.bincount(whole[:, 2:6].ravel()).argmax())  # Ends some early.
  method = decoding.Beam(2)
  np.testing.assert_array_equal(run(eos, method, 2), run(eos, method, 0))


def test_layouts(tmp_path):
  folder = parity.GOLDEN / 'pg1_56' / 'hf_new'
  with pytest.raises(ValueError, match="layout: got 'rows', expected one of"):
    checkpoints.load(folder, layout='rows')
  # Small ones are left alone, and an edge has an encoder only.
  assert not checkpoints.load(folder).config.text.transposed
  edge = checkpoints.load(folder, part='edge', layout='transposed')
  assert 'llm' not in edge.params
  assert isinstance(edge.config, paligemma.Config)


def test_embedding_has_a_gradient():
  model = load('pg1_56', 'model.npz', 'stacked')
  tokens = jnp.array([[2, 5, 6]])
  zimg = jnp.zeros((1, 16, model.config.text.width))

  @jax.jit
  @jax.grad
  def gradient(params):
    changed = model.replace(params=params)
    return changed.logits(zimg, tokens, jnp.zeros_like(tokens))[0, 0].max()

  table = gradient(model.params)['llm']['embedder']['input_embedding']
  assert np.abs(table[5]).max() > 0


WORDS = tokenizer.Tokenizer(parity.GOLDEN / 'tokenizer.model')
SAVES = {
  'npz': lambda path, m: checkpoints.save_npz(path / 'x.npz', m.params),
  'ours': lambda path, m: checkpoints.save(
    path / 'x', m.params, m.config.to_dict(), WORDS
  ),
  'huggingface': lambda path, m: huggingface.save(path, m.params, m.config),
  'orbax': lambda path, m: orbax.save(path / 'x', m.params),
}


@pytest.mark.parametrize('save', SAVES)
@pytest.mark.parametrize('tower', ['img', 'llm'])
def test_no_format_holds_layers_that_are_apart(tmp_path, save, tower):
  models = [load('pg1_56', 'model.npz', x) for x in ('stacked', 'transposed')]
  model = models[0].replace(
    params=models[0].params | {tower: models[1].params[tower]}
  )
  with pytest.raises(checkpoints.CheckpointError, match="layout='stacked' to"):
    SAVES[save](tmp_path, model)
  assert not list(tmp_path.iterdir())


def test_what_need_not_be_arranged():
  model = load('pg1_56', 'model.npz', 'transposed')
  assert model.transposed() is model
  folder = parity.GOLDEN / 'pg1_56' / 'hf_new'
  got, want = (
    checkpoints.load(folder, part='edge', layout=layout)
    for layout in ('stacked', 'transposed')
  )
  got = got.transposed()
  assert got.config == want.config
  assert jax.tree.structure(got.params) == jax.tree.structure(want.params)


@pytest.mark.parametrize('name', parity.MODELS)
def test_books_know_a_model_in_both_layouts(name):
  stacked, apart = (
    load(name, 'model.npz', layout) for layout in ('stacked', 'transposed')
  )
  want = codecs.features_of(stacked, 'encoder')
  assert codecs.features_of(apart, 'encoder') == want
  other = jax.tree.map(lambda x: 1.1 * x, apart.params)
  got = codecs.features_of(apart.replace(params=other), 'encoder')
  assert got.model != want.model


@pytest.mark.parametrize('mesh', [False, True])
def test_config_of_an_arranged_model(mesh):
  model = load('pg1_56', 'model.npz', 'transposed')
  got = checkpoints.load(
    parity.GOLDEN / 'pg1_56' / 'model.npz',
    config=model.config,
    mesh=sharding.make_mesh() if mesh else None,
  )
  want = load('pg1_56', 'model.npz', 'stacked')
  assert got.config == want.config
  assert jax.tree.structure(got.params) == jax.tree.structure(want.params)


ONE = 'MlpBlock_0/Dense_1', 'MultiHeadDotProductAttention_0/query'


@pytest.mark.parametrize('name', ONE)
def test_matrices_of_two_dtypes_are_not_rounded(name):
  model = load('pg1_56', 'model.bf16.npz', 'transposed')
  tower = model.params['img']['Transformer']
  flat = [trees.flatten(block) for block in tower['encoderblock']]
  for block in flat:
    at = f'{name}/kernel'
    block[at] = block[at].astype(jnp.float32)
  tower = tower | {'encoderblock': tuple(map(trees.unflatten, flat))}
  params = {'img': model.params['img'] | {'Transformer': tower}}
  # The same in float32, which rounds nothing.
  plain = jax.tree.map(lambda x: x.astype(jnp.float32), params)
  images = golden('pg1_56')['inputs/images']
  got, want, rounded = (
    m.encode_image(images)
    for m in (
      model.replace(params=params),
      model.replace(params=plain),
      model,
    )
  )
  np.testing.assert_array_equal(got, want)
  assert np.abs(rounded - want).max() > 1e-4


@pytest.mark.parametrize('layout', ['stacked', 'transposed'])
def test_pictures_in_bfloat16(layout):
  model = load('pg1_56', 'model.bf16.npz', layout)
  images = jnp.asarray(golden('pg1_56')['inputs/images'])
  got = model.encode_image(images.astype(jnp.bfloat16))
  assert got.dtype == jnp.float32
  assert np.abs(got - model.encode_image(images)).max() < 0.1
