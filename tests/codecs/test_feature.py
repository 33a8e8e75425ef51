"""Pictures to bytes, and bytes to prefixes and captions."""

import dataclasses

import jax
from jax import numpy as jnp
import jaxtyping
import numpy as np
import pytest

from collab_jax import captioner as captioning
from collab_jax import checkpoints, codecs, data, message, quantizers, wire
from collab_jax.codecs import fingerprint
from collab_jax.models import zoo
from tests import standin

KEY = jax.random.key(3)


@pytest.fixture(scope='module')
def model():
  return standin.small()


@pytest.fixture(scope='module')
def images():
  reader = data.scenes('test', limit=5)
  return np.stack([reader[i].image for i in range(5)])


@pytest.fixture(scope='module')
def codec(model):
  return codecs.FeatureCodec(model, quantizers.KMeans(k=4))


def test_bytes_are_the_wire_format_of_the_message(codec, images):
  packets = codec.encode(images, KEY, [7, 8, 9, 10, 11])
  features = codec.features(images)
  key = jax.random.fold_in(KEY, 9)
  message = codec.quantizer.quantize({}, features[2], key)
  assert packets[2] == codec.session.pack(jax.device_get(message))
  sizes = codec.sizes(packets[2])
  assert sum(sizes.values()) == len(packets[2])
  assert sizes == {'header': 5, 'assignments': 16, 'centroids/x': 4 * 16 * 2}


def test_an_image_gives_the_same_bytes_in_any_company(codec, images):
  ids = [7, 8, 9, 10, 11]
  together = codec.encode(images, KEY, ids)
  order = [3, 0, 4]
  others = codec.encode(images[order], KEY, [ids[i] for i in order])
  assert others == [together[i] for i in order]
  assert codec.encode(images, jax.random.key(4), ids) != together


def test_prefix_is_the_projection_of_what_was_rebuilt(codec, model, images):
  packets = codec.encode(images, KEY)
  prefix = codec.decode(packets)
  received = codec.session.unpack(packets[1])
  tokens = codec.quantizer.dequantize({}, received)
  np.testing.assert_allclose(
    prefix.x[1], model.project(tokens.x[None])[0], rtol=1e-4, atol=1e-4
  )
  assert prefix.valid.all()
  assert prefix.end.tolist() == [64] * 5


def test_exact_features_give_the_model_s_own_prefix(model, images):
  codec = codecs.FeatureCodec(model, quantizers.Identity('float32'))
  x = model.encode_image(codecs.to_float(images))
  prefix = codec.decode(codec.encode(images, KEY))
  np.testing.assert_allclose(prefix.x, model.project(x), rtol=1e-4, atol=1e-4)


def test_split_after_the_head(model, images):
  codec = codecs.FeatureCodec(
    model, quantizers.Random(k=4, rebuild='keep'), split='head'
  )
  features = codec.features(images)
  assert features.shape == (5, 64, 24)
  prefix = codec.decode(codec.encode_features(features, KEY))
  assert np.asarray(prefix.valid).sum(1).tolist() == [4] * 5
  rows = np.arange(5)[:, None]
  sent = np.asarray(features)[rows, prefix.positions[:, :4]]
  np.testing.assert_allclose(prefix.x[:, :4], sent, rtol=1e-3, atol=1e-3)
  assert codec.name.endswith('@head')
  assert codec.describe()['split'] == 'head'


def test_names_differ_between_settings(model):
  names = [
    codecs.FeatureCodec(model, quantizer, split, coding=coding).name
    for split in codecs.SPLITS
    for coding in wire.CODINGS
    for quantizer in (
      quantizers.KMeans(k=4),
      quantizers.KMeans(k=4, init='++'),
      quantizers.Random(k=4),
      quantizers.Identity(),
    )
  ]
  assert len(set(names)) == len(names)


def test_wrong_split_is_refused(model):
  with pytest.raises(ValueError, match="got 'middle', expected 'encoder'"):
    codecs.FeatureCodec(model, 'identity', split='middle')


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (lambda x: x / 127.5 - 1, 'got dtype float64, expected an array of uint8'),
    (lambda x: (x / 255).astype('float32'), r'float32, .*\(255 \* x\)'),
    (lambda x: x.astype('int32'), 'got dtype int32, expected'),
    (lambda x: x.tolist(), 'got list, expected an array of uint8, 0..255'),
    (lambda x: x[0], r'\(64, 64, 3\), expected .*batch too: images\[None\]'),
    (lambda x: x[..., :1], r'\(5, 64, 64, 1\), expected \[B, 64, 64, 3\]'),
    (lambda x: x[:, ::2], r'\(5, 32, 64, 3\), expected \[B, 64, 64, 3\]'),
  ],
)
def test_other_pictures_are_refused(codec, images, change, said):
  # As it is for a user, whose signatures are not checked.
  jaxtyping.config.update('jaxtyping_disable', True)
  try:
    with pytest.raises(ValueError, match=said):
      codec.encode(change(images), KEY)
    assert codec.encode(jnp.asarray(images), KEY) == codec.encode(images, KEY)
  finally:
    jaxtyping.config.update('jaxtyping_disable', False)


