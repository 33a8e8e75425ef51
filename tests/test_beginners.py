"""Mistakes of a first hour with the package, each in plain words."""

import jax
import jaxtyping
import numpy as np
import pytest

import collab_jax as cj
from tests import standin


class Nameless:
  """Data without a name."""

  def __len__(self):
    return 1

  def __getitem__(self, index):
    return cj.data.scenes('test')[index]


@pytest.fixture(scope='module')
def here():
  # Signatures are not checked for users.
  jaxtyping.config.update('jaxtyping_disable', True)
  model = standin.small()
  codec = cj.FeatureCodec(model, cj.quantizers.TopNorm(k=2))
  captioner = cj.Captioner(model, max_tokens=2)
  images = np.stack([cj.data.scenes('test', 2)[i].image for i in range(2)])
  data = cj.data.scenes('test', limit=2)
  key = jax.random.key(0)
  yield {
    **locals(),
    'evaluate': lambda *a, **kw: cj.evaluate(
      *a, **{'captioner': captioner, 'data': data, 'progress': False, **kw}
    ),
  }
  jaxtyping.config.update('jaxtyping_disable', False)


MISTAKES = {
  'a codec and no list': (
    lambda h: h['evaluate'](h['codec']),
    'expected a list of codecs; write [codec]',
  ),
  'no codecs': (
    lambda h: h['evaluate']([]),
    'codecs: got none, expected one or more',
  ),
  'a name as a codec': (
    lambda h: h['evaluate'](['kmeans']),
    "codecs: got 'kmeans', expected a codec; make one by",
  ),
  'a model as the captioner': (
    lambda h: h['evaluate']([h['codec']], captioner=h['model']),
    'captioner: got Model, expected a Captioner; make one by',
  ),
  'a split where there is one': (
    lambda h: cj.data.photos('test'),
    "limit: got 'test', expected an integer of at least 0",
  ),
  'a split as the limit of scenes': (
    lambda h: cj.data.scenes('test', 'val'),
    "limit: got 'val', expected an integer of at least 0",
  ),
  'data without a name': (
    lambda h: h['evaluate']([h['codec']], data=Nameless()),
    'data: got Nameless without name, expected a reader of Examples',
  ),
  'a list as data': (
    lambda h: h['evaluate']([h['codec']], data=[1]),
    'data: got list without name',
  ),
  'a name as data': (
    lambda h: h['evaluate']([h['codec']], data='scenes'),
    "data: got 'scenes', expected a reader; make one by",
  ),
  'one seed': (
    lambda h: h['evaluate']([h['codec']], seeds=3),
    'seeds: got 3, expected one or more whole numbers',
  ),
  'a number as the key': (
    lambda h: h['codec'].encode(h['images'], 0),
    'key: got 0, expected jax.random.key(seed)',
  ),
  'one picture': (
    lambda h: h['codec'].encode(h['images'][0], h['key']),
    'one picture is a batch too: images[None]',
  ),
  'pictures of another size': (
    lambda h: h['evaluate']([h['codec']], data=cj.data.photos()),
    'pictures of the size of the model; readers give it:'
    ' data.photos(size=64), task.load(size=64)',
  ),
  'pictures of floats': (
    lambda h: h['codec'].encode(h['images'] / 255, h['key']),
    'images: got dtype float64, expected an array of uint8, 0..255',
  ),
  'a list of pictures': (
    lambda h: h['codec'].encode([*h['images']], h['key']),
    'images: got list, expected an array of uint8, 0..255; of a list make',
  ),
  'a path as pictures': (
    lambda h: h['codec'].encode('cat.png', h['key']),
    "read it with data.read_image('cat.png', 64)[None]",
  ),
  'one message': (
    lambda h: h['codec'].decode(b'abc'),
    'data: got bytes, expected a list of messages; [message]',
  ),
  'captions of pictures': (
    lambda h: h['captioner'](h['images']),
    'pictures are encoded first: captioner(codec.decode(codec.encode(',
  ),
  'captions of messages': (
    lambda h: h['captioner']([b'abc']),
    'messages are decoded first: captioner(codec.decode(messages))',
  ),
  'a name as the model of a captioner': (
    lambda h: cj.Captioner('tiny'),
    "model: got 'tiny', expected a model; make one by collab_jax.load('tiny')",
  ),
  'a name as the model of a codec': (
    lambda h: cj.FeatureCodec('tiny', 'kmeans(k=2)'),
    "model: got 'tiny', expected a model",
  ),
  'a name as the model of a picture codec': (
    lambda h: cj.ImageCodec('tiny', 'webp'),
    "model: got 'tiny', expected a model",
  ),
  'a quantizer without k': (
    lambda h: cj.FeatureCodec(h['model'], 'kmeans'),
    'kmeans: got no k, expected kmeans(k=...)',
  ),
  'a class as the quantizer': (
    lambda h: cj.FeatureCodec(h['model'], cj.quantizers.KMeans),
    'quantizer: got the class KMeans, expected an instance; write KMeans(...)',
  ),
  'a picture without a size': (
    lambda h: cj.data.read_image('cat.png'),
    "size: is not given, expected the side of the model's pictures in pixels",
  ),
  'a number as the data': (
    lambda h: cj.data.make(3),
    'data: got 3, expected a name or a path',
  ),
  'a path as records of a figure': (
    lambda h: cj.plots.tradeoff('records.jsonl'),
    "records: got the path 'records.jsonl', expected records; read them by",
  ),
  'a path as records of a summary': (
    lambda h: cj.evaluation.summarize('records.jsonl'),
    "records: got the path 'records.jsonl', expected records; read them by",
  ),
  'a list of paths': (
    lambda h: cj.evaluation.read_records(['a', 'b']),
    'paths: got a list, expected paths; write read_records(*paths)',
  ),
  'a batch in a figure of one picture': (
    lambda h: cj.plots.fig2(h['model'], h['images']),
    'expected one picture [H, W, 3]; of a batch take one, images[0]',
  ),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_is_told_in_plain_words(here, mistake):
  call, said = MISTAKES[mistake]
  with pytest.raises((ValueError, TypeError)) as error:
    call(here)
  assert said in str(error.value)
