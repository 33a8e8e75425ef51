r"""Measures what a server pays for long prompts, whether they come or not.

python -m benchmarks.prompt_lengths

Of each `--max_prompt`: programs that are compiled at the start and their time,
bytes of the decode slots (of released models from their dimensions), and the
time of a step of all slots. Without a compilation cache; the steps of all
lengths are timed in turn.
"""

import statistics
import time
from typing import Any, NamedTuple

from absl import app, flags
import jax

from benchmarks import flag_names
from collab_jax import checkpoints, launcher
from collab_jax.evaluation.report import text
from collab_jax.models import zoo
from collab_jax.serving.engine import decode_state
from collab_jax.serving.engine import engine as engines

_LENGTHS = flags.DEFINE_multi_integer(
  'lengths',
  [64, 128, 256, 512],
  'Longest prompt in tokens; may be given several times.',
  lower_bound=3,
)
_RELEASED = flags.DEFINE_string(
  'released', 'paligemma-3b-mix-224', 'Model whose slots are counted.'
)
_REPEATS = flags.DEFINE_integer('repeats', 20, 'Of each step.', lower_bound=1)


class Costs(NamedTuple):
  """Costs of a longest prompt.

  Attributes:
    length: The longest prompt in tokens.
    programs: Number of programs that are compiled at the start.
    seconds: Time of compiling them.
    bytes: Of all decode slots.
    released: Those of the released model, in bfloat16.
    step_ms: Milliseconds of a round of steps of all slots.
  """

  length: int
  programs: int
  seconds: float
  bytes: int
  released: int
  step_ms: float


def measure(lengths: list[int], released: str, repeats: int) -> list[Costs]:
  """Measures each length on the tiny model."""
  model = checkpoints.load('tiny')
  compiled: list[float] = []

  def listen(event: str, duration_secs: float, **unused: Any) -> None:
    del unused
    if event == '/jax/core/compile/backend_compile_duration':
      compiled.append(duration_secs)

  jax.monitoring.register_event_duration_secs_listener(listen)
  started = []
  for length in lengths:
    config = engines.EngineConfig(max_prompt=length)
    engine = engines.Engine(model, config)
    compiled.clear()
    for compile_program in engine.warm_up():
      compile_program()
    started.append((engine, len(compiled), sum(compiled)))
  times: list[list[float]] = [[] for _ in lengths]
  for _ in range(repeats):
    for (engine, *_), spent in zip(started, times, strict=True):
      start = time.perf_counter()
      engine.run_step('decode', engine.max_slots, 0)
      spent.append(1000 * (time.perf_counter() - start))
  return [
    Costs(
      engine.config.max_prompt,
      programs,
      seconds,
      engine.state_bytes,
      _slot_bytes(released, engine.config),
      statistics.median(spent),
    )
    for (engine, programs, seconds), spent in zip(started, times, strict=True)
  ]


def _slot_bytes(name: str, config: engines.EngineConfig) -> int:
  """Returns the bytes of a released model's decode slots."""
  dimensions = zoo.card(name).config
  tokens = dimensions.vision.num_tokens + config.max_prompt + config.max_tokens
  shapes = jax.eval_shape(
    lambda: decode_state.empty(
      dimensions.text, config.max_slots, tokens, 'bfloat16'
    )
  )
  leaves = jax.tree.leaves(shapes)
  return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def main(argv):
  """Measures, and prints a table."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  flag_names.choices('released', [_RELEASED.value], zoo.NAMES)
  jax.config.update('jax_enable_compilation_cache', False)
  head = ['max_prompt', 'programs', 'compiling, s', 'slots, MB']
  lines = [[*head, f'of {_RELEASED.value}, MB', 'steps, ms']]
  for row in measure(_LENGTHS.value, _RELEASED.value, _REPEATS.value):
    lines.append(
      [
        f'{row.length}',
        f'{row.programs}',
        f'{row.seconds:.1f}',
        f'{row.bytes / 1e6:.1f}',
        f'{row.released / 1e6:.0f}',
        f'{row.step_ms:.1f}',
      ]
    )
  print(text.align(lines, left=0))


if __name__ == '__main__':
  launcher.start(main)