def test_other_numbers_of_ids_are_refused(codec, images):
  with pytest.raises(ValueError, match='image_ids: number: got 1, expected'):
    codec.encode(images, jax.random.key(0), [7])


def test_damaged_bytes_are_refused(codec, images):
  packets = codec.encode(images, KEY)
  with pytest.raises(wire.FormatError):
    codec.decode([*packets[:-1], packets[-1][:-1]])


def test_the_best_coding_loses_nothing(codec, model, images):
  best = codecs.FeatureCodec(model, codec.quantizer, coding='best')
  features = codec.features(images)
  packets = best.encode_features(features, KEY)
  fixed = codec.encode_features(features, KEY)
  for a, b in zip(
    jax.tree.leaves(best.rebuild(packets)),
    jax.tree.leaves(codec.rebuild(fixed)),
    strict=True,
  ):
    np.testing.assert_array_equal(a, b)
  assert sum(map(len, packets)) < sum(map(len, fixed))
  assert all(sum(best.sizes(p).values()) == len(p) for p in packets)
  assert best.describe() == {**codec.describe(), 'coding': 'best'}
  assert best.name == codec.name + '/best'
  with pytest.raises(ValueError, match="coding: got 'zip'"):
    codecs.FeatureCodec(model, 'identity', coding='zip')


def test_messages_of_another_codec_are_told(codec, model, images):
  packets = codec.encode(images, KEY)
  # The same fields: only the clusters begin elsewhere.
  other = codecs.FeatureCodec(model, quantizers.KMeans(k=4, init='++'))
  with pytest.raises(wire.FormatError, match='another session'):
    other.decode(packets)
  assert other.session.differences(codec.session.to_json()) == [
    'spec.quantizer: here "kmeans(k=4,init=++)", there "kmeans(k=4)"'
  ]
  # Another model.
  params = jax.tree.map(lambda x: x * 1.5, model.params)
  trained = codecs.FeatureCodec(model.replace(params=params), codec.quantizer)
  with pytest.raises(wire.FormatError, match='another session'):
    trained.decode(packets)
  # The same one, held in fewer bits.
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), model.params)
  half = codecs.FeatureCodec(model.replace(params=params), codec.quantizer)
  assert half.session.digest == codec.session.digest


def test_a_quantizer_that_reads_no_book_fits_any_model(model, images):
  method = quantizers.KMeans(4, centroids=quantizers.Scalar(4))
  codec = codecs.FeatureCodec(model, method, split='head')
  assert codec.decode(codec.encode(images, KEY)).x.shape == (5, 64, 24)


def test_equal_books_in_other_places_are_one_session(model, tmp_path):
  shared = np.random.default_rng(0).normal(size=(2, 1, 8, 16))
  ends = []
  for place, values in (('a', 0), ('b', 0), ('c', 1)):
    path = str(tmp_path / f'{place}.safetensors')
    arrays = {
      'codes': shared[values].astype(np.float16),
      'counts': np.ones((1, 8), np.int32),
    }
    quantizers.pretrained.save(path, arrays, kind='codebook', width=16)
    inner = quantizers.SharedVQ(8, path)
    method = quantizers.KMeans(4, centroids=inner)
    ends.append(codecs.FeatureCodec(model, method))
  edge, server, other = (end.session for end in ends)
  assert edge.digest == server.digest
  assert edge.differences(server.to_json()) == []
  assert other.digest != edge.digest
  assert 'spec.params' in other.differences(edge.to_json())[0]
  assert ends[0].name != ends[1].name


@pytest.mark.parametrize('m', [5, 40])
def test_captions_do_not_depend_on_padding(model, m):
  captioner = captioning.Captioner(model, max_tokens=6)
  x = np.asarray(jax.random.normal(jax.random.key(0), (3, m, 24)))
  tokens, mask = captioner.tokenize(['caption en'] * 3)
  generate = jax.jit(lambda *args: model.generate(*args, max_tokens=6))
  ids = np.asarray(generate(x, tokens, mask))
  assert captioner(x) == [model.tokenizer.decode(row) for row in ids]


def test_buckets_are_few():
  lengths = set()
  for m in range(1, 257):
    prefix = message.Prefix(
      jax.ShapeDtypeStruct((1, m, 2), np.float32),
      jax.ShapeDtypeStruct((1, m), bool),
      jax.ShapeDtypeStruct((1, m), np.int32),
      jax.ShapeDtypeStruct((1,), np.int32),
    )
    lengths.add(jax.eval_shape(captioning.bucket, prefix).x.shape[1])
  assert lengths == {16, 32, 64, 128, 256}


