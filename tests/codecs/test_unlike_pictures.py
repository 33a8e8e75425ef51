"""Warning of pictures unlike the scenes that the tiny model knows."""

import dataclasses

import jax
import numpy as np
import pytest

from collab_jax import checkpoints, codecs, data
from collab_jax.codecs import unlike_pictures
from collab_jax.models import feature_statistics

KEY = jax.random.key(0)
TEXT = 'unlike the generated scenes that the tiny model knows'


@pytest.fixture(scope='module')
def model():
  return checkpoints.load('tiny', part='edge')


@pytest.fixture(autouse=True)
def _warn_again():
  unlike_pictures._warn_once.cache_clear()


def _images(reader, count=7):
  return np.stack([reader[i].image for i in range(count)])


@pytest.fixture(scope='module')
def photos():
  return _images(data.photos(size=64))


@pytest.fixture(scope='module')
def scenes():
  return _images(data.scenes('test'))


@pytest.mark.parametrize('split', codecs.SPLITS)
def test_photographs_are_told_from_scenes(model, photos, scenes, split):
  codec = codecs.FeatureCodec(model, 'kmeans(k=4)', split)
  assert codec.encode_batch(photos, KEY).unlike.all()
  assert not codec.encode_batch(scenes, KEY).unlike.any()


def test_encoding_warns_once(model, photos, scenes, caplog):
  codec = codecs.FeatureCodec(model, 'kmeans(k=4)')
  codec.encode(scenes, KEY)
  # A black picture is none of the user's.
  link = codecs.Link(codec, 'erasure(p=0.4)')
  for each in (codec, link):
    assert each.blank_batch(2)
    assert each.blank() is not None
    each.warm_up(2)
  assert not caplog.records
  codec.encode(photos, KEY)
  codec.encode_features(codec.features(photos), KEY)
  link.encode(photos, KEY)
  assert [TEXT in record.message for record in caplog.records] == [True]


def test_the_warning_fits_captions_and_answers(model):
  said = codecs.describe_unlike_picture(model)
  assert said.endswith(': captions and answers about it mean nothing')


def test_link_warns(model, photos, caplog):
  codec = codecs.FeatureCodec(model, 'kmeans(k=4)')
  codecs.Link(codec, 'erasure(p=0.4)').encode(photos, KEY)
  assert len(caplog.records) == 1


def test_messages_are_the_same_without_statistics(model, photos):
  plain = dataclasses.replace(model, statistics=None)
  codec, other = (
    codecs.FeatureCodec(m, 'kmeans(k=4)').encode_batch(photos, KEY)
    for m in (model, plain)
  )
  assert codec.messages == other.messages
  assert other.unlike is None


def test_another_encoder_is_not_judged(model, photos, caplog):
  params = dict(model.params['img'])
  params['embedding'] = jax.tree.map(lambda p: p + 1, params['embedding'])
  trained = dataclasses.replace(model, params={**model.params, 'img': params})
  codec = codecs.FeatureCodec(trained, 'kmeans(k=4)')
  assert codec.encode_batch(photos, KEY).unlike is None
  codec.encode(photos, KEY)
  assert not caplog.records


def test_models_of_both_ends_have_what_they_need(tmp_path):
  assert checkpoints.load('tiny', part='server').statistics is None
  tiny = checkpoints.folder('tiny')
  files = {f.name: f for f in checkpoints.describe(tiny).files}
  assert files[feature_statistics.FILE].role == 'read'
  for to in ('orbax', 'huggingface'):
    target = tmp_path / to
    checkpoints.convert(tiny, target, to)
    got = checkpoints.load(target, part='edge').statistics
    assert got == checkpoints.load('tiny', part='edge').statistics
  (target / feature_statistics.FILE).write_bytes(b'12345678')
  with pytest.raises(checkpoints.CheckpointError, match='remove it'):
    checkpoints.load(target)
