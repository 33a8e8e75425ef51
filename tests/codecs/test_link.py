"""Codecs behind channels: what arrives, what is concealed, what is lost."""

import jax
from jax import numpy as jnp
import numpy as np
import pytest

from collab_jax import channels, codecs, data, quantizers
from collab_jax.codecs import transports
from collab_jax.codecs.transports import (
  base,
  packetized,
)
from collab_jax.quantizers import concealment
from tests import standin

KEY = jax.random.key(3)
IDS = (7, 8, 9, 10)


@pytest.fixture(scope='module')
def model():
  return standin.small()


@pytest.fixture(scope='module')
def features(model):
  reader = data.scenes('test', limit=4)
  images = np.stack([reader[i].image for i in range(4)])
  return codecs.FeatureCodec(model, 'identity').features(images)


@pytest.fixture(scope='module')
def codec(model):
  return codecs.FeatureCodec(model, quantizers.KMeans(k=6))


def cross(link, features, seed=0):
  sent = link.pack(link.codec.quantize(features, KEY, IDS))
  deliveries = [
    link.transmit(p, seed, i) for p, i in zip(sent, IDS, strict=True)
  ]
  return link.decode_batch([p for p, _ in deliveries]), sent, deliveries


@pytest.mark.parametrize(
  'by', ['whole', 'whole(mtu=64)', 'whole(mtu=64,loss=0.3)', 'rows(parity=2)']
)
def test_an_ideal_channel_changes_nothing(codec, features, by):
  link = codecs.Link(codec, 'ideal', by)
  got, sent, deliveries = cross(link, features)
  plain = codec.decode(codec.encode_features(features, KEY, IDS))
  np.testing.assert_allclose(got.prefix.x, plain.x, rtol=1e-5, atol=1e-5)
  assert got.arrived == [True] * 4
  assert got.rows == [1.0] * 4
  plain_sizes = codec.sizes(codec.encode_features(features[:1], KEY)[0])
  for packets, (_, stats) in zip(sent, deliveries, strict=True):
    sizes = link.sizes(packets)
    assert sum(sizes.values()) == sum(map(len, packets.packets))
    assert {n: sizes[n] for n in codec.fields} == {
      n: plain_sizes[n] for n in codec.fields
    }
    assert sizes.get('packets', 0) >= 0
    assert (stats.packets, stats.lost) == (len(packets.packets), 0)


def test_whole_messages_break(codec, features):
  link = codecs.Link(codec, 'erasure(p=1)', 'whole(mtu=64)')
  got, _, deliveries = cross(link, features)
  assert got.prefix is None
  assert got.arrived == [False] * 4
  assert all(stats.lost == stats.packets for _, stats in deliveries)
  # One lost packet of many, in one message of four.
  sent = link.pack(codec.quantize(features, KEY, IDS))
  sent[2].packets[1] = None
  got = link.decode_batch(sent)
  assert got.arrived == [True, True, False, True]
  plain = codec.decode(codec.encode_features(features, KEY, IDS))
  for i in (0, 1, 3):
    np.testing.assert_allclose(got.prefix.x[i], plain.x[i], rtol=1e-5)


def test_parity_survives_what_it_was_made_for(codec, features):
  link = codecs.Link(codec, 'ideal', 'whole(mtu=64,loss=0.3,failure=0.01)')
  sent = link.pack(codec.quantize(features, KEY, IDS))
  whole = codecs.Link(codec, 'ideal', 'whole(mtu=64)')
  needed = len(whole.pack(codec.quantize(features, KEY, IDS))[0].packets)
  assert len(sent[0].packets) > needed
  assert max(map(len, sent[0].packets)) <= 64
  rng = np.random.default_rng(0)
  kept = []
  for packets in sent:
    keep = rng.permutation(len(packets.packets))[:needed]
    packets = [p if i in keep else None for i, p in enumerate(packets.packets)]
    kept.append(base.Packets(packets))
  assert link.decode_batch(kept).arrived == [True] * 4
  few = [base.Packets(p.packets[: needed - 1]) for p in kept]
  assert not any(link.decode_batch(few).arrived)


def test_lost_centroids_are_concealed(codec, features):
  link = codecs.Link(codec, 'erasure(p=0.5)', 'rows(failure=0.01)')
  got, sent, _ = cross(link, features)
  assert all(got.arrived)
  assert any(0 < share < 1 for share in got.rows)
  single = base.Packets([sent[0].packets[2]] + [None] * 5)
  needed = link._packetizer.format.needed
  assert needed == 1
  alone = link.decode_batch([single] * 4)
  # A single centroid stands for all vectors.
  x = np.asarray(alone.tokens.x[0])
  assert len(np.unique(x, axis=0)) == 1
  message = codec.quantize(features, KEY, IDS)
  np.testing.assert_array_equal(
    x[0], message['centroids/x'][0][2].astype(np.float32)
  )


