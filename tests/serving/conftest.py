"""Model, server, scenes and codecs shared by the tests of serving."""

import jax
import numpy as np
import pytest

from collab_jax import codecs, data, serving
from tests import standin
from tests.serving import harness


@pytest.fixture(scope='session')
def model():
  """A small random model."""
  return standin.small()


@pytest.fixture(scope='session')
def shared(model):
  """Server for tests that leave it as it was."""
  with serving.Server(
    model, harness.make_config(images='webp(quality=40)')
  ) as server:
    yield server


@pytest.fixture(scope='session')
def images():
  """Six scenes."""
  reader = data.scenes('test', limit=6)
  return np.stack([reader[i].image for i in range(6)])


class CodecsWithMessages(dict):
  """Codecs by name, each with its messages of the scenes; made on demand."""

  def __init__(self, model, images):
    super().__init__()
    self._model = model
    self._images = images

  def __missing__(self, name):
    codec = self._codec(name)
    self[name] = codec, codec.encode(self._images, jax.random.key(1))
    return self[name]

  def _codec(self, name):
    if name == 'webp':
      return codecs.ImageCodec(self._model, 'webp', quality=40)
    coding = 'best' if name == 'best' else 'fixed'
    return codecs.FeatureCodec(self._model, KINDS[name], coding=coding)


KINDS = {
  'kmeans': 'kmeans(k=4)',
  'best': 'kmeans(k=4)',
  'close': 'random(k=9)',
  'residual': 'residual_vq(book=random,stages=2,size=16)',
  'webp': '',
}


@pytest.fixture(scope='session')
def made(model, images):
  """Codecs of all kinds: 'kmeans', 'best', 'close', 'residual', 'webp'."""
  return CodecsWithMessages(model, images)


@pytest.fixture(scope='session')
def everything(made):
  """Codecs of all kinds, with their messages."""
  return {name: made[name] for name in KINDS}
