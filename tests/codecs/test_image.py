"""Image codecs: stripped bytes are restored, damaged ones are refused."""

import io

import jax
import jaxtyping
import numpy as np
from PIL import Image
import pytest

from collab_jax import captioner as captioning
from collab_jax import codecs, data, evaluation, wire
from collab_jax.codecs.image_files import formats
from collab_jax.data import pictures
from tests import standin
from tests.data import photos

QUALITIES = {'jpeg': (1, 20, 100), 'webp': (0, 20, 100), 'avif': (0, 30, 100)}
KINDS = [(kind, q, 420) for kind, qs in QUALITIES.items() for q in qs]
KINDS += [('jpeg', 30, 444), ('avif', 30, 444)]


@pytest.fixture(scope='module')
def model():
  return standin.small()


@pytest.fixture(scope='module')
def images():
  """Scenes, and what scenes are not: flat, noise, a gradient."""
  reader = data.scenes('test', limit=4)
  rng = np.random.default_rng(0)
  ramp = np.linspace(0, 255, 64).astype(np.uint8)
  return np.stack(
    [
      *(reader[i].image for i in range(4)),
      np.full((64, 64, 3), 255, np.uint8),
      rng.integers(0, 256, (64, 64, 3), np.uint8),
      np.repeat(np.repeat(ramp[:, None, None], 64, 1), 3, 2),
    ]
  )


@pytest.mark.parametrize(('kind', 'quality', 'chroma'), KINDS)
@pytest.mark.parametrize('size', [None, 17])
def test_stripped_is_the_same_picture(
  model, images, kind, quality, chroma, size
):
  full, short = (
    codecs.ImageCodec(model, kind, quality, size, strip, chroma)
    for strip in (False, True)
  )
  files, packets = full.encode(images), short.encode(images)
  seen = np.stack([full.unpack(file) for file in files])
  assert seen.shape == images.shape
  np.testing.assert_array_equal([short.unpack(p) for p in packets], seen)
  # Any reader of such files sees what the server does.
  side = size or 64
  for file, picture in zip(files, seen, strict=True):
    with Image.open(io.BytesIO(file)) as opened:
      assert (opened.format, opened.size) == (kind.upper(), (side, side))
      pixels = np.asarray(opened.convert('RGB'))
    np.testing.assert_array_equal(pictures.resize(pixels, 64), picture)
  for file, packet in zip(files, packets, strict=True):
    sizes = full.sizes(file), short.sizes(packet)
    assert sum(sizes[0].values()) == len(file)
    assert sum(sizes[1].values()) == len(packet)
    assert len(packet) < len(file)
    # JPEG may send tables, WebP a length, AVIF an escape.
    if kind == 'webp':
      assert 1 <= sizes[1]['header'] <= 3
    if kind == 'avif':
      assert sizes[1]['header'] in (0, 2)
  assert short.encode(images) == packets


@pytest.mark.parametrize('kind', codecs.KINDS)
def test_frames_are_put_back_whole(images, kind):
  for quality in range(1, 101, 11):
    form = formats.known(kind, quality, 24)
    for image in images[2:6, :24, :24]:
      file = form.encode(image, strip=False)
      parts = form._kind.split(form._frame, file)
      assert form.file(b''.join(parts), strip=True) == file


def test_tables_of_its_own_where_they_pay(model, images):
  codec = codecs.ImageCodec(model, 'jpeg', 100, strip=True)
  few, many = (codec.encode(images[i : i + 1])[0] for i in (4, 5))
  assert not few.startswith(b'\xff\xc4')
  assert many.startswith(b'\xff\xc4')
  assert codec.sizes(many)['header'] > 100
  assert codec.sizes(few)['header'] == 0


def test_an_unforeseen_frame_is_sent_whole():
  form = formats.known('avif', 30, 16)
  avif, frame = form._kind, form._frame
  shared = frame.shared
  assert shared
  assert shared[0]
  for contents in (
    b'\x00' + shared,
    b'other',
    shared[:-1] + bytes([shared[-1] ^ 1]) + b'x',
    shared,
    shared + b'\x00rest',
    shared + b'\x00\x01',
    shared + b'\x01',
    # What begins like a file where the shared bytes are left out.
    shared + b'\x00\x00ftyp',
    shared + b'\x00\x00\x00\x00ftyp',
  ):
    file = avif.join(frame, b'\x00\x01' + contents)
    parts = avif.split(frame, file)
    assert avif.join(frame, b''.join(parts)) == file


