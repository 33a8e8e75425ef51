"""A codec of one's own: named, evaluated and sent like those of the package."""

import jax
import numpy as np
import pytest

from collab_jax import captioner as captioning
from collab_jax import codecs, data, evaluation
from tests import colours, standin

NAME = 'tests.colours:Colours'


@pytest.fixture(scope='module')
def codec():
  return codecs.parse(f'{NAME}(side=4)').bind(standin.small())


@pytest.fixture(scope='module')
def images():
  reader = data.scenes('test', limit=3)
  return np.stack([reader[i].image for i in range(3)])


def test_it_has_a_name_and_settings(codec):
  assert codec.name == f'{NAME}(side=4)'
  assert codecs.parse(codec.name).name == codec.name
  whole = colours.Colours(standin.small())
  assert whole.name == codecs.parse(NAME).name == NAME
  assert codec.describe() == codec.settings == {'codec': NAME, 'side': 4}
  assert codec.sent == codec.vectors == 64
  assert codec.description()['spec']['name'] == codec.name
  assert codec.digest != whole.digest
  with pytest.raises(ValueError, match=r"setting of .*: got 'sides'.*'side'"):
    codecs.parse(f'{NAME}(sides=4)')


def test_messages_become_prefixes(codec, images):
  messages = codec.encode(images)
  assert [codec.sizes(m) for m in messages] == [{'message': 48}] * 3
  prefix = codec.decode(messages)
  assert prefix.x.shape[:2] == (3, 64)
  unpacked = [codec.unpack(m) for m in messages]
  np.testing.assert_array_equal(codec.picture(messages[0]), unpacked[0])
  again = codec.decode_unpacked(unpacked).prefix
  np.testing.assert_array_equal(again.x, prefix.x)
  assert codec.warm_up(2).x.shape == (2, *prefix.x.shape[1:])
  assert codec.decodes_layers(codec.layers_of(codec.blank()))
  encoded = codec.encode_batch(images, jax.random.key(0))
  assert encoded.messages == messages
  assert set(encoded.seconds) == {'encode'}


def test_it_is_evaluated_and_sent_over_channels(codec):
  captioner = captioning.Captioner(standin.small(), 5)
  links = [
    codecs.Link(codec, 'erasure(p=0.2)', 'whole(mtu=20)'),
    codecs.Link(codec, 'ideal'),
  ]
  records = evaluation.evaluate(
    [codec, *links],
    captioner=captioner,
    data=data.scenes('test', limit=8),
    progress=False,
  )
  plain, lossy, ideal = (records[i : i + 8] for i in (0, 8, 16))
  assert {r['total_bytes'] for r in plain} == {48}
  assert {r['distortion'] for r in records} == {None}
  assert [r['caption'] for r in ideal] == [r['caption'] for r in plain]
  assert {r['link']['packets'] for r in lossy} == {4}
  assert 0 < sum(r['link']['whole'] for r in lossy) < 8
  assert lossy[0]['settings']['channel']['channel'] == 'erasure'
  rows = evaluation.summarize(records, resamples=1)
  assert 'Colours' in evaluation.label(rows[0])
  with pytest.raises(ValueError, match=r'rows: .*Colours.* has no vectors'):
    codecs.Link(codec, 'ideal', 'rows')
