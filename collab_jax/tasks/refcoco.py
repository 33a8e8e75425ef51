"""RefCOCO, RefCOCO+ and RefCOCOg: the thing that a sentence means."""

from collections.abc import Iterator
import dataclasses
import functools
import os
from pathlib import Path
import re
from typing import Any, ClassVar

from collab_jax import _validate, boxes, masks, regions
from collab_jax.data import asked, files, question
from collab_jax.models import mask_decoder
from collab_jax.tasks import base, detections, listed, pickled

# Split of each dataset that big_vision scores.
_SPLIT_BY = {'refcoco': 'unc', 'refcoco+': 'unc', 'refcocog': 'umd'}
# Names of the pictures in COCO's folders.
_YEARS = {
  'train2014': 'COCO_train2014_{:012d}.jpg',
  'train2017': '{:012d}.jpg',
}
_TOKENS = re.compile(r'\s*((?:<loc\d{4}>){4})\s*((?:<seg\d{3}>){16})?')


class ReferringTask(listed.ListedTask):
  """Task that reads refer's lists: a sentence, a box and a mask."""

  dataset: str
  prompt: str

  splits: ClassVar[tuple[str, ...]] = ('val', 'testA', 'testB', 'test', 'train')
  preprocess: ClassVar[str] = 'bv_bilinear'
  max_tokens: ClassVar[int] = 48
  seen: ClassVar[tuple[str, ...]] = ('train',)
  checkpoints: ClassVar[tuple[str, ...]] = ('paligemma-3b-ft-refcoco-seg',)
  files: ClassVar[tuple[str, ...]] = (
    'refcoco/refs(unc).p (refcoco+; refcocog/refs(umd).p), or as .json',
    'refcoco/instances.json',
    'train2014/COCO_train2014_*.jpg (or train2017/*.jpg)',
  )
  url: ClassVar[str] = 'https://github.com/lichengunc/refer'
  licence: ClassVar[str] = (
    'Apache-2.0; pictures of COCO. 14, 24 and 5% of the labels of RefCOCO, +'
    ' and g are wrong (Ref-L4)'
  )

  def listing(self, folder: Path, split: str) -> listed.Listing:
    """Reads sentences, and the boxes and masks of what they mean."""
    name = _SPLIT_BY[self.dataset]
    root = folder / self.dataset
    if not root.is_dir():
      root = folder
    path = listed.find(
      root, [f'refs({name}).p', f'refs({name}).json'], 'list of sentences'
    )
    instances = listed.find(root, ['instances.json'], 'list of boxes')
    content = path.read_bytes()
    if path.suffix == '.p':
      refs = pickled.loads(content, str(path))
    else:
      refs = files.parse_list(content, str(path))
    if not isinstance(refs, list):
      raise _validate.error(str(path), type(refs).__name__, 'a list of refs')
    chosen = [
      (f'{path}: [{i}]', ref)
      for i, ref in enumerate(refs)
      if files.field(ref, 'split', str, f'{path}: [{i}]') == split
    ]
    if not chosen:
      known = {ref.get('split') for ref in refs if isinstance(ref, dict)}
      raise _validate.unknown(f'split of {self.dataset}', split, known)
    pictures = listed.find_folder(folder, [*_YEARS])
    return listed.Listing(path, self._rows(chosen, instances, pictures))

  def _rows(
    self, refs: list[tuple[str, Any]], instances: Path, pictures: Path
  ) -> Iterator[listed.Row]:
    table = listed.table(instances)
    images = _by_id(table, 'images', instances)
    annotations = _by_id(table, 'annotations', instances)
    for where, ref in refs:
      image_id = files.field(ref, 'image_id', int, where)
      annotation_id = files.field(ref, 'ann_id', int, where)
      if image_id not in images or annotation_id not in annotations:
        raise _validate.error(
          f'{where}: image_id, ann_id',
          (image_id, annotation_id),
          f'those of {instances}',
        )
      image, annotation = images[image_id], annotations[annotation_id]
      path = pictures / _YEARS[pictures.name].format(image_id)
      # Masks take time: they are made of the questions that are asked.
      region = functools.cache(
        functools.partial(
          _region, image, annotation, f'{instances}: annotation {annotation_id}'
        )
      )
      sentences = files.field(ref, 'sentences', list, where)
      for i, item in enumerate(sentences):
        place = f'{where}: sentences[{i}]'
        text = files.field(item, 'sent', str, place)
        number = files.field(item, 'sent_id', int, place)
        prompt = base.filled(self.prompt, sentence=text)
        query = functools.partial(_question, prompt, region, str(number))
        yield listed.Row(path, image_id, query)