@pytest.mark.parametrize('strip', [False, True])
@pytest.mark.parametrize('kind', codecs.KINDS)
def test_any_bytes_are_a_picture_or_an_error(model, images, kind, strip):
  codec = codecs.ImageCodec(model, kind, 30, 24, strip)
  packets = codec.encode(images[:2])
  rng = np.random.default_rng(0)
  refused = 0
  for n in range(300):
    bad = bytearray(packets[n % 2])
    how = n % 5
    if how == 0:
      bad = bad[: rng.integers(len(bad))]
    elif how == 1:
      bad += rng.bytes(rng.integers(1, 40))
    elif how == 2:
      bad = bytearray(rng.bytes(rng.integers(200)))
    for _ in range(rng.integers(1, 5) if how > 2 else 0):
      bad[rng.integers(len(bad))] = rng.integers(256)
    try:
      picture = codec.unpack(bytes(bad))
    except wire.FormatError:
      refused += 1
    else:
      assert picture.shape == (64, 64, 3)
      assert sum(codec.sizes(bytes(bad)).values()) == len(bad)
  assert refused > 20


@pytest.mark.parametrize('kind', codecs.KINDS)
def test_pictures_of_others_are_refused(model, images, kind):
  codec = codecs.ImageCodec(model, kind, 30)
  others = [
    codecs.ImageCodec(model, kind, 31),
    codecs.ImageCodec(model, kind, 30, 48),
    codecs.ImageCodec(model, kind, 30, strip=True),
    codecs.ImageCodec(model, 'webp' if kind == 'jpeg' else 'jpeg', 30),
  ]
  # WebP's and AVIF's headers do not tell the quality.
  for other in others[kind != 'jpeg' :]:
    with pytest.raises(wire.FormatError, match='expected a message of this c'):
      codec.decode(other.encode(images[:1]))
  for contents in (b'', photos.bomb(10_000), bytes(10_000_000)):
    with pytest.raises(wire.FormatError):
      codec.decode([contents])


@pytest.mark.parametrize('kind', codecs.KINDS)
def test_a_file_is_no_stripped_message(model, images, kind):
  full, short = (
    codecs.ImageCodec(model, kind, 30, strip=strip) for strip in (False, True)
  )
  for file in full.encode(images):
    with pytest.raises(wire.FormatError, match='strip must be those of the'):
      short.unpack(file)


