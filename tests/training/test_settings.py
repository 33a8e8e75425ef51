"""Settings of a fine-tuning are refused before they are used."""

import pytest

from collab_jax import (
  checkpoints,
  studies,
)
from collab_jax.models import zoo
from collab_jax.studies import finetune as finetune_lib
from collab_jax.training import (
  finetune,
  train_loop,
  validate,
)
from configs import codebook
from configs import finetune as finetune_config
from configs import rate as rate_config
from tests import standin

RANDOM = 'ecvq(stages=2,size=4,book=random)'


def changed(**changes):
  config = finetune_config.get_config('mode=smoke')
  config.model, config.text_length = str(standin.folder()), 80
  config.quantizers = (f'merge(k=2,centroids={RANDOM})',)
  config.update_from_flattened_dict(changes)
  return config


def test_what_the_config_says_is_allowed():
  for mode in finetune_config.MODES:
    config = finetune_config.get_config(f'mode={mode}')
    chosen, _ = validate.check(config)
    assert len(chosen) == len(config.quantizers)


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'warmup_steps': 8}, 'warmup_steps: got 8, expected fewer than steps, 8'),
    ({'steps': 0}, 'steps.*expected an integer from 1'),
    ({'rank': 0}, 'rank.*expected an integer from 1'),
    ({'batch_size': 0}, 'batch_size.*expected an integer from 1'),
    ({'learning_rate': -1.0}, 'learning_rate: got .*a number from 0'),
    ({'book.batches': 0}, r'book\.batches.*expected an integer from 1'),
    ({'optimizer': 'sgd'}, "optimizer: got 'sgd'"),
    (
      {'data': 'coco', 'weights.label': 1.0},
      r'weights\.label: got 1, expected 0: pictures of coco',
    ),
    ({'limit': -1}, 'limit.*expected an integer from 0'),
    ({'saved': 'bf16'}, "saved: got 'bf16', expected one of float32"),
    ({'weights.decay': 0.4}, r'weights\.decay: got 0\.4 with 2 stages'),
    (
      {
        'quantizers': (f'pool(k=2,n=64,centroids={RANDOM})',),
        'batch_size': 1,
        'book.batches': 1,
      },
      'book.batches: got 1, which send 2 vectors for 4 codes',
    ),
  ],
)
def test_numbers_out_of_range_are_refused(changes, said):
  with pytest.raises(ValueError, match=said):
    validate.check(changed(**changes))


@pytest.mark.parametrize('field', ['quantizers', 'eval_codecs'])
@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('attended(k=4)', 'attended.* takes attention from the encoder'),
    ('salient(k=4,saliency=attention)', 'takes attention from the encoder'),
    ('resized(k=4,n=64)', 'takes reduced=2 from the encoder'),
    ('merge(k=300)', 'k: got 300, expected at most n = 64 vectors'),
    (
      f'merge(k=2,centroids={RANDOM.replace("size=4", "size=8")})',
      r'stages and size \[\(2, 4\), \(2, 8\)\], expected one for all',
    ),
    ('pool(k=4,n=64,centroids=pca(dims=8,book=random))', 'of PCA is not'),
    ('merge(k=2,centroids=shared_vq(book=random))', 'of SharedVQ is not'),
    ('merge(k=2,centroids=product_vq(book=random))', 'of ProductVQ is not'),
    (f'bisecting(k=4,centroids={RANDOM})', 'of ECVQ is not learned'),
    (f'adaptive(k=4,centroids={RANDOM})', 'of ECVQ is not learned'),
    ('merg(k=4)', "quantizer: got 'merg'; did you mean 'merge'"),
    (
      f'centred(book=random,vectors=merge(k=2,centroids={RANDOM}))',
      'of PositionMean is not learned',
    ),
    (
      f'centred(vectors=merge(k=2,centroids={RANDOM}))',
      'of ECVQ is not learned',
    ),
    (
      f'merge(k=2,centroids=pca(dims=8,vectors={RANDOM}))',
      'of ECVQ is not learned',
    ),
  ],
)
def test_what_cannot_be_trained_through_is_refused(tmp_path, field, text, said):
  config = changed()
  config[field] = (*config[field], text)
  with pytest.raises(ValueError, match=said) as raised:
    finetune.finetune(config, standin.small(), tmp_path / 'run')
  assert '\n' not in str(raised.value)
  assert not (tmp_path / 'run').exists()


def test_layers_that_are_apart_are_refused(tmp_path):
  model = checkpoints.load(standin.folder(), layout='transposed')
  with pytest.raises(checkpoints.CheckpointError, match='stacked'):
    finetune.finetune(changed(), model, tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_captions_that_do_not_fit_are_refused(tmp_path):
  config = changed(text_length=5)
  with pytest.raises(ValueError, match='text_length is 5'):
    finetune.finetune(config, standin.small(), tmp_path / 'run')
  assert not (tmp_path / 'run').exists()


def test_a_book_of_other_settings_is_not_taken(tmp_path):
  config = codebook.get_config('mode=smoke')
  train_loop.open_run(config, tmp_path / 'own')
  (tmp_path / 'own' / 'book.safetensors').touch()
  made = finetune_lib.make_books(standin.small(), {'own': config}, tmp_path)
  assert made == {'own': str(tmp_path / 'own' / 'book.safetensors')}
  config.limit += 1
  with pytest.raises(ValueError, match='limit: got'):
    finetune_lib.make_books(standin.small(), {'own': config}, tmp_path)
  # Nor one that nobody knows the settings of.
  (tmp_path / 'own' / 'config.json').unlink()
  with pytest.raises(ValueError, match=r'holds book\.safetensors, but config'):
    finetune_lib.make_books(standin.small(), {'own': config}, tmp_path)


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'kept': ('merge(k=3)',)}, r'compare.kept: got .merge\(k=3\)'),
    ({'shipped': ('jpg',)}, "codec: got 'jpg'; did you mean 'jpeg'"),
    ({'rate.codecs': ('mergee(k=4)',)}, 'mergee.*merge'),
    (
      {'rate.codecs': ('pca(dims=2,book={none})',)},
      "book 'none'",
    ),
    ({'rate.resamples': 0}, 'resamples: got 0'),
  ],
)
def test_what_compares_is_checked_before_training(changes, said):
  config = finetune_config.get_config('mode=smoke')
  config.compare.update_from_flattened_dict(changes)
  rate = rate_config.get_config('')
  rate.update({k: v for k, v in config.compare.rate.items() if k != 'mode'})
  books = dict.fromkeys(('centroids', 'merged', 'pooled'), rate)
  with pytest.raises(ValueError, match=said):
    studies.FinetuneStudy(config, rate, books).validate()


def test_there_are_scenes_of_the_model_s_size_and_enough():
  config = changed()
  said = r'pictures of 224 .*scenes of 64.*--config\.data=coco'
  with pytest.raises(ValueError, match=said):
    validate.check(config, zoo.card('paligemma-3b-pt-224').config)
  config.first_example = 2**28 - 1
  with pytest.raises(ValueError, match='expected at most 268435456 scenes'):
    validate.check(config)
