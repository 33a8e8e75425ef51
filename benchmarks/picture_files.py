"""Picture files of many kinds, whole, damaged, and with damaged metadata.

python -m benchmarks.picture_files
python -m benchmarks.picture_files --mutations=18000 --seed=1
python -m benchmarks.picture_files --largest

Each file is read as data sets and the folder client read it: checked, and then
decoded. Whatever is not a picture or a `PictureError` that names the file would
end a run, and so would a file that passes its check and is refused afterwards.
"""

import collections
from collections.abc import Iterator, Sequence
import io
import itertools
import multiprocessing
import random
import resource
import struct
import time
from typing import NamedTuple
import warnings
import zlib

from absl import app, flags
import numpy as np
from PIL import Image
import tqdm

from collab_jax.data import pictures

_MUTATIONS = flags.DEFINE_integer('mutations', 18_000, 'Damaged files.')
_SEED = flags.DEFINE_integer('seed', 0, 'Seed of the damage.')
_LARGEST = flags.DEFINE_bool(
  'largest', False, 'Measure the memory of the largest pictures instead.'
)

# Width and height at the limit of pixels, and of what a JPEG encoder takes.
_LARGE = ((9459, 9459), (1366, 65_500), (65_500, 1366))

_ICC = b'\x00\x00\x02\x0cnot a profile' * 9
_XMP = b'<x:xmpmeta><tiff:Orientation>1</tiff:Orientation></x:xmpmeta>'
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF)


class Outcome(NamedTuple):
  """Outcome of reading a file.

  Attributes:
    kind: 'read', 'refused', 'check passed, then refused', or the name of
      another exception.
    sides: Height and width of the picture, if there is one.
    seconds: Time of checking and decoding.
  """

  kind: str
  sides: tuple[int, ...]
  seconds: float


def kinds() -> dict[str, bytes]:
  """Returns small whole picture files, by format, mode and options."""
  image = Image.fromarray(_pixels())
  modes = {
    'JPEG': ('L', 'RGB', 'CMYK'),
    'PNG': ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16'),
    'WEBP': ('RGB', 'RGBA'),
    'AVIF': ('RGB', 'RGBA'),
    'GIF': ('1', 'L', 'P'),
    'BMP': ('1', 'L', 'P', 'RGB', 'RGBA'),
    'TIFF': ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK', 'YCbCr', 'I;16', 'I'),
    'PPM': ('1', 'L', 'RGB', 'I;16'),
    'JPEG2000': ('L', 'LA', 'RGB', 'RGBA'),
  }
  files = {
    f'{form} {mode}': _encoded(_in_mode(image, mode), form)
    for form, names in modes.items()
    for mode in names
  }
  exif = Image.Exif()
  exif[0x0112] = 6
  meta = {'exif': exif.tobytes(), 'icc_profile': _ICC}
  more = [image.rotate(90 * n) for n in (1, 2)]
  frames = {'save_all': True, 'append_images': more}
  options = {
    'JPEG': {
      'progressive': {'progressive': True},
      'fine colours': {'subsampling': 0},
      'restarts': {'restart_marker_blocks': 1},
      'metadata': {**meta, 'comment': b'a comment', 'dpi': (72, 72)},
    },
    'PNG': {'metadata': meta, 'fast': {'compress_level': 1}},
    'WEBP': {
      'lossless': {'lossless': True},
      'metadata': {**meta, 'xmp': _XMP},
    },
    'AVIF': {
      'fine colours': {'subsampling': '4:4:4'},
      'metadata': {**meta, 'xmp': _XMP},
    },
    'GIF': {'interlaced': {'interlace': 1}, 'comment': {'comment': b'hello'}},
    'TIFF': {
      'LZW': {'compression': 'tiff_lzw'},
      'deflate': {'compression': 'tiff_adobe_deflate'},
      'JPEG': {'compression': 'jpeg'},
      'packed': {'compression': 'packbits'},
      'metadata': meta,
      'big': {'big_tiff': True},
    },
    'JPEG2000': {
      'lossy': {'quality_mode': 'rates', 'quality_layers': [8]},
      'tiled': {'tile_size': (16, 16)},
      'bare': {'no_jp2': True},
    },
  }
  for form, choices in options.items():
    for name, values in choices.items():
      files[f'{form} {name}'] = _encoded(image, form, **values)
  for form in ('PNG', 'WEBP', 'AVIF', 'GIF', 'TIFF', 'MPO'):
    files[f'{form} of three'] = _encoded(image, form, **frames)
  files['PNG of text'] = with_chunk(files['PNG RGB'], b'tEXt', b'key\0words')
  return files


def _pixels() -> np.ndarray:
  """Returns u8[40 60 3] with edges, noise and a slope."""
  values = np.random.default_rng(0).integers(0, 40, (40, 60, 3), np.uint8)
  values += np.linspace(0, 160, 60, dtype=np.uint8)[None, :, None]
  values[10:20, 15:30] = (255, 0, 90)
  return values


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
  if mode == 'I;16':
    return Image.fromarray(np.asarray(image.convert('L')).astype('<u2') << 8)
  if mode == 'I':
    return image.convert('L').convert('I')
  return image.quantize(16) if mode == 'P' else image.convert(mode)


def _encoded(image: Image.Image, form: str, **options) -> bytes:
  output = io.BytesIO()
  image.save(output, form, **options)
  return output.getvalue()


