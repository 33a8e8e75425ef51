"""Records that belong in one table, by fingerprints before names."""

import pytest

from collab_jax import evaluation
from tests.evaluation import synthetic


def _records(run='r1', model='mine', data='pets', pixels='p', images=6):
  return [
    {
      **record,
      'run': run,
      'model': model,
      'data': data,
      'decoding': 'greedy',
      'pixels': pixels and f'{pixels}{record["image_id"]}',
    }
    for record in synthetic.make(images=images, seeds=(0,))
  ]


def _summary(*groups):
  rows = evaluation.summarize([r for g in groups for r in g], resamples=5)
  return {(row['model'], row['data']) for row in rows}


def test_equal_weights_in_two_folders_are_one_model():
  two = _records(), _records(model='moved', data='renamed')
  assert _summary(*two) == {('mine / moved', 'pets / renamed')}
  one, _ = two
  assert [{**r, 'model': 0, 'data': 0} for r in evaluation.summarize(one)] == [
    {**r, 'model': 0, 'data': 0}
    for r in evaluation.summarize([*two[0], *two[1]])
  ]


@pytest.mark.parametrize(
  'other',
  [
    {'run': 'r2', 'model': 'other'},
    {'run': 'r2'},
    {'data': 'others', 'pixels': 'q'},
    {'data': 'others', 'pixels': None},
    {'run': None, 'model': 'other'},
  ],
)
def test_what_differs_is_refused(other):
  with pytest.raises(
    ValueError, match='several models, data sets or decod'
  ) as e:
    _summary(_records(), _records(**other))
  assert 'plot.py --panels' in str(e.value)


def test_names_decide_without_fingerprints():
  old = {'run': None, 'pixels': None}
  assert _summary(_records(**old), _records()) == {('mine', 'pets')}
  assert _summary(_records(**old), _records(**old)) == {('mine', 'pets')}
  with pytest.raises(ValueError, match='several models'):
    _summary(_records(**old), _records(**old, model='other'))
