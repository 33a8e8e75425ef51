"""Any picture file to the pixels that the references see."""

import errno
import io
import os
from pathlib import Path
import random
import struct
import zlib

import jax
import numpy as np
from PIL import Image
import pytest

from collab_jax import codecs
from collab_jax.data import pictures
from tests.data import photos

GOLDEN = np.load(Path(__file__).parents[1] / 'golden' / 'resize.npz')
CASES = sorted({name.split('/')[0] for name in GOLDEN if '/' in name})


def case(number):
  return GOLDEN[f'{number}/image'], GOLDEN[f'{number}/hf_bicubic_values']


@pytest.mark.parametrize('number', CASES)
def test_hugging_face_s_pixels_bit_for_bit(number):
  image, expected = case(number)
  resized = pictures.resize(image, 28, 'hf_bicubic')
  np.testing.assert_array_equal(pictures.normalize(resized), expected)


def test_the_codecs_pixels_are_those():
  levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
  got = np.asarray(codecs.to_float(levels[None]))[0]
  expected = pictures.normalize(levels)
  np.testing.assert_allclose(got, expected, rtol=0, atol=1.3e-7)


@pytest.mark.parametrize('method', ['bv_bilinear', 'bv_bilinear_aa'])
@pytest.mark.parametrize('number', CASES)
def test_big_vision_s_pixels_within_a_level(number, method):
  image, _ = case(number)
  got = pictures.resize(image, 28, method).astype(int)
  away = np.abs(got - GOLDEN[f'{number}/{method}'])
  assert away.max() <= 1
  assert away.mean() < (0.03 if method == 'bv_bilinear_aa' else 1e-3)


@pytest.mark.parametrize('antialias', [False, True])
@pytest.mark.parametrize('sides', [(300, 451), (100, 60), (224, 500), (1, 7)])
def test_bilinear_as_jax_has_it(sides, antialias):
  image = photos.photo(3, *sides)
  expected = jax.image.resize(
    image.astype(np.float32), (56, 56, 3), 'linear', antialias=antialias
  )
  method = 'bv_bilinear_aa' if antialias else 'bv_bilinear'
  got = pictures.resize(image, 56, method).astype(float)
  # Truncated: up to a level below, but for rounding.
  assert np.all(got <= np.asarray(expected) + 0.01)
  assert np.all(got > np.asarray(expected) - 1.01)


@pytest.mark.parametrize('method', pictures.METHODS)
def test_what_need_not_change_does_not(method):
  image = photos.photo(1, 28, 28)
  np.testing.assert_array_equal(pictures.resize(image, 28, method), image)
  flat = np.full((50, 90, 3), 131, np.uint8)
  away = np.abs(pictures.resize(flat, 28, method).astype(int) - 131)
  assert away.max() <= (method == 'bv_bilinear_aa')


def test_settings_are_checked():
  image = photos.photo()
  with pytest.raises(ValueError, match=r"got 'hf_bicubik'.*mean 'hf_bicubic'"):
    pictures.resize(image, 28, 'hf_bicubik')
  with pytest.raises(ValueError, match='size: got 0'):
    pictures.resize(image, 0)


def encoded(image, kind, **options):
  output = io.BytesIO()
  image.save(output, kind, **options)
  return output.getvalue()


ENCODED = ['JPEG', 'PNG', 'WEBP', 'AVIF', 'TIFF', 'GIF', 'BMP']
RGB = Image.fromarray(photos.photo())
GREY = RGB.convert('L')
SIXTEEN = (np.asarray(GREY).astype(np.uint16) << 8) + 77


def with_alpha(mode):
  image = RGB.convert(mode)
  image.putalpha(Image.linear_gradient('L').resize(image.size))
  return image


@pytest.mark.parametrize(
  'kind', ['PNG', 'TIFF', 'WEBP', 'BMP', 'PPM', 'JPEG2000']
)
def test_lossless_formats(kind):
  options = {'lossless': True} if kind == 'WEBP' else {}
  got = pictures.decode(encoded(RGB, kind, **options))
  np.testing.assert_array_equal(got, np.asarray(RGB))


