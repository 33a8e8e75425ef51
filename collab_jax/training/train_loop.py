"""The folder of a run: its settings, its metrics, and going on after a kill."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
import contextlib
import json
import pathlib
from typing import Any, TypeVar

from absl import logging
import jax
import numpy as np
import orbax.checkpoint as ocp
import tqdm

from collab_jax import jsonl

State = TypeVar('State', bound=Any)

# What a folder holds whose config.json was there before it.
_MADE = ('checkpoints', 'model', 'book.safetensors')


def check_every(config: Any, *names: str) -> None:
  """Refuses what would make other metrics after a kill than without one.

  Args:
    config: With `log_every`, `save_every` and `eval_every`, in steps.
    names: Fields at whose step other losses begin.

  Raises:
    ValueError: One is below 1, or none of a mean's ends.
  """
  for name in ('log_every', 'save_every', 'eval_every'):
    if config[name] < 1:
      raise ValueError(f'{name}: got {config[name]}, expected at least 1')
  # Each mean is over the steps since the last one, of the same losses.
  for name in ('save_every', *names):
    if config[name] % config.log_every:
      raise ValueError(
        f'{name}: got {config[name]}, expected a multiple of log_every,'
        f' {config.log_every}'
      )


def open_run(
  config: Any, workdir: pathlib.Path, free: Collection[str] = ()
) -> None:
  """Makes a run's folder, or checks that it is the run's.

  Args:
    config: Its settings.
    workdir: The folder; gets config.json.
    free: Fields that may differ: what was computed does not depend on them.

  Raises:
    ValueError: It belongs to a run with other settings.
  """
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / 'config.json'
  settings = json.loads(json.dumps(config.to_dict()))
  if not path.exists():
    made = [name for name in _MADE if (workdir / name).exists()]
    if made:
      raise ValueError(
        f'{workdir} holds {made[0]}, but {path.name}, which tells how it was'
        ' made, is missing; take another --workdir'
      )
    jsonl.write_json(path, settings)
    return
  try:
    before = dict(json.loads(path.read_text()))
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'{path} holds no settings ({error}); take another --workdir or remove'
      ' the old one'
    ) from error
  names = [*settings, *(n for n in before if n not in settings)]
  changed = [n for n in names if before.get(n) != settings.get(n)]
  for name in changed:
    if name not in free:
      raise ValueError(
        f'{workdir} holds a run with other settings ({name}: got'
        f' {settings.get(name)}, expected {before.get(name)}); take another'
        ' --workdir or remove the old one'
      )
  if changed:
    jsonl.write_json(path, settings)


def goes_on(workdir: pathlib.Path) -> bool:
  """Whether `run` would go on from a checkpoint, and not begin."""
  path = workdir / 'checkpoints'
  if not path.exists():
    return False
  with _quiet(), _manager(path) as saved:
    return saved.latest_step() is not None


def run(
  config: Any,
  workdir: pathlib.Path,
  state: State,
  take: Callable[[State, int, Any], tuple[State, Mapping[str, jax.Array]]],
  stream: Callable[[int], Iterator[Any]],
  evaluate: Callable[[State, int], Sequence[Mapping[str, float]]],
) -> State:
  """Takes the steps that are left, from the last checkpoint if there is one.

  Args:
    config: With `steps`, `log_every` and `save_every`.
    workdir: Gets checkpoints/ and metrics.jsonl.
    state: Before the first step; has a field `step`.
    take: (state, steps done, batch) to the state after, and its losses.
    stream: Number of the first batch to an iterator from there.
    evaluate: (state, steps done) to scores; none where it is not their turn.

  Returns:
    The state after the last.
  """
  with _quiet(), _manager(workdir / 'checkpoints') as saved:
    if saved.latest_step() is not None:
      state = saved.restore(
        saved.latest_step(), args=ocp.args.StandardRestore(state)
      )
      tqdm.tqdm.write(f'goes on from step {int(state.step)}')
    first = int(state.step)
    batches, window = stream(first), []
    bar = tqdm.tqdm(
      range(first, config.steps), initial=first, total=config.steps, unit='step'
    )
    with _open_log(workdir / 'metrics.jsonl', first) as log:
      for done in bar:
        state, losses = take(state, done, next(batches))
        window.append(losses)
        now = done + 1
        if now % config.log_every == 0 or now == config.steps:
          means = _means(jax.device_get(window))
          log.append({'step': now, **means})
          bar.set_postfix(dict(list(means.items())[-2:]))
          window = []
        for scores in evaluate(state, now):
          log.append({'step': now, **scores})
          tqdm.tqdm.write(f'step {now}: {scores}')
        if now % config.save_every == 0 or now == config.steps:
          saved.save(now, args=ocp.args.StandardSave(state))
  return state


def _manager(path):
  options = ocp.CheckpointManagerOptions(
    max_to_keep=2, enable_async_checkpointing=False
  )
  return ocp.CheckpointManager(path, options=options)


@contextlib.contextmanager
def _quiet():
  """Leaves out what Orbax logs: many lines for each checkpoint."""
  before = logging.get_verbosity()
  logging.set_verbosity(min(before, logging.WARNING))
  try:
    yield
  finally:
    logging.set_verbosity(before)


def _means(window):
  """The mean of each loss over the steps that have it."""
  names = dict.fromkeys(name for losses in window for name in losses)
  return {
    name: round(float(np.mean([w[name] for w in window if name in w])), 4)
    for name in names
  }


def _open_log(path: pathlib.Path, step: int) -> jsonl.JsonlWriter[Any]:
  """Opens metrics.jsonl and drops entries of steps that are taken again."""
  if path.exists():
    lines, _ = jsonl.split_lines(path.read_bytes())
    kept = [line + b'\n' for line in lines if json.loads(line)['step'] <= step]
    jsonl.write_atomically(path, b''.join(kept))
  return jsonl.JsonlWriter(path)
