"""Captions of pictures, as a task."""

import dataclasses
import os
from pathlib import Path
from typing import ClassVar

from collab_jax import data, metrics
from collab_jax.data import asked, example, files
from collab_jax.tasks import base, listed


@dataclasses.dataclass(frozen=True)
class Captions(base.Task):
  """Captions of any dataset that `data.make` reads.

    Captions('scenes').load(split='test', limit=100)

  Attributes:
    data: name of the dataset, or a path.
    score: metric that is the task's score.
    prompt: text that the model gets.
  """

  data: str = 'scenes'
  score: str = 'bleu4'
  prompt: str = 'caption en'
  label: ClassVar[str] = 'captions'
  preprocess: ClassVar[str] = 'hf_bicubic'
  splits: ClassVar[tuple[str, ...]] = ('test', 'val', 'train', 'dense')

  @property
  def kinds(self) -> tuple[str, ...]:
    """Kinds of the task's questions: captions alone."""
    return ('caption',)

  @property
  def metrics(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
    """The score, then the other metrics of captions."""
    return self.score, *(m for m in metrics.DEFAULT if m != self.score)

  def choose_split(self, split: str) -> str:
    """Returns the split, of which the dataset decides; 'test' for ''."""
    return split or 'test'

  def load(
    self,
    folder: str | os.PathLike[str] = '',
    split: str = '',
    limit: int | None = None,
    size: int = 224,
    method: str = '',
  ) -> asked.Asked:
    """Makes a reader; see `Task.load`."""
    reader = data.make(
      self.data,
      folder,
      self.choose_split(split),
      limit,
      size,
      method or self.preprocess,
    )
    return asked.Asked(reader, self._questions, warning=self.warning(split))

  def _questions(self, picture: example.Example) -> asked.Questions:
    query = listed.caption_question(
      self.prompt, picture.image_id, picture.captions
    )
    return (query,)


@dataclasses.dataclass(frozen=True)
class CocoCaptions(Captions):
  """COCO's captions on Karpathy's splits, as PaliGemma's were scored.

  CocoCaptions().load('/data/coco', 'val')

  Source: big_vision's `transfers/cococap.py`, whose config decodes by a beam of
  two.
  """

  data: str = 'coco'
  score: str = 'cider'
  label: ClassVar[str] = 'COCO captions'
  decoding: ClassVar[str] = 'beam2'
  preprocess: ClassVar[str] = 'bv_bilinear'
  splits: ClassVar[tuple[str, ...]] = ('val', 'test', 'train')
  seen: ClassVar[tuple[str, ...]] = ('train', 'restval')
  checkpoints: ClassVar[tuple[str, ...]] = ('paligemma-3b-ft-cococap',)
  published: ClassVar[tuple[base.Published, ...]] = base.published(
    'cococap', 'cider', 'val', 141.92, 144.60
  )
  files: ClassVar[tuple[str, ...]] = (
    'dataset_coco.json',
    'val2014/COCO_val2014_*.jpg',
  )
  url: ClassVar[str] = 'https://cocodataset.org/#download'
  licence: ClassVar[str] = 'CC BY 4.0; pictures of Flickr'

  def choose_split(self, split: str) -> str:
    """Returns a split, Karpathy's 'val' for ''."""
    return split or 'val'


@dataclasses.dataclass(frozen=True)
class TextCaps(listed.CaptionTask):
  """TextCaps: captions that tell the text in a photograph.

    TextCaps().load('/data/textcaps', 'val')

  Attributes:
    prompt: text that the model gets.

  Source: Sidorov et al., arXiv 2003.12462; big_vision's
  `transfers/textcaps.py`.
  """

  prompt: str = 'caption en'
  label: ClassVar[str] = 'TextCaps'
  decoding: ClassVar[str] = 'beam3'
  preprocess: ClassVar[str] = 'bv_bilinear'
  metrics: ClassVar[tuple[str, ...]] = ('cider', 'bleu4', 'rouge_l')
  splits: ClassVar[tuple[str, ...]] = ('val', 'train')
  seen: ClassVar[tuple[str, ...]] = ('train',)
  checkpoints: ClassVar[tuple[str, ...]] = ('paligemma-3b-ft-textcaps',)
  published: ClassVar[tuple[base.Published, ...]] = base.published(
    'textcaps', 'cider', 'val', 127.48, 153.94
  )
  files: ClassVar[tuple[str, ...]] = (
    'TextCaps_0.1_val.json',
    'train_images/*.jpg',
  )
  url: ClassVar[str] = 'https://textvqa.org/textcaps/dataset'
  licence: ClassVar[str] = 'not stated; pictures of OpenImages'

  def listing(self, folder: Path, split: str) -> listed.Listing:
    """Reads the captions of a split, a line for each."""
    path = listed.find(
      folder, [f'TextCaps_0.1_{split}.json'], 'list of captions'
    )
    captions: dict[str, list[str]] = {}
    items = files.field(listed.table(path), 'data', list, str(path))
    for i, item in enumerate(items):
      where = f'{path}: data[{i}]'
      name = files.field(item, 'image_name', str, where)
      text = files.field(item, 'caption_str', str, where)
      captions.setdefault(name, []).append(text)
    ids = files.stable_ids(captions)
    rows = self.caption_rows(
      (
        files.inside(folder / 'train_images', f'{name}.jpg', str(path)),
        ids[name],
        texts,
      )
      for name, texts in captions.items()
    )
    return listed.Listing(path, rows)


@dataclasses.dataclass(frozen=True)
class NoCaps(listed.CaptionTask):
  """NoCaps: captions of things that COCO's captions do not name.

    NoCaps().load('/data/nocaps', 'val')

  The checkpoint is that of COCO's captions, which saw none of NoCaps.

  Attributes:
    prompt: text that the model gets.

  Source: Agrawal et al., arXiv 1812.08658; big_vision's
  `transfers/cococap.py`.
  """

  prompt: str = 'caption en'
  label: ClassVar[str] = 'NoCaps'
  decoding: ClassVar[str] = 'beam2'
  preprocess: ClassVar[str] = 'bv_bilinear'
  metrics: ClassVar[tuple[str, ...]] = ('cider', 'bleu4', 'rouge_l')
  splits: ClassVar[tuple[str, ...]] = ('val',)
  checkpoints: ClassVar[tuple[str, ...]] = ('paligemma-3b-ft-cococap',)
  published: ClassVar[tuple[base.Published, ...]] = base.published(
    'cococap', 'cider', 'val', 121.72, 123.58
  )
  files: ClassVar[tuple[str, ...]] = (
    'nocaps_val_4500_captions.json',
    'validation/*.jpg (or Images/validation, or images)',
  )
  url: ClassVar[str] = 'https://nocaps.org/download'
  licence: ClassVar[str] = 'not stated; pictures of OpenImages'

  def listing(self, folder: Path, split: str) -> listed.Listing:
    """Reads the captions, in COCO's format."""
    path = listed.find(
      folder, ['nocaps_val_4500_captions.json'], 'list of captions'
    )
    content = listed.table(path)
    captions: dict[int, list[str]] = {}
    texts = files.field(content, 'annotations', list, str(path))
    for i, item in enumerate(texts):
      where = f'{path}: annotations[{i}]'
      captions.setdefault(files.field(item, 'image_id', int, where), []).append(
        files.field(item, 'caption', str, where)
      )
    pictures = listed.find_folder(
      folder, ('validation', 'Images/validation', 'images')
    )
    rows = []
    for i, item in enumerate(files.field(content, 'images', list, str(path))):
      where = f'{path}: images[{i}]'
      image_id = files.field(item, 'id', int, where)
      name = files.field(item, 'file_name', str, where)
      if image_id not in captions:
        raise ValueError(f'{where}: picture {image_id} has no caption')
      rows.append(
        (files.inside(pictures, name, where), image_id, captions[image_id])
      )
    return listed.Listing(path, self.caption_rows(rows))