@pytest.mark.parametrize('kind', ['PNG', 'TIFF'])
def test_grey(kind):
  grey = np.asarray(GREY)[..., None].repeat(3, axis=2)
  np.testing.assert_array_equal(pictures.decode(encoded(GREY, kind)), grey)
  deep = encoded(Image.fromarray(SIXTEEN), kind)
  assert Image.open(io.BytesIO(deep)).mode.startswith('I')
  np.testing.assert_array_equal(pictures.decode(deep), grey)
  bits = pictures.decode(encoded(GREY.convert('1'), kind))
  assert set(bits.flat) == {0, 255}


def deep_png(pixels):
  """A PNG of 16-bit colours, which Pillow cannot write."""
  height, width, _ = pixels.shape
  rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in pixels)
  header = struct.pack('>2I5B', width, height, 16, 2, 0, 0, 0)
  return b'\x89PNG\r\n\x1a\n' + b''.join(
    [
      photos.chunk(b'IHDR', header),
      photos.chunk(b'IDAT', zlib.compress(rows)),
      photos.chunk(b'IEND', b''),
    ]
  )


def test_sixteen_bit_colours_keep_their_high_byte():
  pixels = (np.asarray(RGB).astype(np.uint16) << 8) + 200
  np.testing.assert_array_equal(
    pictures.decode(deep_png(pixels)), np.asarray(RGB)
  )


@pytest.mark.parametrize('mode', ['RGB', 'L'])
def test_alpha_is_left_out_or_composited(mode):
  data = encoded(with_alpha(mode), 'PNG')
  plain = np.asarray(RGB.convert(mode).convert('RGB'))
  np.testing.assert_array_equal(pictures.decode(data, matte=None), plain)
  white = pictures.decode(data, matte=(255, 255, 255)).astype(float)
  np.testing.assert_array_equal(pictures.decode(data), white)
  alpha = np.asarray(with_alpha(mode).getchannel('A'))[..., None] / 255
  np.testing.assert_allclose(white, 255 + alpha * (plain - 255.0), atol=1)


def test_a_method_says_what_is_behind_transparent_pictures(tmp_path):
  path = tmp_path / 'logo.png'
  Image.new('RGBA', (4, 4), (200, 30, 30, 0)).save(path)
  for method, colour in {
    'hf_bicubic': (255, 255, 255),
    'bv_bilinear': (200, 30, 30),
    'bv_bilinear_aa(transparent=white)': (255, 255, 255),
    'hf_bicubic(transparent=black)': (0, 0, 0),
    'hf_bicubic(transparent=drop)': (200, 30, 30),
  }.items():
    assert (pictures.read(path, 2, method) == colour).all(), method
  with pytest.raises(ValueError, match='transparent'):
    pictures.read(path, 2, 'hf_bicubic(transparent=pink)')
  with pytest.raises(ValueError, match='preprocess'):
    pictures.read(path, 2, 'lanczos(transparent=black)')


def test_palettes():
  palette = RGB.quantize(16)
  expected = np.asarray(palette.convert('RGB'))
  for kind in ('PNG', 'GIF'):
    np.testing.assert_array_equal(
      pictures.decode(encoded(palette, kind)), expected
    )
  seen = bytes([0] + [255] * 15)
  data = encoded(palette, 'PNG', transparency=seen)
  np.testing.assert_array_equal(pictures.decode(data, matte=None), expected)
  white = pictures.decode(data, matte=(255, 255, 255))
  hidden = np.asarray(palette) == 0
  assert hidden.any()
  assert (white[hidden] == 255).all()
  np.testing.assert_array_equal(white[~hidden], expected[~hidden])


def test_cmyk():
  got = pictures.decode(encoded(RGB.convert('CMYK'), 'JPEG', quality=100))
  assert np.abs(got.astype(int) - np.asarray(RGB)).mean() < 3


