"""Training examples of scenes with captions and questions."""

from collections.abc import Iterator, Sequence
import dataclasses
import re

import numpy as np

from collab_jax import data
from collab_jax.data import drawing, grammar, question, scene_questions, world
from collab_jax.models import tokenizer as tokenizer_lib
from collab_jax.training import batches, packing


def texts(scenes: int) -> Iterator[str]:
  """Yields captions, prompts and answers of the first training scenes.

  Without location tokens, which a vocabulary is not trained on.
  """
  for split in ('train', 'train_dense'):
    for index in range(scenes // 2):
      scene = world.sample(split, index)
      yield from grammar.captions(scene, world.generator(scene.seed, 2))
      for asked in scene_questions.questions(scene):
        yield asked.prompt
        yield re.sub(r'<loc\d{4}>', '', asked.references[0]).strip()


@dataclasses.dataclass(frozen=True)
class QuestionExamples:
  """Training examples by index, each a function of the index alone.

  An example is a scene with rows of texts from `packing.pack`. The first ones
  have one packed row of a caption and of questions; the others `rows` rows
  with one text each, a third of them captions, one with boxes, and questions
  of other kinds.

  Attributes:
    tokenizer: Tokenizer of all texts.
    prompt: Prompt of captions.
    image: Number of image tokens.
    first_scene: Number of the first example's scene.
    dense_share: Share of dense scenes.
    packed: Number of first examples with a packed row.
    packed_size: Tokens of a packed row, and of the answers in it.
    rows: Rows of a later example.
    row_size: Tokens of such a row, and of its answer.
    labels: Whether examples have the labels of patches, too.
  """

  tokenizer: tokenizer_lib.Tokenizer
  prompt: str
  image: int
  first_scene: int
  dense_share: float
  packed: int
  packed_size: tuple[int, int]
  rows: int
  row_size: tuple[int, int]
  labels: bool = False

  def __len__(self) -> int:
    return batches.EXAMPLES

  def __getitem__(self, index: int) -> batches.Batch:
    number = self.first_scene + index
    dense = batches.is_dense(number, self.dense_share)
    scene = data.scenes('train_dense' if dense else 'train').scene(number)
    image, covers = drawing.draw(scene)
    rows = self._packed(scene) if index < self.packed else self._single(scene)
    example = {'image': image, **packing.stack(rows)}
    return example | (drawing.labels(scene, covers) if self.labels else {})

  def _packed(self, scene: world.Scene) -> list[batches.Batch]:
    """Packs a caption and questions in random order into one row."""
    asked = _shuffled(scene_questions.questions(scene), scene)
    texts = [*self._captions(scene, 1), *self._texts(asked)]
    return [packing.pack(texts, self.image, *self.packed_size, True)]

  def _single(self, scene: world.Scene) -> list[batches.Batch]:
    """Makes rows of captions, of a question for boxes and of others."""
    asked = _shuffled(scene_questions.questions(scene), scene)
    boxes = [q for q in asked if q.kind == 'detect']
    others = [q for q in asked if q.kind != 'detect']
    captions = self._captions(scene, -(-self.rows // 3))
    texts = [*captions, *self._texts([*boxes[:1], *others, *boxes[1:]])]
    # As in a packed row, what does not fit is left out: boxes of many things.
    fitting = [text for text in texts if packing.fits(text, *self.row_size)]
    return [
      packing.pack([text], self.image, *self.row_size, False)
      for text in fitting[: self.rows]
    ]

  def _captions(self, scene: world.Scene, count: int) -> list[packing.Text]:
    captions = grammar.captions(scene, world.generator(scene.seed, 2), count)
    return [
      packing.tokenize(self.tokenizer, 'caption', self.prompt, caption)
      for caption in captions
    ]

  def _texts(self, asked: Sequence[question.Question]) -> list[packing.Text]:
    return [
      packing.tokenize(self.tokenizer, q.kind, q.prompt, q.references[0])
      for q in asked
    ]


def _shuffled(
  asked: Sequence[question.Question], scene: world.Scene
) -> list[question.Question]:
  """Returns questions in an order drawn for a scene."""
  order = np.random.default_rng(scene.seed).permutation(len(asked))
  return [asked[i] for i in order]
