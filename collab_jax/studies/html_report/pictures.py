"""Pictures of a run, read again from its data, and what arrived of them."""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any, NamedTuple

from jaxtyping import Float, Int, UInt8
import numpy as np

from collab_jax import codecs, random_keys, sharding
from collab_jax import data as datasets
from collab_jax.codecs import base
from collab_jax.data import pixels
from collab_jax.evaluation import batches
from collab_jax.models import paligemma

Record = Mapping[str, Any]
Image = UInt8[np.ndarray, 'H W 3']

_TRIES = 64  # Damaged pictures in front of one, which were left out.
_SIDE = 96  # Pixels of a map, about.
_MOST_PARTED = 48  # Groups between which lines leave room for colours.
_DROPPED = 237, 237, 237  # Colour of a place whose vector was not sent.
_TOLERANCE = 0.02  # Of the distortion, computed again on another machine.


class Maps(NamedTuple):
  """Maps of the vectors that arrived, by picture and codec.

  Attributes:
    images: Map of the vectors, or the decoded picture, by id and name.
    faults: Why there is none of a codec, by name.
  """

  images: dict[tuple[int, str], Image]
  faults: dict[str, str]


def find(
  reader: Any, records: Sequence[Record], ids: Sequence[int]
) -> dict[int, datasets.Example]:
  """Reads pictures of a run again, and makes sure that they are the same.

  Args:
    reader: The run's data.
    records: The run's records, in the order of the data.
    ids: Ids of the pictures.

  Returns:
    Examples by id. Pictures that changed since, or are not found, are left
    out; those of records without a fingerprint have the same references.
  """
  order = dict.fromkeys(record['image_id'] for record in records)
  places = {image_id: place for place, image_id in enumerate(order)}
  first = {record['image_id']: record for record in reversed(records)}
  examples = {}
  for image_id in ids:
    start = places[image_id]
    for index in range(start, min(start + _TRIES, len(reader))):
      example = reader[index]
      if example.image_id == image_id:
        if _is_same(example, first[image_id]):
          examples[image_id] = example
        break
  return examples


def _is_same(example: datasets.Example, record: Record) -> bool:
  recorded = record.get('pixels')
  if recorded is not None:
    return pixels.fingerprint(example.image) == recorded
  return list(example.captions) == list(record.get('references') or ())


def draw_maps(
  model: paligemma.Model,
  specs: Mapping[str, Callable[[], base.CodecSpec]],
  examples: Sequence[datasets.Example],
  records: Mapping[tuple[int, str], Record],
  batch_size: int | None,
) -> Maps:
  """Encodes pictures again, and maps the vectors that arrive at the server.

  Args:
    model: The model of the run; its edge half is enough.
    specs: What makes the specs of codecs, by their names.
    examples: The pictures.
    records: Records by picture and codec, which say the seeds.
    batch_size: Pictures that are computed at a time: with the batch size of an
      evaluation in the same process, its programs serve again. None for all.

  Returns:
    The maps, of codecs that could be made and give what was recorded.
  """
  size = sharding.padded(batch_size or len(examples), model.params)
  chunks = [
    batches.Batch(examples[start : start + size], size)
    for start in range(0, len(examples), size)
  ]
  caches = [codecs.FeatureCache() for _ in chunks]
  maps, palettes = Maps({}, {}), {}
  for name, make in specs.items():
    seed = next((r['seed'] for (_, n), r in records.items() if n == name), None)
    if seed is None:
      continue
    try:
      codec = make().bind(model)
    except (ValueError, OSError, ImportError) as error:
      maps.faults[name] = str(error)
      continue
    for batch, cache in zip(chunks, caches, strict=True):
      images = _draw_codec(codec, batch, seed, cache, records, palettes)
      if images is None:
        maps.faults[name] = 'encoded again, the pictures give other messages'
        break
      maps.images.update({(i, name): image for i, image in images.items()})
  return maps