@pytest.mark.parametrize('orientation', range(1, 9))
def test_turned_as_exif_says(orientation):
  image = Image.fromarray(np.asarray(RGB))
  exif = image.getexif()
  exif[0x0112] = orientation
  got = pictures.decode(encoded(image, 'PNG', exif=exif))
  turned = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
  }[orientation](np.asarray(RGB))
  np.testing.assert_array_equal(got, turned)


def test_turned_whatever_else_exif_says():
  """An XResolution that is a text, which Pillow reads but cannot write."""
  tags = [
    struct.pack('<HHII', 0x0112, 3, 1, 6),
    struct.pack('<HHI4s', 0x011A, 2, 2, b'ab'),
  ]
  exif = b'Exif\0\0II*\0\x08\0\0\0\x02\0' + b''.join(tags) + bytes(4)
  plain = photos.jpeg()
  size = struct.pack('>H', len(exif) + 2)
  data = plain[:2] + b'\xff\xe1' + size + exif + plain[2:]
  pictures.check(data)
  want = np.rot90(pictures.decode(plain), -1)
  np.testing.assert_array_equal(pictures.decode(data), want)


def test_the_first_frame_of_an_animation():
  frames = [RGB.quantize(8), GREY.quantize(8)]
  data = encoded(frames[0], 'GIF', save_all=True, append_images=frames[1:])
  np.testing.assert_array_equal(
    pictures.decode(data), np.asarray(frames[0].convert('RGB'))
  )


def test_numbers_without_a_range_are_refused():
  image = Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))
  with pytest.raises(pictures.PictureError, match='floating-point'):
    pictures.decode(encoded(image, 'TIFF'))
  image = Image.fromarray(np.full((8, 8), 70_000, np.int32))
  with pytest.raises(pictures.PictureError, match='70000, expected at most 16'):
    pictures.decode(encoded(image, 'TIFF'))


@pytest.mark.parametrize('side', [10_000, 60_000])
@pytest.mark.parametrize('act', [pictures.decode, pictures.check])
@pytest.mark.filterwarnings('ignore::PIL.Image.DecompressionBombWarning')
def test_decompression_bombs_are_refused(side, act):
  with pytest.raises(
    pictures.PictureError, match=r'x\.png is refused'
  ) as error:
    act(photos.bomb(side), 'x.png')
  assert 'MAX_IMAGE_PIXELS' in str(error.value)


def test_a_limit_that_is_raised_is_kept(monkeypatch):
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 100)
  with pytest.raises(pictures.PictureError, match=r'the limit is 100|exceeds'):
    pictures.decode(photos.jpeg())
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', None)
  assert pictures.decode(photos.jpeg()).shape == (30, 40, 3)


@pytest.mark.parametrize(
  ('data', 'said'),
  [
    (b'', 'a.jpg is empty'),
    (b'{"images": []}', r'a.jpg is no picture.*begins with'),
    (b'%!PS-Adobe-3.0 EPSF-3.0\n', 'a.jpg is no picture'),
  ],
)
def test_no_pictures(data, said):
  for act in (pictures.decode, pictures.check):
    with pytest.raises(pictures.PictureError, match=said):
      act(data, 'a.jpg')


@pytest.mark.parametrize('kind', ENCODED)
@pytest.mark.parametrize('share', [0.1, 0.5, 0.9])
def test_truncated_files_name_themselves(kind, share, tmp_path):
  data = encoded(RGB, kind)
  path = tmp_path / 'cut.bin'
  path.write_bytes(data[: int(share * len(data))])
  with pytest.raises(pictures.PictureError, match=r'cut\.bin is '):
    pictures.read(path, 28)
  with pytest.raises(pictures.PictureError):
    pictures.check(path.read_bytes())


def test_missing_file(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'none\.png'):
    pictures.read(tmp_path / 'none.png', 28)


def test_folder_in_place_of_a_picture(tmp_path):
  with pytest.raises(pictures.PictureError, match='is a folder, expected a p'):
    pictures.read(tmp_path, 28)