def test_neighbours_stand_for_lost_clusters():
  quantizer = quantizers.KMeans(k=3)
  assignments = jnp.asarray([0, 0, 1, 0, 2, 1, 2, 2, 1], jnp.int32)
  message = {
    'assignments': assignments,
    'centroids/x': jnp.eye(3, dtype=jnp.float16),
  }
  received = jnp.asarray([True, False, True])
  rows = quantizer.row_fields(9, 3)
  assert rows == ('centroids/x',)
  got = quantizer.conceal(message, received, rows)
  # Of equally near ones the first.
  assert got['assignments'].tolist() == [0, 0, 0, 0, 2, 2, 2, 2, 2]
  x = quantizer.dequantize({}, got).x
  assert not np.asarray(x)[:, 1].any()
  every = quantizer.conceal(message, jnp.ones(3, bool), rows)
  assert (every['assignments'] == assignments).all()


@pytest.mark.parametrize('rebuild', ['keep', 'nearest'])
def test_lost_vectors_are_taken_from_the_nearest(rebuild):
  quantizer = quantizers.TopNorm(k=3, rebuild=rebuild)
  mask = jnp.asarray([1, 0, 0, 1, 0, 0, 0, 0, 1], jnp.int32)
  message = {'mask': mask, 'vectors/x': jnp.asarray([[1.0], [2.0], [9.0]])}
  rows = quantizer.row_fields(9, 1)
  received = jnp.asarray([False, True, True])
  got = quantizer.conceal(message, received, rows)
  assert got['vectors/x'].tolist() == [[2.0], [2.0], [9.0]]
  assert got['mask'] is mask


def test_a_lost_layer_costs_detail(model, features):
  inner = quantizers.ResidualVQ(stages=3, size=8, book='random')
  codec = codecs.FeatureCodec(model, quantizers.KMeans(k=6, centroids=inner))
  link = codecs.Link(codec, 'ideal', 'rows(layers=1,failure=0.01)')
  message = codec.quantize(features, KEY, IDS)
  sent = link.pack(message)
  lost = [
    base.Packets([None if i == 2 else p for i, p in enumerate(q.packets)])
    for q in sent
  ]
  got = link.decode_batch(lost)
  assert got.arrived == [True] * 4
  assert got.rows == pytest.approx([5 / 6] * 4)
  whole_x = codec.rebuild_message(message)[0].x
  coarse = {n: a for n, a in message.items() if not n.endswith(('1', '2'))}
  rough = codec.rebuild_message(coarse)[0].x
  assert not np.allclose(whole_x, rough)
  hit = (message['assignments'] == 2)[..., None]
  np.testing.assert_array_equal(got.tokens.x, np.where(hit, rough, whole_x))
  # Of several packets one is enough for the coarse layer.
  first = [base.Packets(p.packets[:1]) for p in sent]
  assert link.decode_batch(first).rows == pytest.approx([1 / 6] * 4)
  whole = codecs.Link(codec, 'ideal', 'rows(failure=0.01)')
  assert len(whole.pack(message)[0].packets[0]) < len(sent[0].packets[0])
  with pytest.raises(ValueError, match='no vectors in layers above'):
    codecs.Link(codec, 'ideal', 'rows(layers=3)')


def test_rows_without_a_method_of_their_own():
  quantizer = quantizers.Identity()
  assert quantizer.row_fields(9, 2) == ('x',)
  assert quantizers.KMeans(9).row_fields(9, 9) == ('centroids/x',)
  message = {'x': jnp.arange(9.0)[:, None]}
  received = jnp.ones(9, bool).at[4].set(False)
  got = quantizer.conceal(message, received, ('x',))
  assert got['x'][4] == 1.0
  line = concealment.nearest(jnp.asarray([False, False, True, False, True]))
  assert line.tolist() == [2, 2, 2, 2, 4]


def test_chance_comes_from_seed_and_picture_alone(codec, features):
  link = codecs.Link(codec, 'erasure(p=0.5)', 'rows(failure=0.01)')
  sent = link.pack(codec.quantize(features, KEY, IDS))
  lost = [
    [p is None for p in link.transmit(packets, seed, image)[0].packets]
    for packets in sent
    for seed in (0, 1, -1)
    for image in (5, 6)
  ]
  per_packets = len(lost) // 4
  assert lost[:per_packets] == lost[per_packets : 2 * per_packets]
  assert len({tuple(packets) for packets in lost[:per_packets]}) == per_packets


def test_damaged_messages_are_lost_or_noticed(codec, features):
  link = codecs.Link(codec, 'bit_errors(p=0.02)', 'rows(failure=0.01)')
  got, _, deliveries = cross(link, features)
  assert all(stats.lost == 0 for _, stats in deliveries)
  assert any(share < 1 for share in got.rows)
  cut = codecs.Link(codec, 'ideal')
  sent = cut.pack(codec.quantize(features, KEY, IDS))
  sent[1].packets[0] = sent[1].packets[0][:-1]
  assert cut.decode_batch(sent).arrived == [True, False, True, True]