@dataclasses.dataclass(frozen=True)
class RefCoco(ReferringTask):
  """Segmentation of what a sentence means, at the picture's full size.

    RefCoco(weights='/data/vae-oid.npz').load('/data/refer', 'val')
    RefCoco('refcoco+', weights='/data/vae-oid.npz')

  A model writes four `<loc>` tokens, y before x, and sixteen `<seg>` codes,
  which the decoder of `models.mask_decoder` makes a mask of. What is no such
  text scores 0.

  Attributes:
    dataset: 'refcoco', 'refcoco+' or 'refcocog'.
    weights: file of the mask decoder, `vae-oid.npz`.
    prompt: text with {sentence}; 'segment {sentence}' for a mix checkpoint.

  Source: Kazemzadeh et al., EMNLP 2014; Yu et al., arXiv 1608.00272; Mao et
  al., arXiv 1511.02283; big_vision's `transfers/segmentation.py`.
  """

  dataset: str = 'refcoco'
  weights: str = ''
  prompt: str = '{sentence}'
  metrics: ClassVar[tuple[str, ...]] = (
    'mask_iou',
    'box_accuracy',
    'box_accuracy(iou=0.75)',
    'box_iou',
  )
  writes_exactly: ClassVar[bool] = False  # Codes of a mask are not known.

  def __post_init__(self):
    super().__post_init__()
    _validate.choice('dataset', self.dataset, [*_SPLIT_BY])

  @property
  def label(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
    """Name of the dataset."""
    return _LABELS[self.dataset]

  @property
  def published(  # pyright: ignore[reportIncompatibleVariableOverride]
    self,
  ) -> tuple[base.Published, ...]:
    """Scores of the dataset."""
    scores = _PUBLISHED[self.dataset]
    return base.published('refcoco-seg', 'mask_iou', 'val', *scores)

  def load(self, *args: Any, **kw: Any) -> asked.Asked:
    """Makes a reader; see `Task.load`.

    Raises:
      ValueError: `weights` is empty; else as of `Task.load`.
    """
    if not self.weights:
      raise _validate.error(
        'weights',
        '',
        'the path of vae-oid.npz',
        f'get it from {mask_decoder.WHERE}, or take refcoco_box, without masks',
      )
    _decoder(self.weights)
    return super().load(*args, **kw)

  def read(self, text: str, asked: question.Question) -> str:
    """Returns the region of a text: its box, and the mask at full size."""
    tokens = _read_tokens(text)
    if tokens is None or len(tokens[1]) != mask_decoder.LENGTH:
      return ''
    box, codes = tokens
    mask = None
    expected = regions.read(asked.references[0])[0].mask
    if expected is not None:
      mask = detections.decode_mask(
        codes,
        box,
        expected.height,
        expected.width,
        _decoder(self.weights),
      )
    runs = None if mask is None else masks.encode(mask)
    return regions.write(regions.Region(box, runs))

  def write(self, asked: question.Question) -> str:
    """Returns the box's tokens, with codes of no meaning."""
    region = regions.read(asked.references[0])[0]
    codes = '<seg000>' * mask_decoder.LENGTH
    return boxes.write([region.box], codes).replace(' ', '')


@dataclasses.dataclass(frozen=True)
class RefCocoBox(ReferringTask):
  """Detection of what a sentence means, which needs no mask decoder.

    RefCocoBox('refcocog').load('/data/refer', 'val')

  Attributes:
    dataset: 'refcoco', 'refcoco+' or 'refcocog'.
    prompt: text with {sentence}; 'detect {sentence}' for a mix checkpoint.

  Source: as of `RefCoco`, whose published scores are of masks.
  """

  dataset: str = 'refcoco'
  prompt: str = '{sentence}'
  metrics: ClassVar[tuple[str, ...]] = (
    'box_accuracy',
    'box_accuracy(iou=0.75)',
    'box_iou',
  )

  def __post_init__(self):
    super().__post_init__()
    _validate.choice('dataset', self.dataset, [*_SPLIT_BY])

  @property
  def label(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
    """Name of the dataset."""
    return f'{_LABELS[self.dataset]} boxes'

  def read(self, text: str, asked: question.Question) -> str:
    """Returns the region of a text's first box."""
    del asked
    tokens = _read_tokens(text)
    return '' if tokens is None else regions.write(regions.Region(tokens[0]))

  def write(self, asked: question.Question) -> str:
    """Returns the box's tokens."""
    region = regions.read(asked.references[0])[0]
    return boxes.write([region.box], '').rstrip()


_LABELS = {'refcoco': 'RefCOCO', 'refcoco+': 'RefCOCO+', 'refcocog': 'RefCOCOg'}
_PUBLISHED = {
  'refcoco': (73.40, 75.57, 76.94),
  'refcoco+': (68.32, 69.76, 72.18),
  'refcocog': (67.65, 70.17, 72.22),
}


@functools.lru_cache(maxsize=2)
def _decoder(path: str | os.PathLike[str]) -> mask_decoder.Params:
  return mask_decoder.load(path)


def _read_tokens(text: str) -> tuple[boxes.Box, list[int]] | None:
  """Returns the box and the codes at a text's beginning; None without a box."""
  match = _TOKENS.match(text)
  if match is None:
    return None
  places = boxes.read(match[1])
  codes = [int(code) for code in re.findall(r'\d{3}', match[2] or '')]
  if not places or max(codes, default=0) >= mask_decoder.CODES:
    return None
  return places[0][0], codes


def _by_id(table: Any, name: str, path: Path) -> dict[int, Any]:
  items = files.field(table, name, list, str(path))
  return {
    files.field(item, 'id', int, f'{path}: {name}[{i}]'): item
    for i, item in enumerate(items)
  }


def _question(prompt: str, region: Any, number: str) -> question.Question:
  return question.Question(prompt, (region(),), '', number)


def _region(image: Any, annotation: Any, where: str) -> str:
  """Returns the text of an annotation's box and mask."""
  height = files.field(image, 'height', int, where)
  width = files.field(image, 'width', int, where)
  numbers = files.field(annotation, 'bbox', list, where)
  if len(numbers) != 4 or not all(map(_validate.is_number, numbers)):
    raise _validate.error(f'{where}: bbox', numbers, '[x, y, width, height]')
  left, top, across, down = numbers
  box = boxes.Box(
    top / height, left / width, (top + down) / height, (left + across) / width
  )
  mask = _mask(annotation.get('segmentation'), height, width, where)
  return regions.write(regions.Region(box, masks.encode(mask)))


def _mask(shape: Any, height: int, width: int, where: str) -> masks.Mask:
  """Returns the mask of polygons, or of run lengths (of crowds)."""
  if isinstance(shape, list) and all(
    isinstance(polygon, list) and all(map(_validate.is_number, polygon))
    for polygon in shape
  ):
    return masks.from_polygons(shape, height, width)
  counts = shape.get('counts') if isinstance(shape, dict) else None
  if isinstance(counts, str):
    return masks.decode(masks.RunLengths(height, width, counts))
  if isinstance(counts, list) and all(map(_validate.is_integer, counts)):
    return masks.from_counts(counts, height, width)
  raise _validate.error(
    f'{where}: segmentation', shape, 'polygons or run lengths'
  )
