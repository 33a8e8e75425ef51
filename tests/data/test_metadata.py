"""Metadata never stand between a reader and whole pixels."""

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, PngImagePlugin
import pytest

from benchmarks import picture_files
from collab_jax import data
from collab_jax.data import metadata, pictures
from tests.data import photos

RGB = Image.fromarray(photos.photo())
ICC = b'no profile'


def encoded(kind, **options):
  output = io.BytesIO()
  RGB.save(output, kind, **options)
  return output.getvalue()


def pixels_of(content):
  """Decodes, and checks that `check` agrees."""
  pictures.check(content)
  return pictures.decode(content)


LOSSLESS = {'WEBP': {'lossless': True}}
TURN = Image.Exif()
TURN[0x0112] = 6


@pytest.mark.parametrize(
  'kind', [b'tEXt', b'zTXt', b'iTXt', b'iCCP', b'eXIf', b'pHYs', b'gAMA']
)
@pytest.mark.parametrize('body', [b'', b'k\0', b'k\0\0' + b'?' * 40])
@pytest.mark.parametrize('good', [True, False])
def test_chunks_of_a_png(kind, body, good):
  content = picture_files.with_chunk(encoded('PNG'), kind, body, good)
  np.testing.assert_array_equal(pixels_of(content), np.asarray(RGB))


def test_texts_of_a_png_that_are_too_large():
  bomb = zlib.compress(bytes(PngImagePlugin.MAX_TEXT_CHUNK + 1))
  for kind, head in ((b'zTXt', b'k\0\0'), (b'iTXt', b'k\0\1\0\0\0')):
    content = picture_files.with_chunk(encoded('PNG'), kind, head + bomb)
    np.testing.assert_array_equal(pixels_of(content), np.asarray(RGB))
  text = b'k\0' + bytes(1 << 20)
  content = encoded('PNG')
  for _ in range(70):  # Together more than Pillow takes.
    content = picture_files.with_chunk(content, b'tEXt', text)
  np.testing.assert_array_equal(pixels_of(content), np.asarray(RGB))


def test_damaged_pixels_stay_damaged():
  """A chunk of pixels with a wrong sum is no metadata."""
  content = bytearray(encoded('PNG'))
  content[-20] ^= 1
  for act in (pictures.decode, pictures.check):
    with pytest.raises(pictures.PictureError, match='is damaged'):
      act(bytes(content))


def with_segment(marker, body):
  plain = encoded('JPEG', quality=95)
  size = struct.pack('>H', len(body) + 2)
  return plain[:2] + bytes([0xFF, marker]) + size + body + plain[2:]


@pytest.mark.parametrize('body', [b'', b'\0', b'?' * 30])
@pytest.mark.parametrize(
  ('marker', 'head'),
  [
    (0xE0, b'JFIF\0'),
    (0xE0, b'JFIF'),
    (0xE1, b'Exif\0\0'),
    (0xE1, b'Exif\0\0II*\0\x08\0\0\0\xff\xff'),
    (0xE1, b'http://ns.adobe.com/xap/1.0/\0'),
    (0xE2, b'ICC_PROFILE\0'),
    (0xE2, b'ICC_PROFILE\0\2\1'),
    (0xE2, b'MPF\0'),
    (0xED, b'Photoshop 3.0\0' + b'8BIM\4\4'),
    (0xEE, b'Adobe'),
    (0xFE, b''),
  ],
)
@pytest.mark.filterwarnings('ignore')
def test_segments_of_a_jpeg(marker, head, body):
  want = pixels_of(encoded('JPEG', quality=95))
  got = pixels_of(with_segment(marker, head + body))
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize('form', ['PNG', 'WEBP', 'TIFF'])
@pytest.mark.parametrize(
  'exif', [b'', b'Exif\0\0', b'Exif\0\0II*\0\x08\0\0\0\xff\xff' + bytes(9)]
)
@pytest.mark.filterwarnings('ignore')
def test_exif_that_is_damaged(form, exif):
  options = LOSSLESS.get(form, {})
  if form == 'TIFF':  # A pointer to EXIF behind the end, as a tag.
    content = encoded(form, tiffinfo={34665: 1 << 30})
  else:
    content = encoded(form, exif=exif, icc_profile=ICC, **options)
  np.testing.assert_array_equal(pixels_of(content), np.asarray(RGB))


@pytest.mark.filterwarnings('ignore')
def test_tags_of_a_tiff_that_are_damaged():
  """Descriptive tags point nowhere; the orientation stays."""
  content = bytearray(encoded('TIFF', tiffinfo={274: 6, 270: 'x' * 50}))
  (start,) = struct.unpack_from('<I', content, 4)
  (count,) = struct.unpack_from('<H', content, start)
  for at in range(start + 2, start + 2 + 12 * count, 12):
    if struct.unpack_from('<H', content, at)[0] == 270:
      struct.pack_into('<HHII', content, at, 34675, 4, 1 << 30, 1 << 31)
  want = np.rot90(np.asarray(RGB), -1)
  np.testing.assert_array_equal(pixels_of(bytes(content)), want)


@pytest.mark.parametrize('form', ['PNG', 'WEBP', 'JPEG', 'TIFF'])
def test_what_is_left_out(form):
  """Stripped files have the same pixels, EXIF in the first of them."""
  options = {'exif': TURN.tobytes(), 'icc_profile': ICC} | LOSSLESS.get(
    form, {}
  )
  content = encoded(form, **options)
  upright = pixels_of(encoded(form, **LOSSLESS.get(form, {})))
  files = [*metadata.candidates(content)]
  assert len(files) == (2 if form == 'TIFF' else 3)
  for file in files[:2]:
    np.testing.assert_array_equal(pixels_of(file), np.rot90(upright, -1))
    assert 'icc_profile' not in Image.open(io.BytesIO(files[1])).info
  if form != 'TIFF':
    np.testing.assert_array_equal(pixels_of(files[2]), upright)


def test_warnings_that_are_errors_are_no_damage():
  """A library's warnings of metadata, with `-W error`."""
  content = with_segment(0xE1, b'Exif\0\0II*\0\x08\0\0\0\x09\0' + bytes(30))
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    pixels_of(content)


@pytest.mark.parametrize(
  'error',
  [
    *(AssertionError, SyntaxError, MemoryError, RecursionError, KeyError),
    *(struct.error, UserWarning, StopIteration, UnicodeError, OSError),
  ],
)
def test_whatever_a_decoder_raises(error, monkeypatch, tmp_path):
  photos.coco(tmp_path)
  reader = data.coco(tmp_path, size=14)

  def load(picture):
    raise error

  monkeypatch.setattr('PIL.ImageFile.ImageFile.load', load)
  subset, broken = data.readable(reader)
  assert len(subset) == 0
  assert all(
    text.startswith(f'{entry.path} is damaged or truncated: ')
    and text[-1] != ' '
    for entry, text in zip(reader.entries, broken, strict=True)
  )


def test_interrupts_are_no_damage(monkeypatch):
  def load(picture):
    raise KeyboardInterrupt

  monkeypatch.setattr('PIL.ImageFile.ImageFile.load', load)
  with pytest.raises(KeyboardInterrupt):
    pictures.decode(photos.jpeg())
