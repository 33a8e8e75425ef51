"""Attention by blocks beside all scores at once, at 224, 448 and 896 px.

  python -m benchmarks.attention

Runs both forms in turns on random numbers of paligemma-3b's heads: the
encoder's of a picture, and the decoder's over its tokens and a prompt of five.
Prints the median times of a call, that of blocks over that of all scores, and
the temporaries that the compiler plans.
"""

import functools
import statistics
import time
from typing import Any

from absl import app, flags
import jax
from jax import numpy as jnp

from collab_jax.evaluation.report import text
from collab_jax.models import attention, zoo

_REPEATS = flags.DEFINE_integer('repeats', 5, 'Timed calls of each form.')
_BATCH = flags.DEFINE_integer('batch', 1, 'Pictures at a time.')
_DTYPE = flags.DEFINE_enum(
  'dtype', 'float32', ['float32', 'bfloat16'], 'Dtype of products.'
)
_SIZES = flags.DEFINE_multi_integer('size', [224, 448, 896], 'Pixels.')

_PROMPT = 5


def all_scores(q, k, v):
  """Attends with all scores in memory; k and v have as many heads as q."""
  scores = jnp.einsum('bhte,bhse->bhts', q, k, preferred_element_type='float32')
  weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
  return jnp.einsum('bhts,bhse->bhte', weights, v)


def plain_full(q, k, v):
  """Attends as the encoder does."""
  q = (q * q.shape[-1] ** -0.5).astype(k.dtype)
  heads = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
  return jnp.swapaxes(all_scores(*heads), 1, 2)


def plain_grouped(q, k, v):
  """Attends as prefill does, to all keys."""
  k, v = (jnp.repeat(x, q.shape[2], axis=1) for x in (k.mT, v))
  return jnp.swapaxes(all_scores(jnp.swapaxes(q, 1, 2), k, v), 1, 2)


def cases(size: int) -> dict[str, tuple[Any, ...]]:
  """Returns for each tower both forms and their arguments."""
  config = zoo.card(f'paligemma-3b-pt-{size}').config
  vision, llm = config.vision, config.text
  n, b = vision.num_tokens, _BATCH.value

  def normal(*shape):
    x = jax.random.normal(jax.random.key(len(shape)), shape)
    return x.astype(_DTYPE.value)

  head = vision.width // vision.num_heads
  x = normal(b, n, vision.num_heads, head)
  t, e = n + _PROMPT, llm.head_dim
  q = normal(b, t, llm.num_heads, e) * e**-0.5
  k, v = normal(b, 1, e, t), normal(b, 1, t, e)
  mask = jnp.ones((b, 1, t), bool)
  grouped = functools.partial(attention.grouped, mask=mask, cap=None)
  return {
    'encoder': (plain_full, attention.full, x, x, x),
    'decoder': (plain_grouped, grouped, q, k, v),
  }


def measured(forms: list[Any], args: tuple[Any, ...]) -> list[list[float]]:
  """Returns for each form the seconds of a call and the bytes it needs."""
  compiled = [jax.jit(form).lower(*args).compile() for form in forms]
  seconds: list[list[float]] = [[] for _ in forms]
  for _ in range(1 + _REPEATS.value):
    for times, run in zip(seconds, compiled, strict=True):
      start = time.perf_counter()
      jax.block_until_ready(run(*args))
      times.append(time.perf_counter() - start)
  plans: list[Any] = [run.memory_analysis() for run in compiled]
  memory = [plan.temp_size_in_bytes for plan in plans]
  medians = [statistics.median(times[1:]) for times in seconds]
  return [list(pair) for pair in zip(medians, memory, strict=True)]


def main(argv):
  """Prints the table."""
  del argv
  names = ('all scores ms', 'blocks ms', 'ratio', 'all scores MB', 'blocks MB')
  lines = [['', *names]]
  for size in _SIZES.value:
    for tower, (plain, blocks, *args) in cases(size).items():
      (a, most), (b, least) = measured([plain, blocks], tuple(args))
      row = [f'{a * 1e3:.1f}', f'{b * 1e3:.1f}', f'{b / a:.2f}']
      row += [f'{most / 1e6:.0f}', f'{least / 1e6:.0f}']
      lines.append([f'{size} px, {tower}', *row])
  print(text.align(lines))


if __name__ == '__main__':
  app.run(main)
