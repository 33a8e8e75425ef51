"""Faults of users' codecs are found where they are made, in one line."""

import dataclasses
import os
from typing import Any

import jax
import numpy as np
import pytest

from collab_jax import captioner as captioning
from collab_jax import (
  codecs,
  data,
  evaluation,
  quantizers,
  serving,
  testing,
  wire,
)
from collab_jax.codecs import contract
from collab_jax.evaluation.report import rate
from collab_jax.models import paligemma
from collab_jax.serving.web import visualize
from tests import colours, standin

HERE = __name__
IMAGES = np.zeros((3, 64, 64, 3), np.uint8)


@dataclasses.dataclass
class Broken(codecs.Codec):
  """Returns whatever it is told to."""

  model: paligemma.Model
  side: int = 8
  exact: bool = False
  gain: float = 1.0
  mode: str = 'plain'

  def encode(self, images, key=None, image_ids=None):
    return self.messages(images)

  def messages(self, images):
    return [b'abc'] * len(images)

  def unpack(self, message):
    return self.picture(message)

  def picture(self, message):
    if message != b'abc':
      raise wire.FormatError(f'got {len(message)} bytes')
    return np.zeros((64, 64, 3), np.uint8)


class Plain(codecs.Codec):
  def __init__(self, model):
    self.model = model

  encode = Broken.encode
  unpack = Broken.unpack


@dataclasses.dataclass
class NoModel(Broken):
  model: int = 3  # pyright: ignore

  def __init__(self, side, model):
    self.side, self.model = side, model


@dataclasses.dataclass
class Reserved(Broken):
  channel: int = 3  # pyright: ignore


@dataclasses.dataclass
class Half(codecs.Codec):
  model: paligemma.Model

  def encode(self, images, key=None, image_ids=None):
    return []


def make(**members):
  """Returns `Broken` with these members."""
  codec = Broken(standin.small())
  vars(codec).update(members)
  return codec


@pytest.mark.parametrize(
  ('result', 'said'),
  [
    ([b''], 'got 1 messages, expected 3'),
    ([b''] * 4, 'got 4 messages, expected 3'),
    (['a'] * 3, 'got a str, expected messages of bytes'),
    ([IMAGES[0]] * 3, r'got u8\[64 64 3\], expected messages of bytes'),
    (IMAGES, r'got u8\[3 64 64 3\], expected a list of 3 bytes'),
    (None, 'got None, expected a list'),
    ((b'' for _ in range(3)), 'got a generator, expected a list'),
  ],
)
def test_messages_are_checked(result, said):
  codec = make(messages=lambda images: result)
  with pytest.raises(ValueError, match=rf'^{HERE}:Broken\.encode: {said}'):
    codec.encode_batch(IMAGES, jax.random.key(0))


@pytest.mark.parametrize(
  ('result', 'said'),
  [
    (
      np.zeros((3, 64, 64), np.float32),
      r'got float32\[3 64 64\], expected u8\[64 64 3\]',
    ),
    (IMAGES[0].transpose(2, 0, 1), r'got u8\[3 64 64\], expected u8\[64 64 3'),
    (IMAGES[0] / 1.0, r'got float64\[64 64 3\], expected u8'),
    (IMAGES[0, :32, :32], r'got u8\[32 32 3\], expected u8\[64 64 3\]'),
    (None, 'got None, expected u8'),
    (KeyError('a'), r"got KeyError\('a'\), expected .*raise .*FormatError"),
    (SystemExit(1), r'got SystemExit\(1\), expected .*raise .*FormatError'),
  ],
)
def test_pictures_are_checked(result, said):
  def picture(message):
    if isinstance(result, BaseException):
      raise result
    return result

  codec = make(picture=picture)
  for call in (codec.unpack, lambda message: codec.decode_batch([message])):
    with pytest.raises(ValueError, match=rf'^{HERE}:Broken\.unpack: {said}'):
      call(b'abc')


def test_classes_are_checked():
  model = standin.small()
  with pytest.raises(ValueError, match=r'Plain: got .*, expected a dataclass'):
    _ = Plain(model).name
  with pytest.raises(ValueError, match="first field: got 'side', expected 'mo"):
    _ = NoModel(8, model).name
  with pytest.raises(ValueError, match="field: got 'channel', expected a name"):
    Reserved(model)
  with pytest.raises(ValueError, match='Half: got no unpack'):
    codecs.parse(f'{HERE}:Half')


@pytest.mark.parametrize(
  ('settings', 'said'),
  [
    ({'side': 'x'}, "side of .*:Broken: got 'x', expected an integer"),
    ({'side': True}, 'side of .*: got True, expected an integer'),
    ({'side': 1e3}, 'side of .*: got 1000.0, expected an integer'),
    ({'gain': float('nan')}, "gain of .*: got '?nan'?, expected a number"),
    ({'exact': 'yes'}, "exact of .*: got 'yes', expected true or false"),
    ({'mode': 'a,b'}, "mode of .*: got 'a,b', expected a value that can"),
    ({'mode': ' a'}, "mode of .*: got ' a', expected a value that can be read"),
  ],
)
def test_settings_are_checked(settings, said):
  with pytest.raises(ValueError, match=said):
    Broken(standin.small(), **settings)
  ((name, value),) = settings.items()
  if name != 'mode':
    with pytest.raises(ValueError, match=said):
      codecs.parse(f'{HERE}:Broken({name}={value})')


