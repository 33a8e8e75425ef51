"""Session descriptions: written, parsed, and refused."""

import importlib.util
import json

import pytest

from collab_jax import checkpoints, codecs, serving, wire
from collab_jax.serving import protocol
from collab_jax.serving.server import codecs as server_codecs
from tests import colours, launching


def test_description_of_features_is_the_wire_session(made):
  codec, _ = made['kmeans']
  text = codec.to_json()
  assert text == codec.session.to_json()
  read = protocol.parse(text)
  assert read.digest.hex() == codec.session.digest
  assert read.digest[:8] == protocol.session_id(codec)
  assert read.spec['quantizer'] == 'kmeans(k=4)'
  assert protocol.differences(codec, read) == []
  assert protocol.session_id(made['best'][0]) != protocol.session_id(codec)


def test_description_of_image_codecs(model, made):
  codec, _ = made['webp']
  read = protocol.parse(codec.to_json())
  assert read.digest[:8] == protocol.session_id(codec)
  assert read.spec == {
    'codec': 'image',
    'name': 'webp(quality=40)',
    'size': 64,
    # Its dimensions, whatever its folder is called.
    'model': 'siglip-64-8-16-1-2-32-24',
  }
  assert json.loads(codec.to_json())['digest'] == read.digest.hex()
  other = codecs.ImageCodec(model, 'webp', quality=41)
  assert protocol.differences(other, read) == [
    'spec.name: here "webp(quality=41)", there "webp(quality=40)"'
  ]
  assert len(protocol.differences(made['kmeans'][0], read)) > 5


def test_description_of_stripped_files_names_the_library(model):
  bare = codecs.ImageCodec(model, 'webp', quality=40, strip=True)
  read = protocol.parse(bare.to_json())
  assert read.spec['encoder'].startswith('libwebp ')


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('{', 'session: got no JSON'),
    ('[' * 10_000, 'session: got no JSON'),
    ('3', 'session: got int in JSON, expected an object'),
    (
      '{"format": "collab_jax.image", "version": 2}',
      'version of the session: got 2, expected 1',
    ),
    (
      '{"format": "collab_jax.image", "version": 1, "spec": 1}',
      'spec of .*: got none',
    ),
    (' ' * 100_000, 'expected at most 65536'),
  ],
)
def test_invalid_descriptions_are_refused(text, said):
  with pytest.raises(wire.FormatError, match=said):
    protocol.parse(text)


def test_descriptions_with_tables_are_refused(model):
  codec = codecs.FeatureCodec(
    model, 'residual_vq(book=random,stages=2,size=16)'
  )
  with pytest.raises(wire.FormatError, match='without them'):
    protocol.parse(codec.session.to_json(priors=True))


def test_serving_is_imported_lazily():
  done = launching.alone(
    '-c',
    'import sys, collab_jax, collab_jax.serving\n'
    'names = "grpc", "google.protobuf", "jax"\n'
    'print([name for name in names if name in sys.modules])',
  )
  assert done.stdout == '[]\n', done.stderr


def test_missing_extra_is_named(monkeypatch):
  monkeypatch.delitem(vars(serving), 'Server', raising=False)
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(ImportError, match=r"pip install 'collab_jax\[serving\]'"):
    serving.Server  # noqa: B018


def test_any_admits_shipped_parameters_only():
  tiny = checkpoints.load('tiny', part='server')
  offer = server_codecs.CodecAllowlist(tiny, protocol.ANY, '')

  def agreement(vectors):
    codec = codecs.FeatureCodec(tiny, f'pca(dims=4,vectors={vectors})')
    return protocol.parse(codec.to_json())

  for vectors in ('scalar(scales=book)', 'ecsq'):
    offer.check(agreement(vectors))
  other = agreement('scalar')
  name = other.spec['quantizer'].replace('scalar', 'scalar(book=random)')
  spec = {**other.spec, 'quantizer': name}
  with pytest.raises(
    server_codecs.RefusedError, match='without modules and books'
  ):
    offer.check(other._replace(values={**other.values, 'spec': spec}))


class Vectors(colours.Colours):
  """Cuts the model, so that its server needs no image encoder."""

  split = 'encoder'


@pytest.mark.parametrize(
  ('quantizer_list', 'images', 'needing'),
  [
    ('kmeans(k=8);tests.colours:Colours(side=4)', '', 'tests.colours:Colours'),
    ('any', 'tests.colours:Colours(side=4)', 'tests.colours:Colours'),
    ('kmeans(k=8)', 'webp(quality=5)', 'webp'),
    ('kmeans(k=8)', 'any', 'any'),
    ('any', f'{__name__}:Vectors', ''),
    ('kmeans(k=8)', 'collab_jax.quantizers:KMeans(k=4)', ''),
  ],
)
def test_listed_codecs_say_what_is_loaded(quantizer_list, images, needing):
  config = serving.ServerConfig(quantizers=quantizer_list, images=images)
  assert ''.join(config.server_encoded).startswith(needing)
  assert bool(config.server_encoded) == bool(needing)
  tiny = checkpoints.load('tiny', part='server')
  if needing:
    with pytest.raises(ValueError, match=f'image encoder.* for {needing}'):
      serving.Server(tiny, config)
  else:
    assert serving.Server(tiny, config).config == config