def test_a_larger_picture_inside_is_refused(model, images):
  """Boxes of the right size around another sequence header, and so on."""
  large = np.zeros((640, 640, 3), np.uint8)
  for kind in codecs.KINDS:
    form, other = (formats.known(kind, 30, size) for size in (64, 640))
    file, bomb = form.encode(images[0], False), other.encode(large, False)
    for cut in (20, len(file) // 3, 294, 310):
      with pytest.raises(wire.FormatError):
        form.file(file[:cut] + bomb[cut:], strip=False)
  scan = formats.known('jpeg', 30, 64).encode(images[0], True)
  hidden = formats.known('jpeg', 30, 640).encode(large, False)
  with pytest.raises(wire.FormatError, match='markers in its scan'):
    codecs.ImageCodec(model, 'jpeg', 30, strip=True).decode([scan + hidden])


def test_the_server_runs_the_model_on_the_decoded_picture(model, images):
  codec = codecs.ImageCodec(model, 'webp', 40, size=32)
  packets = codec.encode(images, jax.random.key(0), range(7))
  prefix = codec.decode(packets)
  seen = np.stack([codec.unpack(packet) for packet in packets])
  x = model.project(model.encode_image(codecs.to_float(seen)))
  np.testing.assert_allclose(prefix.x, x, rtol=1e-4, atol=1e-4)
  assert prefix.valid.all()
  assert prefix.end.tolist() == [64] * 7
  assert np.asarray(prefix.positions[3]).tolist() == list(range(64))
  alone = codec.decode(packets[2:3])
  np.testing.assert_allclose(alone.x[0], prefix.x[2], rtol=1e-4, atol=1e-4)
  assert codec.warm_up(7).x.shape == prefix.x.shape


def test_no_messages_are_no_pictures(model):
  codec = codecs.ImageCodec(model, 'jpeg')
  got = codec.decode([])
  want = codecs.FeatureCodec(model, 'identity').decode([])
  for a, b in zip(got, want, strict=True):
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert len(a) == 0


def test_what_is_sent_is_small_then_enlarged(model, images):
  whole, small = (
    codecs.ImageCodec(model, 'webp', 90, size=s) for s in (None, 16)
  )
  packets = small.encode(images[:4])
  assert len(packets[0]) < len(whole.encode(images[:1])[0])
  reduced = pictures.resize(images[0], 16)
  seen = pictures.resize(pictures.decode(packets[0]), 16)
  assert np.abs(seen.astype(int) - reduced).mean() < 20


@pytest.mark.parametrize('kind', ['jpeg', 'avif'])
def test_all_pixels_of_the_colours(model, kind):
  """Red and blue stripes of one pixel keep their colours with 444 only."""
  image = np.zeros((1, 64, 64, 3), np.uint8)
  image[:, ::2, :, 0] = image[:, 1::2, :, 2] = 200
  away = []
  for chroma in (420, 444):
    codec = codecs.ImageCodec(model, kind, 90, chroma=chroma)
    seen = codec.unpack(codec.encode(image)[0])[None]
    away.append(np.abs(seen.astype(int) - image).mean())
  assert away[1] < 20 < away[0]
  halved, full = (
    codecs.ImageCodec(model, kind, 90, None, True, c) for c in (420, 444)
  )
  assert full.name == f'{kind}(quality=90,strip=true,chroma=444)'
  with pytest.raises(wire.FormatError):
    codecs.ImageCodec(model, kind, 90).decode(
      codecs.ImageCodec(model, kind, 90, chroma=444).encode(image)
    )
  assert halved.describe()['chroma'] == 420


def test_names_and_settings(model):
  codec = codecs.ImageCodec(model, 'webp', 5, 32, strip=True)
  assert codec.name == 'webp(quality=5,size=32,strip=true)'
  assert codecs.ImageCodec(model, 'webp', 5, 64).name == 'webp(quality=5)'
  described = codec.describe()
  encoder = described.pop('encoder')
  assert encoder.startswith('libwebp ')
  assert described == {
    'codec': 'image',
    'kind': 'webp',
    'quality': 5,
    'size': 32,
    'strip': True,
    'chroma': 420,
  }
  assert codec.sent == codec.vectors == 64
  assert not codec.uses_key
  assert repr(codec) == f'ImageCodec({codec.name})'


@pytest.mark.parametrize(
  ('settings', 'said'),
  [
    (('jpg',), "kind: got 'jpg'; did you mean 'jpeg'"),
    (('jpeg', 0), 'quality of jpeg: got 0, expected an integer from 1 to 100'),
    (('webp', 101), 'quality of webp: got 101, expected .* from 0 to 100'),
    (('webp', 0.5), 'quality of webp: got 0.5'),
    (('webp', True), 'quality of webp: got True'),
    (('avif', 30, 0), 'size: got 0, expected an integer'),
    (('avif', 30, 65), 'size: got 65 px, expected at most the 64 px'),
    (('webp', 30, None, False, 444), 'chroma: got 444, expected 420 for webp'),
    (('jpeg', 30, None, False, 422), 'chroma: got 422, expected 420 or 444'),
    (('avif', 30, None, 'yes'), "strip: got 'yes', expected true or false"),
  ],
)
def test_wrong_settings_are_refused(model, settings, said):
  # As it is for a user, whose signatures are not checked.
  jaxtyping.config.update('jaxtyping_disable', True)
  try:
    with pytest.raises(ValueError, match=said):
      codecs.ImageCodec(model, *settings)
  finally:
    jaxtyping.config.update('jaxtyping_disable', False)


def test_other_pictures_are_refused(model, images):
  codec = codecs.ImageCodec(model, 'jpeg')
  with pytest.raises(ValueError, match=r'expected \[B, 64, 64, 3\]'):
    codec.encode(images[:, ::2])


def test_records_beside_those_of_features(model, tmp_path):
  compared = [
    codecs.ImageCodec(model, 'jpeg', 30, strip=True),
    codecs.ImageCodec(model, 'jpeg', 60, strip=True),
    codecs.FeatureCodec(model, 'identity'),
  ]
  records = evaluation.evaluate(
    compared,
    captioner=captioning.Captioner(model, 4),
    data=data.scenes('test', limit=3),
    seeds=(0, 1),
    path=tmp_path / 'records.jsonl',
    batch_size=2,
    progress=False,
  )
  assert len(records) == 3 * 3
  assert evaluation.read_records(tmp_path / 'records.jsonl')
  first = records[0]
  assert first['total_bytes'] == sum(first['bytes'].values()) > 0
  assert first['bytes'].keys() == {'header', 'pixels'}
  # The edge writes a file; the image encoder's time is the server's.
  assert first['seconds'].keys() == {'encode', 'decode', 'caption'}
  rows = evaluation.summarize(records, resamples=5)
  # No number of vectors, hence no place on the paper's axis.
  assert evaluation.curves(rows) == {}
  curves = evaluation.pictures(rows)
  assert [*curves] == ['JPEG 64 px, stripped']
  assert [r['codec']['quality'] for r in curves['JPEG 64 px, stripped']] == [
    30,
    60,
  ]
  line = evaluation.table(rows).split('\n')[1]
  assert line.startswith('JPEG 64 px, stripped  q30       -')
  assert evaluation.samples(records) == ''