def test_analog_gets_noisy_and_is_never_cut(codec, features):
  errors = []
  exact, _, _ = cross(codecs.Link(codec, 'ideal'), features)
  for snr in (40, 10):
    link = codecs.Link(codec, f'physical(snr={snr},length=648)', 'analog')
    got, sent, deliveries = cross(link, features)
    assert all(got.arrived)
    x = np.asarray(got.tokens.x)
    errors.append(np.square(x - np.asarray(exact.tokens.x)).mean())
    # 64 symbols of 3 bits; a scale of two bytes a centroid.
    assert link.sizes(sent[0]) == {
      'assignments': 24,
      'centroids/x/scale': 12,
    }
    digital = link.channel.send(sent[0].packets, np.random.default_rng(0))
    analog = deliveries[0][1].airtime - digital[0].airtime
    assert analog * link.channel.symbol_rate == pytest.approx(6 * 16 / 2)
  assert 0 < errors[0] < errors[1] / 100
  link = codecs.Link(codec, 'physical(snr=-20,length=648)', 'analog')
  assert not any(cross(link, features)[0].arrived)


def test_names_and_settings(codec):
  link = codecs.Link(codec, 'erasure(p=0.4)', 'rows(per_packet=2,failure=0.1)')
  assert (
    link.name == 'kmeans(k=6) | rows(per_packet=2,failure=0.1) | erasure(p=0.4)'
  )
  assert repr(link) == f'Link({link.name})'
  described = link.describe()
  assert described['channel'] == 'erasure(p=0.4)'
  assert described['transport'] == 'rows(per_packet=2,failure=0.1)'
  assert described['quantizer'] == 'kmeans'
  assert link.uses_key
  full = codecs.FeatureCodec(codec.model, 'identity')
  assert not codecs.Link(full, channels.Ideal()).uses_key
  assert codecs.Link(full, 'erasure(p=0.1)').uses_key
  for text in ('whole', 'rows', 'analog', 'whole(mtu=90,loss=0.2)'):
    transport = transports.make(text)
    assert transports.make(transports.name(transport)) == transport


@pytest.mark.parametrize(
  ('by', 'said'),
  [
    ('whole(mtu=4)', 'mtu: got 4, expected 0, or more than the 4 bytes'),
    ('whole(loss=0.1)', 'mtu: got 0, expected a size'),
    ('whole(mtu=90,loss=1.0)', 'loss: got 1.0, expected below 1'),
    ('rows', '6 packets, .* lost in 0.0041 of the messages, .* add parity'),
    ('rows(loss=0.999999,parity=9)', 'expected at most 0.001; add parity'),
    ('rows(failure=1e-300,parity=9)', 'expected at most 1e-300; add parity'),
    ('whole(mtu=64,loss=0.999999)', 'loss=0.999999 make 256 or more'),
    ('rows(failure=0.0)', 'failure: got 0, expected above 0'),
    ('rows(parity=-1)', 'parity: got -1, expected an integer'),
    ('rows(parity=255)', 'expected at most 256'),
    ('row', "transport: got 'row'; did you mean 'rows'"),
    ('analog', 'symbols need a radio link'),
  ],
)
def test_wrong_transports_are_refused(codec, by, said):
  with pytest.raises(ValueError, match=said):
    codecs.Link(codec, 'erasure(p=0.1)', by)


@pytest.mark.parametrize(
  ('name', 'value', 'said'),
  [
    ('mtu', 64.5, 'mtu: got 64.5, expected an integer of at least 0'),
    ('mtu', True, 'mtu: got True, expected an integer'),
    ('mtu', 'true', "mtu: got 'true', expected an integer"),
    ('loss', 'a', "loss: got 'a', expected a number from 0 to 1"),
    ('loss', float('nan'), 'loss: got nan, expected a number from 0 to 1'),
    ('failure', None, 'failure: got None, expected a number from 0 to 1'),
  ],
)
def test_settings_are_typed(name, value, said):
  # As without the tests' own checks of types, which come first otherwise.
  transport = packetized.Whole(mtu=64)
  object.__setattr__(transport, name, value)
  with pytest.raises(ValueError, match=said):
    transport.__post_init__()


def test_too_many_packets_are_refused(codec, features):
  full = codecs.FeatureCodec(codec.model, 'identity')
  with pytest.raises(ValueError, match='choose a larger mtu'):
    codecs.Link(full, 'ideal', 'whole(mtu=5)')
  # Where messages have no one length, when there is one.
  full = codecs.FeatureCodec(codec.model, 'identity', coding='best')
  link = codecs.Link(full, 'ideal', 'whole(mtu=5)')
  with pytest.raises(ValueError, match='choose a larger mtu'):
    link.pack(full.quantize(features, KEY, IDS))
  # Of pictures that of noise is about the longest; mtu=12 is enough for black.
  picture = codecs.ImageCodec(codec.model, 'jpeg', quality=90, strip=True)
  black = np.zeros((1, 64, 64, 3), np.uint8)
  noise = np.random.default_rng(1).integers(0, 256, black.shape, np.uint8)
  assert len(picture.encode(black)[0]) < 254 * 8
  assert abs(len(picture.encode(noise)[0]) / picture.layout.largest - 1) < 0.05
  with pytest.raises(
    ValueError, match=r'a picture of noise\) in packets of 12'
  ):
    codecs.Link(picture, 'ideal', 'whole(mtu=12)')
  codecs.Link(picture, 'ideal', 'whole(mtu=64)')