def test_settings_are_read_by_their_types():
  text = f'{HERE}:Broken(side=4,exact=true,gain=2,mode=16)'
  spec = codecs.parse(text)
  codec = spec.bind(standin.small())
  assert (codec.exact, codec.gain, codec.mode) == (True, 2, '16')
  assert codec.name == spec.name == text.replace('true', 'True')
  assert codecs.parse(codec.name) == spec


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    (f'{HERE}:Brokn', f"codec: got .*, but {HERE} has no Brokn.*'Broken'"),
    (f'{HERE}:', "expected 'package.module:Class'"),
    (':Broken', "expected 'package.module:Class'"),
    ('./mine:Broken', "got './mine:Broken', expected 'package.module:Class'"),
    ('os:system', "codec: got 'os:system', expected a class of a codec or"),
    (f'{HERE}:Broken | whole(mtu=50)', 'expected a codec alone; .*`sent`'),
    (f'{HERE}:Broken(side=8,side=9)', "'side' is there twice"),
    (f'centred(vectors={HERE}:Broken)', 'expected a quantizer; it is a codec'),
  ],
)
def test_names_are_checked(text, said):
  with pytest.raises(ValueError, match=said):
    codecs.parse(text)


def test_a_codec_is_no_quantizer():
  with pytest.raises(ValueError, match='expected a quantizer; it is a codec'):
    codecs.FeatureCodec(standin.small(), f'{HERE}:Broken')


@pytest.mark.usefixtures('unchecked')
def test_what_is_no_codec_is_refused():
  link = codecs.Link(make(), 'ideal')
  with pytest.raises(ValueError, match=r'codec: got Link.*; give link\.codec'):
    codecs.Link(link, 'ideal')
  captioner: Any = None
  for value in ('kmeans(k=8)', quantizers.KMeans(k=8), link.spec):
    for name, call in (
      ('codec', lambda value: codecs.Link(value, 'ideal')),
      ('codec', lambda value: serving.EdgeClient('localhost:1', value)),
      (
        'codecs',
        lambda value: evaluation.evaluate(
          [value], captioner=captioner, data=None
        ),
      ),
    ):
      with pytest.raises(TypeError, match=rf'^{name}: got .*expected a codec;'):
        call(value)


def test_check_codec_takes_classes_and_codecs():
  testing.check_codec(colours.Colours)
  testing.check_codec(colours.Colours(standin.small(), side=4))
  testing.check_codec(make())


@pytest.mark.parametrize(
  ('members', 'said'),
  [
    ({'messages': lambda images: [b'']}, 'encode.* got 1 messages, expected 3'),
    (
      {'messages': lambda images: [os.urandom(8) for _ in images]},
      'differs for a second call',
    ),
    (
      {'messages': lambda images: [b'%d' % len(images)] * len(images)},
      'differs in a batch of one',
    ),
    ({'sizes': lambda message: {'a': 2}}, r'sizes\(\) must add up to 3'),
    ({'split_layers': lambda message: []}, 'cut a message into 1 parts'),
    ({'picture': lambda message: IMAGES}, r'unpack.* got u8\[3 64 64 3\]'),
    (
      {'picture': lambda message: [IMAGES[0]][message != b'abc']},
      r'unpack\(\) of .* damaged bytes: .*IndexError',
    ),
  ],
)
def test_check_codec_finds_faults(members, said):
  with pytest.raises(AssertionError, match=said):
    testing.check_codec(make(**members))


@pytest.mark.usefixtures('unchecked')
def test_check_codec_finds_faults_of_classes():
  with pytest.raises(TypeError, match="got 'mine:X', expected a codec"):
    testing.check_codec('mine:X')  # pyright: ignore
  with pytest.raises(AssertionError, match='NoModel'):
    testing.check_codec(NoModel)


def test_families_of_links_are_their_own():
  captioner = captioning.Captioner(standin.small(), 5)
  codec = colours.Colours(standin.small(), side=4)
  records = evaluation.evaluate(
    [codec, codecs.Link(codec, 'erasure(p=0.1)', 'whole(mtu=20)')],
    captioner=captioner,
    data=data.scenes('test', limit=2),
    progress=False,
  )
  families = rate.families(evaluation.summarize(records, resamples=1))
  assert [*families] == ['Colours', 'Colours, whole(mtu=20), erasure(p=0.1)']


def test_codecs_of_this_package_are_not_guarded(monkeypatch):
  guarded = []
  monkeypatch.setattr(
    contract, 'guard', lambda cls, seen: guarded.append((cls.__name__, seen))
  )

  class Features(codecs.FeatureCodec):
    pass

  class Pictures(codecs.Codec):
    pass

  class Vectors(codecs.Codec):
    def decode_unpacked(self, unpacked):
      return codecs.Decoded(None)

  assert Features.encode is codecs.FeatureCodec.encode
  assert guarded == [(Pictures.__name__, True), (Vectors.__name__, False)]


@pytest.mark.parametrize(
  ('split', 'unpacked', 'is_picture'),
  [
    (None, np.zeros((64, 64, 3), np.uint8), True),
    ('encoder', np.zeros((64, 64, 3), np.uint8), False),
    (None, np.zeros((64, 64, 3), np.float32), False),
    (None, np.zeros((32, 32, 3), np.uint8), False),
    (None, np.zeros((16, 24), np.uint8), False),
    (None, {'x': 1}, False),
  ],
)
def test_only_pictures_are_shown_as_pictures(split, unpacked, is_picture):
  class Other(colours.Colours):
    def unpack(self, message):
      return unpacked

    def decode_unpacked(self, unpacked):
      return codecs.Decoded(None)

  Other.split = split
  codec = Other(standin.small())
  assert (codec.picture(b'') is unpacked) == is_picture
  image = np.zeros((64, 64, 3), np.uint8)
  shown = visualize.describe_message(codec, image, b'')
  assert ('picture' in shown) == is_picture