def test_what_a_bucket_adds_is_not_seen():
  prefix = message.Prefix(
    np.ones((2, 3, 4), np.float32),
    np.ones((2, 3), bool),
    np.tile(np.arange(3, dtype=np.int32), (2, 1)),
    np.full(2, 9, np.int32),
  )
  padded = captioning.bucket(prefix)
  assert padded.x.shape == (2, 16, 4)
  assert np.asarray(padded.valid).sum(1).tolist() == [3, 3]
  assert padded.end.tolist() == [9, 9]


def test_prompts(model, without_types):
  captioner = captioning.Captioner(model, max_tokens=4)
  x = jax.random.normal(jax.random.key(0), (2, 4, 24))
  both = captioner(x, ['caption en', 'a red star'])
  assert both[0] == captioner(x)[0]
  assert both[1] == captioner(x, 'a red star')[1]
  with pytest.raises(ValueError, match='got 3 prompts for 2 rows'):
    captioner(x, ['a', 'b', 'c'])
  for bad in (0, 2.5, '8', None):
    with pytest.raises(ValueError, match=f'max_tokens: got {bad!r}, expected'):
      captioning.Captioner(model, max_tokens=bad)
  assert captioning.Captioner(model, max_tokens=np.int64(4))(x) == captioner(x)
  with pytest.raises(ValueError, match='prompt: got 3, expected a text'):
    captioning.Captioner(model, prompt=3)
  with pytest.raises(ValueError, match=r"prompt: got \['a', 1\], expected te"):
    captioner(x, ['a', 1])


@pytest.mark.parametrize(
  ('prefix', 'got'),
  [
    (np.zeros((2, 4, 25), np.float32), r'\(2, 4, 25\)'),
    (np.zeros((2, 24), np.float32), r'\(2, 24\)'),
    (None, "'NoneType'"),
  ],
)
def test_prefixes_of_another_shape(model, without_types, prefix, got):
  captioner = captioning.Captioner(model, max_tokens=4)
  with pytest.raises(ValueError, match=rf'prefix: got {got}, .*\[B, N, 24\]'):
    captioner(prefix)


def test_keys_of_rows(model):
  captioner = captioning.Captioner(model, 4, decoding='sample(temperature=1.0)')
  x = jax.random.normal(jax.random.key(0), (2, 4, 24))
  assert len(captioner(x, key=captioner.keys(0, [1, 2]))) == 2
  assert len(captioner(x, key=jax.random.key(0))) == 2
  with pytest.raises(ValueError, match='one for each of 2 rows'):
    captioner(x, key=captioner.keys(0, [1]))


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
  'quantizer',
  [
    *('identity', 'kmeans(k=3)', 'kmeans(k=3,centroids=scalar(bits=4))'),
    *('random(k=3)', 'merge(k=3)', 'random(k=3,vectors=scalar(bits=2))'),
  ],
)
def test_numbers_that_are_not_finite_become_no_symbols(model, quantizer, bad):
  """A selection may leave the bad vector out; it is refused all the same."""
  codec = codecs.FeatureCodec(model, quantizer)
  shape = 3, codec.vectors, codec.width
  features = np.array(jax.random.normal(jax.random.key(0), shape))
  with pytest.raises(ValueError, match=r'features: shape: got .*\[B, 64, '):
    codec.encode_features(features[:, 1:], jax.random.key(0))
  codec.encode_features(features, jax.random.key(0), [7, 8, 9])
  features[1, 2, 5] = bad
  with pytest.raises(ValueError, match='features of image 8: got numbers that'):
    codec.encode_features(features, jax.random.key(0), [7, 8, 9])


def test_the_name_of_a_model_decides_nothing(model):
  """Equal weights in folders of different names are the same model."""
  images = np.zeros((1, 64, 64, 3), np.uint8)
  renamed = model.replace(
    config=dataclasses.replace(model.config, name='0123abcd')
  )
  for text in ('kmeans(k=4)', 'jpeg(quality=50)'):
    edge, server = (codecs.parse(text).bind(m) for m in (model, renamed))
    assert edge.to_json() == server.to_json()
    server.decode(edge.encode(images, jax.random.key(0)))
  head = jax.tree.map(lambda x: x + 0.5, model.params['img']['head'])
  params = {**model.params, 'img': {**model.params['img'], 'head': head}}
  tuned = codecs.FeatureCodec(model.replace(params=params), 'kmeans(k=4)')
  message = codecs.FeatureCodec(model, 'kmeans(k=4)').encode(
    images, jax.random.key(0)
  )
  with pytest.raises(wire.FormatError, match='of another session'):
    tuned.decode(message)


def test_known_dimensions_keep_their_name_in_descriptions():
  names = 'tiny', 'paligemma-3b-pt-224', 'paligemma2-10b-pt-448'
  configs = [checkpoints.load('tiny').config]
  configs += [zoo.card(name).config for name in names[1:]]
  got = [fingerprint.architecture(config.vision) for config in configs]
  assert got == list(names)
  mixed = zoo.card('paligemma-3b-mix-224').config.vision
  assert fingerprint.architecture(mixed) == 'paligemma-3b-pt-224'
