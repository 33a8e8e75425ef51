"""Texts of a batch: a caption for each picture, or an answer to each question.

A picture is encoded and sent once, however many questions there are about it:
each question's row of the decoder takes a copy of the picture's prefix, and a
prompt of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
import zlib

import jax
from jax import numpy as jnp
from jaxtyping import Array
import numpy as np

from collab_jax import captioner as captioning
from collab_jax import distributed, sharding
from collab_jax.data import question

# Prompts are padded to a multiple of so many tokens: few programs are compiled.
_PROMPT_STEP = 16
# Chunks of rows that a device has to do before the next one is dispatched, as
# each holds a copy of its pictures' prefixes.
_AHEAD = 4


class AskedPicture(NamedTuple):
  """Picture of a batch with the questions about it.

  Attributes:
    row: its row in the prefix, of all processes.
    image_id: id of the picture.
    questions: the questions.
  """

  row: int
  image_id: int
  questions: Sequence[question.Question]


class Chunk(NamedTuple):
  """Rows that are decoded at a time, on the device.

  Attributes:
    ids: token ids, the last rows perhaps of padding.
    places: picture among those asked about, and number of the question, of
      each row without the padding.
  """

  ids: Array
  places: Sequence[tuple[int, int]]


# Stands in rows of a process that has fewer questions than another one.
_NOBODY = [(0, 0, AskedPicture(0, 0, ()), question.Question('', ('',)))]


def dispatch_captions(
  captioner: captioning.Captioner,
  prefix: Any,
  seed: int,
  image_ids: Sequence[int],
) -> list[Chunk]:
  """Dispatches a caption of each picture, by the captioner's prompt.

  Args:
    captioner: writes the captions.
    prefix: prefixes of the pictures.
    seed: seed of the captions, where the decoding draws.
    image_ids: one for each row of the prefix.
  """
  keys = captioner.keys(seed, image_ids)
  ids = captioner.generate(prefix, key=keys)
  return [Chunk(ids, [(row, 0) for row in range(len(image_ids))])]


def dispatch_answers(
  captioner: captioning.Captioner,
  prefix: Any,
  seed: int,
  pictures: Sequence[AskedPicture],
  size: int,
) -> list[Chunk]:
  """Dispatches an answer to each question about some pictures.

  Args:
    captioner: writes the answers.
    prefix: prefixes of pictures.
    seed: seed of the answers, where the decoding draws.
    pictures: the pictures, each with the row of its prefix; of several
      processes those of this one.
    size: rows of a chunk, likewise.

  Returns:
    The chunks, none if nothing is asked.
  """
  asked = [
    (place, number, picture, each)
    for place, picture in enumerate(pictures)
    for number, each in enumerate(picture.questions)
  ]
  lengths = prompt_lengths(captioner, [each.prompt for *_, each in asked])
  by_length: dict[int, list[Any]] = {}
  for row in asked:
    by_length.setdefault(lengths[row[3].prompt], []).append(row)
  chunks: list[Chunk] = []
  params = captioner.model.params
  prefix = sharding.settle(prefix, params)
  for length, count in _chunk_counts(by_length, size, params):
    rows = by_length.get(length, [])
    for start in range(0, count * size, size):
      if len(chunks) >= _AHEAD:
        jax.block_until_ready(chunks[-_AHEAD].ids)
      part = rows[start : start + size]
      padded = part + (part or _NOBODY)[-1:] * (size - len(part))
      keys = _keys(captioner, seed, padded)
      index = np.array([picture.row for _, _, picture, _ in padded])
      index = sharding.settle(index, params)
      ids = captioner.generate(
        _take(prefix, index), [each.prompt for *_, each in padded], keys, length
      )
      chunks.append(Chunk(ids, [row[:2] for row in part]))
  return chunks


def _chunk_counts(
  by_length: Mapping[int, Sequence[Any]], size: int, params: Any
) -> list[tuple[int, int]]:
  """Returns lengths of prompts, and the number of chunks of each.

  Processes of one model run the same programs: the one with the most questions
  of a length decides.
  """
  counts = [[n, -(-len(rows) // size)] for n, rows in by_length.items()]
  if sharding.spans_processes(sharding.mesh_of(params)):
    counts = [each for part in distributed.gather(counts) for each in part]
  most: dict[int, int] = {}
  for length, count in counts:
    most[length] = max(count, most.get(length, 0))
  return sorted(most.items())


def prompt_lengths(
  captioner: captioning.Captioner, prompts: Sequence[str]
) -> dict[str, int]:
  """Returns the length to which each prompt is padded, in tokens."""
  counts = {p: captioner.tokenize([p])[0].shape[1] for p in {*prompts}}
  return {p: -(-n // _PROMPT_STEP) * _PROMPT_STEP for p, n in counts.items()}


def fetch(
  captioner: captioning.Captioner,
  chunks: Sequence[Chunk],
  counts: Sequence[int],
) -> list[list[str]]:
  """Waits for texts; returns those of each picture.

  Args:
    captioner: the captioner.
    chunks: chunks that were dispatched.
    counts: number of texts of each picture.
  """
  texts = [[''] * count for count in counts]
  for chunk in chunks:
    rows = captioner.detokenize(chunk.ids)
    # The rows behind are padding.
    for (place, number), text in zip(chunk.places, rows, strict=False):
      if place < len(texts):
        texts[place][number] = text
  return texts


@jax.jit
def _take(prefix, index):
  return jax.tree.map(lambda part: jnp.take(part, index, axis=0), prefix)


@jax.jit
def _fold(keys, numbers):
  return jax.vmap(jax.random.fold_in)(keys, numbers)


def _keys(captioner, seed, rows) -> jax.Array | None:
  """Returns a key for each question, which does not depend on the others."""
  keys = captioner.keys(seed, [picture.image_id for _, _, picture, _ in rows])
  if keys is None:
    return None
  numbers = [zlib.crc32(each.id.encode()) for *_, each in rows]
  return _fold(keys, np.array(numbers, np.uint32))