def _draw_codec(
  codec: base.Codec,
  batch: batches.Batch,
  seed: int,
  cache: base.FeatureCache,
  records: Mapping[tuple[int, str], Record],
  palettes: dict[Any, Any],
) -> dict[int, Image] | None:
  """Returns what arrives of each picture; None if it is not as recorded.

  Main axes of a picture's features take longest, and are kept in `palettes`.
  """
  key = random_keys.make(seed)
  encoded = codec.dispatch_encode(batch.images, key, batch.padded_ids, cache)()
  received = [
    codec.transmit(message, seed, image_id)[0]
    for message, image_id in zip(encoded.messages, batch.ids, strict=False)
  ]
  if codec.channel is None and codec.split is None:
    pictures = [codec.picture(message) for message in received]
    pairs = zip(batch.ids, pictures, strict=True)
    return {i: picture for i, picture in pairs if picture is not None}
  padding = received[-1:] * (len(batch.images) - len(received))
  decoded = codec.prepare_decode([*received, *padding])()
  if decoded.tokens is None or encoded.features is None:
    return {}
  features = np.asarray(encoded.features, np.float32)
  tokens = [np.asarray(part) for part in decoded.tokens]
  images: dict[int, Image] = {}
  for row, image_id in enumerate(batch.ids):
    record = records.get((image_id, codec.name))
    if record is None or (decoded.arrived and not decoded.arrived[row]):
      continue
    x, valid, positions = (part[row] for part in tokens[:3])
    if not _is_as_recorded(x, features[row], record):
      return None
    if codec.channel is None and 'mask' in (
      unpacked := codec.unpack(received[row])
    ):
      # Vectors that are closed up do not stand at their places.
      places = np.flatnonzero(unpacked['mask'])
      positions = np.concatenate([places, positions[len(places) :]])
    place = image_id, codec.split
    if place not in palettes:
      palettes[place] = codecs.colours_by_axes(features[row])
    images[image_id] = draw_map(
      palettes[place], codec.vectors, x, valid, positions
    )
  return images


def _is_as_recorded(x, features, record: Record) -> bool:
  """Whether rebuilt vectors have the distortion that was recorded."""
  before = record['distortion']
  if before is None or x.shape != features.shape:
    return True
  error = float(np.mean(np.square(x.astype(np.float32) - features)))
  return abs(error - before) <= _TOLERANCE * before + 1e-9


def draw_map(
  colours_of: Callable[[Any], Any],
  n: int,
  x: Float[np.ndarray, 'm d'],
  valid: Any,
  positions: Int[np.ndarray, ' m'],
) -> Image:
  """Draws the vectors that arrive, a square for each place of the grid.

  Args:
    colours_of: Colours of vectors, from `codecs.colours_by_axes`.
    n: Number of places.
    x: The vectors that arrive.
    valid: bool[m], which of them are used.
    positions: Their places.

  Returns:
    A picture; white lines part places of unlike vectors, and a place whose
    vector was not sent is grey.
  """
  side = math.isqrt(n)
  groups = np.full(n, -1)
  colours = np.full((n, 3), _DROPPED, np.uint8)
  used = np.asarray(valid, bool)
  rows, places = x[used].astype(np.float32), positions[used]
  if len(rows):
    _, inverse = np.unique(rows.round(4), axis=0, return_inverse=True)
    groups[places] = inverse.reshape(-1)
    shades = colours_of(rows)
    colours[places] = np.round(255 * shades).astype(np.uint8)
  scale = max(1, _SIDE // side)
  image = np.kron(
    colours.reshape(side, side, 3), np.ones((scale, scale, 1), np.uint8)
  )
  grid = groups.reshape(side, side)
  if scale > 2 and len(set(groups.tolist())) <= _MOST_PARTED:
    _part(image, grid, scale)
  return image


def _part(image: Image, grid: Int[np.ndarray, 'h w'], scale: int) -> None:
  """Draws a white line between neighbours of different groups."""
  rows, cols = np.nonzero(grid[:, 1:] != grid[:, :-1])
  for row, col in zip(rows, cols, strict=True):
    y, x = row * scale, (col + 1) * scale
    image[y : y + scale, x - 1 : x] = 255
  rows, cols = np.nonzero(grid[1:] != grid[:-1])
  for row, col in zip(rows, cols, strict=True):
    y, x = (row + 1) * scale, col * scale
    image[y - 1 : y, x : x + scale] = 255