@pytest.mark.parametrize('kind', ENCODED)
@pytest.mark.filterwarnings('ignore')
def test_damaged_bytes_give_a_picture_or_an_error(kind):
  data = encoded(RGB.quantize(9) if kind == 'GIF' else RGB, kind)
  rng = random.Random(0)
  read = 0
  for _ in range(300):
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 4)):
      damaged[rng.randrange(len(data))] = rng.randrange(256)
    # Not larger than what it could have been, so that a test stays quick.
    try:
      image = pictures.decode(bytes(damaged))
    except pictures.PictureError:
      continue
    assert image.ndim == 3
    assert image.shape[2] == 3
    read += 1
  assert read


@pytest.mark.parametrize('sides', [(1, 70_000), (70_000, 1)])
def test_long_sides_are_refused(sides, tmp_path):
  for act in (pictures.decode, pictures.check):
    with pytest.raises(pictures.PictureError, match=r'x is refused.*MAX_SIDE'):
      act(photos.grey_png(*sides), 'x')
  for size in (28, 896):
    assert (
      pictures.resize(pictures.decode(photos.grey_png(1, 65_535)), size).any()
      == 0
    )


def test_resized_axes_are_bounded(monkeypatch):
  """Between the axes a picture has one side of each size."""
  monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 5000)
  content = encoded(Image.new('RGB', (10, 400)), 'PNG')
  pictures.check(content, size=12)
  with pytest.raises(pictures.PictureError, match=r'a is ref.*400 x 13 on'):
    pictures.check(content, 'a', size=13)
  with pytest.raises(pictures.PictureError, match='400 x 13'):
    pictures.resize(pictures.decode(content), 13)


def test_tiles_are_bounded():
  """Tiles of a TIFF are decoded whole, however small the picture."""
  content = bytearray(encoded(RGB, 'TIFF', compression='tiff_lzw'))
  (start,) = struct.unpack_from('<I', content, 4)
  (count,) = struct.unpack_from('<H', content, start)
  for at in range(start + 2, start + 2 + 12 * count, 12):
    tag = struct.unpack_from('<H', content, at)[0]
    if tag in (278, 284):  # Rows of a strip, order of planes.
      side = {278: 322, 284: 323}[tag]
      struct.pack_into('<HHII', content, at, side, 4, 1, 60_000)
  with pytest.raises(pictures.PictureError, match='60000 x 60000 pixels'):
    pictures.decode(bytes(content))


@pytest.mark.parametrize(
  'act', [pictures.contents, lambda p: pictures.read(p, 8)]
)
def test_what_is_no_file(act, tmp_path):
  os.mkfifo(tmp_path / 'pipe.png')
  for path in (tmp_path / 'pipe.png', '/dev/zero'):
    with pytest.raises(pictures.PictureError, match='is a pipe or a device'):
      act(path)


def test_files_that_are_too_long(tmp_path, monkeypatch):
  path = tmp_path / 'long.png'
  with path.open('wb') as file:
    file.truncate(pictures.MAX_FILE_BYTES + 1)  # Takes no room on disk.
  with pytest.raises(pictures.PictureError, match='1,073,741,825 bytes, the l'):
    pictures.read(path, 8)


def test_files_that_may_not_be_read(tmp_path, monkeypatch):
  path = tmp_path / 'a.png'
  path.write_bytes(photos.jpeg())

  def failing(number):
    def read_bytes(path):
      raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, 'read_bytes', read_bytes)

  for number in (errno.EACCES, errno.EIO, errno.ESTALE):
    failing(number)
    with pytest.raises(pictures.PictureError, match=r'a\.png cannot be read: '):
      pictures.contents(path)
  # Not the file's fault: the next one would meet it too.
  failing(errno.EMFILE)
  with pytest.raises(OSError, match='Too many open files') as caught:
    pictures.contents(path)
  assert not isinstance(caught.value, pictures.PictureError)
