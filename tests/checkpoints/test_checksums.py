"""Checksums of weights: the same in every layout, others for other weights."""

import jax
import numpy as np
import pytest

from collab_jax import checkpoints, sharding
from collab_jax.checkpoints import checksums, huggingface
from tests.checkpoints.released import MODELS, config_of, npz_of


@pytest.fixture(params=['tiny', *MODELS])
def loaded(request, tmp_path):
  """Models in both layouts."""
  folder = request.param
  if folder != 'tiny':
    huggingface.save(tmp_path, npz_of(folder), config_of(folder))
    folder = tmp_path
  return [checkpoints.load(folder, layout=n) for n in ('stacked', 'transposed')]


@pytest.mark.parametrize('part', [None, 'img', 'llm'])
def test_layouts_are_equal(loaded, part):
  stacked, transposed = (m.params[part] if part else m.params for m in loaded)
  assert checksums.sampled(stacked) == checksums.sampled(transposed)
  assert checksums.whole(stacked) == checksums.whole(transposed)
  # What earlier versions recorded.
  assert checksums.sampled(stacked) == sharding.fingerprint(stacked)


def test_every_number_counts(loaded):
  for model in loaded:
    whole = checksums.whole(model.params)
    leaves, tree = jax.tree.flatten(model.params)
    for i in range(0, len(leaves), 7):
      array = np.array(leaves[i])
      array.flat[array.size - 1] += 1
      changed = jax.tree.unflatten(tree, [*leaves[:i], array, *leaves[i + 1 :]])
      assert checksums.whole(changed) != whole

      array.flat[:] += 1
      assert checksums.sampled(changed) != checksums.sampled(model.params)


def test_order_of_layers_counts(loaded):
  _, model = loaded
  llm = model.params['llm']
  turned = llm | {'layers': llm['layers'][::-1]}
  assert checksums.sampled(turned) != checksums.sampled(llm)
  assert checksums.whole(turned) != checksums.whole(llm)


def test_rounded_weights_are_others():
  model = checkpoints.load('tiny')
  moved = jax.tree.map(lambda x: x * 1.0001, model.params)
  half = jax.tree.map(lambda x: x.astype('bfloat16'), moved)
  assert checksums.whole(half) != checksums.whole(moved)
  assert checksums.sampled(half) != checksums.sampled(moved)


def test_large_models_are_sampled_only(monkeypatch):
  params = checkpoints.load('tiny').params
  monkeypatch.setattr(checksums, '_WHOLE', 1000)
  assert checksums.whole(params) is None
