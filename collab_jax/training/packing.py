"""Packing of texts about one picture, and their scores.

A row is a picture and a text, as PaliGemma reads them: the picture sees the
prompt. A packed row is a picture and many texts that do not see each other,
and the picture sees none of them: about as much work for a dozen questions as
for one, and not the model that is asked later, so that training ends with
single texts.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
from jax import numpy as jnp
from jaxtyping import Array, Float
import numpy as np
import optax

from collab_jax.data import scene_questions
from collab_jax.models import attention, gemma, paligemma
from collab_jax.models import tokenizer as tokenizer_lib
from collab_jax.training import batches

# Arrays of a row, see `pack`.
NAMES = (
  'tokens',
  'positions',
  'block',
  'segment',
  'valid',
  'outputs',
  'target',
  'kind',
)
# Kinds of texts, by number in a batch.
KINDS = ('caption', *scene_questions.KINDS)


class Text(NamedTuple):
  """Prompt and answer of a kind, as token ids; the answer ends with eos."""

  kind: int
  prompt: list[int]
  answer: list[int]


def tokenize(
  tokenizer: tokenizer_lib.Tokenizer, kind: str, prompt: str, answer: str
) -> Text:
  """Makes a text; the newline that ends a prompt is added."""
  suffix = [*tokenizer.encode(answer), tokenizer.eos_id]
  return Text(KINDS.index(kind), tokenizer.prompt(prompt), suffix)


def fits(text: Text, length: int, targets: int) -> bool:
  """Tells whether a row of so many tokens, and of answers', has room."""
  size = len(text.prompt) + len(text.answer)
  return size <= length and len(text.answer) <= targets


def pack(
  texts: Iterable[Text], image: int, length: int, targets: int, packed: bool
) -> batches.Batch:
  """Packs texts into a row, as many as there is room for.

  Args:
    texts: Texts in the order of their importance; what does not fit is left
      out.
    image: Number of image tokens before the texts.
    length: T, tokens of the row.
    targets: t, answers' tokens of the row.
    packed: Whether the texts are hidden from the picture.

  Returns:
    Arrays i32[T] of 'tokens', 'positions', 'block', 'segment' and 'valid', as
    `attention.PrefixLMMask` has them, and i32[t] of 'outputs', the elements
    that predict 'target', tokens of 'kind', -1 where there is none.

  Raises:
    ValueError: The first text does not fit.
  """
  row = {name: np.zeros(length, np.int32) for name in NAMES[:5]}
  ends = {name: np.zeros(targets, np.int32) for name in NAMES[5:7]}
  ends['kind'] = np.full(targets, -1, np.int32)
  used = answered = segment = 0
  for text in texts:
    ids, size = text.prompt + text.answer, len(text.answer)
    if not fits(text, length - used, targets - answered):
      if not used:
        raise ValueError(
          f'length and targets: got {length} and {targets}, expected at least'
          f' {len(ids)} and {size}'
        )
      continue
    segment += 1
    at, to = slice(used, used + len(ids)), slice(answered, answered + size)
    row['tokens'][at] = ids
    row['positions'][at] = image + np.arange(len(ids))
    row['block'][at] = np.maximum(np.arange(len(ids)) - len(text.prompt) + 1, 0)
    row['segment'][at] = segment if packed else 0
    row['valid'][at] = 1
    first = image + used + len(text.prompt) - 1
    ends['outputs'][to] = first + np.arange(size)
    ends['target'][to] = text.answer
    ends['kind'][to] = text.kind
    used, answered = used + len(ids), answered + size
    if not packed:
      break
  return row | ends


def stack(rows: Sequence[batches.Batch]) -> batches.Batch:
  """Stacks the rows of a picture on a new first axis."""
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def logits(
  model: paligemma.Model,
  image: Float[Array, 'R N M'],
  rows: dict[str, jax.Array],
) -> Float[Array, 'R t V']:
  """Scores the answers' tokens, without the soft-cap.

  Args:
    model: The model, of which only `llm` is used.
    image: Projected features of each row's picture.
    rows: From `pack`, stacked.
  """
  config, llm = model.config.text, model.params['llm']
  count, n, _ = image.shape
  zeros = jnp.zeros((count, n), jnp.int32)
  places = jnp.broadcast_to(jnp.arange(n, dtype=jnp.int32), (count, n))

  def joined(first, name):
    return jnp.concatenate([first, rows[name]], 1)

  positions = joined(places, 'positions')
  mask = attention.PrefixLMMask(
    joined(zeros + 1, 'valid') > 0,
    joined(zeros, 'block'),
    positions,
    segment=joined(zeros, 'segment'),
  )
  x = jnp.concatenate([image, gemma.embed(llm, rows['tokens'])], 1)
  x = gemma.forward(config, llm, x, positions, mask, rows['outputs'])
  return gemma.unembed(config, llm, x, False)


def losses(
  scores: Float[Array, 'R t V'],
  rows: dict[str, jax.Array],
  weights: Sequence[float],
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """Computes the weighted cross-entropy, and that of each kind.

  Args:
    scores: From `logits`.
    rows: From `pack`, stacked.
    weights: Weight of a token of each of `KINDS`.

  Returns:
    The weighted mean over all tokens, and the mean over those of each kind, 0
    where there is none, in nats.
  """
  loss = optax.softmax_cross_entropy_with_integer_labels(scores, rows['target'])
  member = jax.nn.one_hot(rows['kind'], len(KINDS))
  sums = jnp.einsum('rt,rtk->k', loss, member)
  counts = member.sum((0, 1))
  by_kind = sums / jnp.maximum(counts, 1)
  weight = jnp.asarray(weights)
  total = (weight * sums).sum() / (weight * counts).sum()
  return total, dict(zip(KINDS, by_kind, strict=True))
