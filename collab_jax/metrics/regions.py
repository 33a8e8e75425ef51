"""Overlap of regions in answers with those of references."""

from collections.abc import Sequence
import dataclasses
import functools
from typing import ClassVar

from collab_jax import _validate, boxes, masks, regions
from collab_jax.metrics import base

_MOST_CACHED = 256  # Masks of pictures, a third of a megabyte each.


@dataclasses.dataclass(frozen=True)
class BoxIou(base.AnswerMetric):
  """Mean overlap of an answer's first box with the reference's.

    BoxIou().score(['<loc0000><loc0000><loc0511><loc1023>'],
                   [['<loc0000><loc0000><loc1023><loc1023>']])

  The intersection over the union, of the best reference; 0 without a box.
  Texts are of `regions`: of a model or of a dataset.

  Source: pycocotools' boxes, equal on tests/golden/regions.json; big_vision's
  `transfers/segmentation.py` takes the first box, too.
  """

  label: ClassVar[str] = 'box IoU'

  def score_answer(self, answer: str, references: Sequence[str]) -> float:
    """Computes the overlap of an answer's first box, 0 to 1."""
    return _box_iou(answer, references)


@dataclasses.dataclass(frozen=True)
class BoxAccuracy(base.AnswerMetric):
  """Share of first boxes that overlap enough with the reference's.

    BoxAccuracy(iou=0.75)

  Attributes:
    iou: least intersection over union of a right box, 0 to 1.

  Source: as of `BoxIou`.
  """

  iou: float = 0.5

  def __post_init__(self):
    _validate.number('iou', self.iou, 0, 1)

  @property
  def label(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
    """Name with the threshold."""
    return f'boxes at IoU {self.iou:g}'

  def score_answer(self, answer: str, references: Sequence[str]) -> float:
    """Returns 1 for an answer whose first box is right, else 0."""
    return float(_box_iou(answer, references) >= self.iou)


@dataclasses.dataclass(frozen=True)
class BoxMatches(base.AnswerMetric):
  """Share of boxes that lie where they should, of answers with several.

    BoxMatches().score(['<loc0000><loc0000><loc1023><loc1023> ring'],
                       [['<loc0000><loc0000><loc1000><loc1023> ring']])

  Pairs of boxes are taken by their overlap, each box once; the pairs are
  divided by the larger number of boxes. A reference is one answer's text, with
  all boxes.

  Attributes:
    iou: least intersection over union of a pair, 0 to 1.
  """

  iou: float = 0.5

  def __post_init__(self):
    _validate.number('iou', self.iou, 0, 1)

  @property
  def label(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
    """Name with the threshold."""
    return f'matched boxes at IoU {self.iou:g}'

  def score_answer(self, answer: str, references: Sequence[str]) -> float:
    """Computes the share of an answer's boxes, of the best reference."""
    return max(self._matched(answer, ref) for ref in references)

  def _matched(self, answer: str, reference: str) -> float:
    got, expected = (
      [region.box for region in regions.read(text)]
      for text in (answer, reference)
    )
    return boxes.matched(got, expected, self.iou)


@dataclasses.dataclass(frozen=True)
class MaskIou(base.AnswerMetric):
  """Mean overlap of an answer's mask with the reference's, at full size.

    MaskIou().score([mask_text], [[reference_text]])

  The intersection over the union of the pixels; 0 where the answer has no
  mask. Texts are of `regions`, with masks: `tasks.RefCoco.read` makes the
  answer's from a model's codes.

  Source: pycocotools' masks, equal on tests/golden/regions.json.
  """

  label: ClassVar[str] = 'mask IoU'

  def score_answer(self, answer: str, references: Sequence[str]) -> float:
    """Computes the overlap of an answer's mask, 0 to 1."""
    got = _masks(answer)
    if not got:
      return 0.0
    overlaps = [
      masks.iou(got[0], mask)
      for ref in references
      for mask in _masks(ref)
      if mask.shape == got[0].shape
    ]
    return max(overlaps, default=0.0)


def _box_iou(answer: str, references: Sequence[str]) -> float:
  got = regions.read(answer)
  if not got:
    return 0.0
  expected = [region for ref in references for region in regions.read(ref)]
  return regions.best_iou(got[0].box, expected)


@functools.lru_cache(maxsize=_MOST_CACHED)
def _masks(text: str) -> tuple[masks.Mask, ...]:
  """Returns the masks in a text.

  Cached: a sweep compares many answers with the same reference.
  """
  return tuple(
    masks.decode(region.mask)
    for region in regions.read(text)
    if region.mask is not None
  )