def with_chunk(png: bytes, kind: bytes, body: bytes, good: bool = True):
  """Returns a PNG with one more chunk behind its header."""
  crc = zlib.crc32(kind + body) ^ (0 if good else 1)
  chunk = struct.pack('>I', len(body)) + kind + body + struct.pack('>I', crc)
  return png[:33] + chunk + png[33:]


def damage(data: bytes, rng: random.Random) -> bytes:
  """Returns a file damaged in one of seven ways."""
  damaged = bytearray(data)
  way, start = rng.randrange(7), rng.randrange(len(data))
  if way == 0:  # Bytes, which sums and codes of pixels feel.
    for _ in range(rng.randint(1, 8)):
      damaged[rng.randrange(len(data))] = rng.randrange(256)
  elif way == 1:  # Bits of the head, where sizes and tags are.
    for _ in range(rng.randint(1, 3)):
      damaged[rng.randrange(min(len(data), 200))] ^= 1 << rng.randrange(8)
  elif way == 2:  # A number of two or four bytes at an extreme.
    size, byte = rng.choice((2, 4)), rng.choice(_EXTREMES)
    damaged[start : start + size] = bytes([byte] * size)
  elif way == 3:  # Cut off.
    del damaged[start:]
  elif way == 4:  # A piece left out.
    del damaged[start : start + rng.randint(1, 64)]
  elif way == 5:  # A piece twice.
    damaged[start:start] = data[start : start + rng.randint(1, 64)]
  else:  # A block that was never written.
    damaged[start : start + 512] = bytes(len(damaged[start : start + 512]))
  return bytes(damaged)


def read(data: bytes) -> Outcome:
  """Checks and decodes a file as a run does."""
  start, sides, kind = time.perf_counter(), (), 'refused'
  try:
    pictures.check(data, 'the file')
    kind = 'check passed, then refused'
    image = pictures.decode(data, 'the file')
    kind, sides = 'read', image.shape[:2]
    pictures.resize(image, 32)
  except pictures.PictureError as error:
    if not str(error).startswith('the file '):
      kind = 'refused without a name'
  except Exception as error:
    kind = type(error).__name__
  return Outcome(kind, sides, time.perf_counter() - start)


def mutations(
  files: dict[str, bytes], count: int, seed: int
) -> Iterator[tuple[str, bytes]]:
  """Yields damaged files, of each kind as many.

  Args:
    files: From `kinds`.
    count: Number of files.
    seed: Of the damage.
  """
  rng, names = random.Random(seed), [*files]
  for number in range(count):
    name = names[number % len(names)]
    yield name, damage(files[name], rng)


def _summarize(outcomes: Sequence[tuple[str, Outcome]]) -> Iterator[str]:
  """Yields a line for each format: how many files came to what."""
  by_format: dict[str, list[Outcome]] = collections.defaultdict(list)
  for name, outcome in outcomes:
    by_format[name.split()[0]].append(outcome)
  for name, group in [*by_format.items(), ('all', [o for _, o in outcomes])]:
    counts = collections.Counter(o.kind for o in group)
    good = counts.pop('read', 0), counts.pop('refused', 0)
    bad = ', '.join(f'{n} {kind}' for kind, n in counts.items()) or '0'
    slowest = 1000 * max(o.seconds for o in group)
    yield (
      f'{name:9} {len(group):7,} {good[0]:7,} {good[1]:8,} {bad:>6}'
      f' {slowest:11,.0f}'
    )


def _print_largest() -> None:
  """Prints the memory of reading the largest pictures, each in a process."""
  print(
    'format      width  height  method           file, MB  memory, MB     s'
  )
  context = multiprocessing.get_context('spawn')
  for form, (width, height), method in itertools.product(
    ('PNG', 'JPEG', 'TIFF'), _LARGE, pictures.METHODS
  ):
    image = Image.new('RGB', (width, height), (9, 99, 199))
    data = _encoded(
      image, form, **({'progressive': True} if form == 'JPEG' else {})
    )
    with context.Pool(1) as pool:
      peak, seconds = pool.apply(_measure, (data, method))
    print(
      f'{form:9} {width:7,} {height:7,}  {method:15} {len(data) / 1e6:9.1f}'
      f' {peak:11,.0f} {seconds:5.1f}',
      flush=True,
    )


def _measure(data: bytes, method: str) -> tuple[float, float]:
  """Reads a picture at 896 px; returns megabytes at most, and seconds."""
  before, start = _peak(), time.perf_counter()
  pictures.resize(pictures.decode(data), 896, method)
  return _peak() - before, time.perf_counter() - start


def main(argv):
  """Prints how many files are read and refused, and what they take."""
  del argv
  warnings.simplefilter('ignore')
  if _LARGEST.value:
    _print_largest()
    return
  files = kinds()
  good = sum(read(data).kind == 'read' for data in files.values())
  print(f'{good} of {len(files)} kinds are read')
  before = _peak()
  outcomes = [
    (name, read(data))
    for name, data in tqdm.tqdm(
      mutations(files, _MUTATIONS.value, _SEED.value), total=_MUTATIONS.value
    )
  ]
  print('format      files    read  refused  other  slowest, ms')
  print('\n'.join(_summarize(outcomes)))
  print(f'peak memory {before:,.0f} MB, then {_peak():,.0f} MB')


def _peak() -> float:
  """Returns the largest memory of this process so far, in megabytes."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


if __name__ == '__main__':
  app.run(main)
