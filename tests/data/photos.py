"""Small datasets on disk, as they are downloaded."""

import io
import json
from pathlib import Path
import struct
import zlib

import numpy as np
from PIL import Image

CAPTIONS = ['A dog.', 'A wet  dog runs.\n', ' ']


def photo(seed: int = 0, height: int = 30, width: int = 40) -> np.ndarray:
  """Smooth u8[H W 3], as a photograph is."""
  rng = np.random.default_rng(seed)
  small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
  return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def jpeg(seed: int = 0, **sides: int) -> bytes:
  """Such a photograph, as a JPEG."""
  output = io.BytesIO()
  Image.fromarray(photo(seed, **sides)).save(output, 'JPEG', quality=90)
  return output.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
  """A part of a PNG."""
  end = struct.pack('>I', zlib.crc32(kind + body))
  return struct.pack('>I', len(body)) + kind + body + end


def bomb(side: int) -> bytes:
  """A small PNG that says it is large."""
  header = struct.pack('>2I5B', side, side, 8, 0, 0, 0, 0)
  data = zlib.compress(bytes(1000))
  return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', data)


def grey_png(width: int, height: int) -> bytes:
  """A whole black PNG, which takes little room."""
  header = struct.pack('>2I5B', width, height, 8, 0, 0, 0, 0)
  parts = {
    b'IHDR': header,
    b'IDAT': zlib.compress(bytes((width + 1) * height), 9),
    b'IEND': b'',
  }
  chunks = [chunk(kind, body) for kind, body in parts.items()]
  return b'\x89PNG\r\n\x1a\n' + b''.join(chunks)


def write(path: Path, seed: int = 0) -> None:
  """Writes a JPEG, and the folders to it."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(jpeg(seed))


def coco(folder: Path, ids=range(1, 6), split: str = 'val2014') -> Path:
  """COCO's own layout. Returns the list, for tests to spoil."""
  images, annotations = [], []
  for image_id in ids:
    name = f'COCO_{split}_{image_id:012d}.jpg'
    write(folder / split / name, image_id)
    images.append({'id': image_id, 'file_name': name})
    for n, caption in enumerate(CAPTIONS):
      annotations.append(
        {'id': 10 * image_id + n, 'image_id': image_id, 'caption': caption}
      )
  listing = folder / 'annotations' / f'captions_{split}.json'
  listing.parent.mkdir(parents=True, exist_ok=True)
  table = {'images': images, 'annotations': annotations[::-1]}
  listing.write_text(json.dumps(table))
  return listing


def karpathy(folder: Path, dataset: str = 'coco', each: int = 2) -> Path:
  """Karpathy's layout: `each` pictures in each split."""
  images = []
  splits = ['test', 'val', 'train', 'restval'] * each
  for i, split in enumerate(splits):
    item = {'split': split, 'imgid': i, 'filename': f'{i}.jpg'}
    if dataset == 'coco':
      place = 'train2014' if split == 'train' else 'val2014'
      item |= {'filepath': place, 'cocoid': 100 + i}
      write(folder / place / item['filename'], i)
    else:
      write(folder / 'flickr30k-images' / item['filename'], i)
    item['sentences'] = [{'raw': text, 'tokens': []} for text in CAPTIONS]
    images.append(item)
  listing = folder / f'dataset_{dataset}.json'
  listing.write_text(json.dumps({'images': images, 'dataset': dataset}))
  return listing


def lines(folder: Path, number: int = 3, **changes) -> Path:
  """A JSONL list; `changes` replaces fields of the last line."""
  items = []
  for i in range(number):
    write(folder / 'pictures' / f'{i}.jpg', i)
    items.append({'image': f'pictures/{i}.jpg', 'captions': CAPTIONS})
  items[-1] |= changes
  listing = folder / 'test.jsonl'
  listing.write_text(''.join(json.dumps(item) + '\n' for item in items))
  return listing
