"""Training loop that resumes from checkpoints, and the folder of a run."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
import contextlib
import hashlib
import json
import logging as std_logging
import pathlib
from typing import Any, TypeVar

from absl import logging
import jax
import numpy as np
import orbax.checkpoint as ocp
import tqdm

from collab_jax import (
  _precision,
  checkpoints,
  distributed,
  jsonl,
  monitoring,
  quantizers,
  sharding,
)
from collab_jax.checkpoints import checksums, trees
from collab_jax.data import pictures, pixels
from collab_jax.models import paligemma

State = TypeVar('State', bound=Any)

# Settings that runs of earlier versions lack, and values that change nothing.
_ADDED = {
  'compute_dtype': ('', 'float32'),
  'precision': ('default',),
  'data': ('scenes',),
  'data_dir': ('',),
  'data_split': ('train',),
  'eval_split': ('val',),
  'preprocess': ('hf_bicubic',),
  'limit': (0,),
  'remat': (False,),
}

# Name that Orbax gives to what a checkpoint holds.
_ITEM = 'default'

# File beside config.json with fingerprints of what a run depends on; fields of
# the config that name or place those things.
_FINGERPRINTS = 'fingerprints.json'
_NAMED = {
  'weights': ('model', 'model_path'),
  'tokenizer': ('tokenizer',),
  'data': ('data_dir',),
}

# Pictures of a large dataset that are read for its fingerprint.
_SAMPLED = 256

# Files of a run, which are written after its config.json.
_OUTPUTS = ('checkpoints', 'model', 'book.safetensors')


def check_intervals(config: Any, *names: str) -> None:
  """Checks that metrics after a resume equal those of an unbroken run.

  Args:
    config: With `log_every`, `save_every` and `eval_every`, in steps.
    names: Fields that hold steps from which other losses count.

  Raises:
    ValueError: An interval is below 1, or no multiple of log_every.
  """
  for name in ('log_every', 'save_every', 'eval_every'):
    if config[name] < 1:
      raise ValueError(f'{name}: got {config[name]}, expected at least 1')
  # A mean covers the steps since the last one, which must have equal losses.
  for name in ('save_every', *names):
    if config[name] % config.log_every:
      raise ValueError(
        f'{name}: got {config[name]}, expected a multiple of log_every,'
        f' {config.log_every}'
      )


def dependencies(
  model: paligemma.Model | None = None,
  quantizer_names: Sequence[str] = (),
  reader: Any = None,
) -> dict[str, Any]:
  """Returns fingerprints of what a run depends on beside its settings.

  Args:
    model: The model to start from.
    quantizer_names: Quantizers whose files of parameters are read.
    reader: Examples that are read from files.

  Returns:
    Plain values by name, for `open_run`.
  """
  names = dict.fromkeys(
    book
    for name in quantizer_names
    for book in quantizers.pretrained.check_coordinates(quantizers.make(name))
    if book != quantizers.pretrained.RANDOM
  )
  values = _precision.describe(model.compute_dtype if model else '')
  # The platform is free, as the number of devices: only sums differ.
  values.pop('platform', None)
  if model is None:
    del values['compute_dtype']
  else:
    values['weights'] = checksums.sampled(model.params)
    values['contents'] = checksums.whole(model.params)
    values['tokenizer'] = getattr(model.tokenizer, 'fingerprint', '')
  if names:
    books = {n: quantizers.pretrained.load(n).fingerprint for n in names}
    values['books'] = sorted(books.values())
    values['book_names'] = books
  if reader is not None:
    values['data'] = _content(reader)
  return values


def dataset_fingerprint(reader: Any) -> str:
  """Returns a fingerprint of all captions of a list, and of some pictures.

  Args:
    reader: A reader of any size.
  """
  digest = hashlib.sha256(f'{len(reader)}'.encode())
  for entry in getattr(reader, 'entries', ()):
    digest.update(repr((entry.image_id, entry.captions)).encode())
  step = max(1, len(reader) // _SAMPLED)
  digest.update(_content(reader, step).encode())
  return digest.hexdigest()[:16]


def codebook_dependencies(
  config: Any, model: paligemma.Model, reader: Any
) -> dict[str, Any]:
  """Returns fingerprints of what quantizer parameters are trained on.

  Args:
    config: From configs/codebook.py.
    model: The model.
    reader: The pictures.
  """
  names = [*config.sent, *([config.transform] if config.transform else [])]
  generated = config.data == 'scenes'
  return dependencies(model, names, None if generated else reader)


def _content(reader: Any, step: int = 1) -> str:
  """Returns a fingerprint of every step-th picture, with its captions."""
  digest = hashlib.sha256()
  for i in range(0, len(reader), step):
    try:
      example = reader[i]
    except pictures.PictureError:  # Training leaves it out.
      continue
    picture = pixels.fingerprint(example.image)
    told = picture, example.image_id, [*example.captions]
    digest.update(repr(told).encode())
  return digest.hexdigest()[:16]


def open_run(
  config: Any,
  workdir: pathlib.Path,
  free: Collection[str] = (),
  depends_on: Mapping[str, Any] | None = None,
) -> None:
  """Makes the folder of a run, or checks that an old one is of this run.

  Args:
    config: Settings of the run.
    workdir: The folder; gets config.json.
    free: Fields that may differ, since no result depends on them.
    depends_on: From `dependencies`; goes into fingerprints.json. Where that is
      known of an earlier run, names and places of its model decide nothing.

  Raises:
    ValueError: The folder belongs to a run with other settings.
  """
  distributed.first_does(_open_run, config, workdir, free, depends_on)
  _check_shared(workdir)


def _check_shared(workdir: pathlib.Path) -> None:
  """Refuses a folder of a training that not all processes see."""
  seen = distributed.gather((workdir / 'config.json').exists())
  if not all(seen):
    raise ValueError(
      f'workdir: process {seen.index(False)} does not see {workdir} of process'
      ' 0, expected a folder that all processes share; checkpoints are written'
      ' by all of them'
    )


def _open_run(
  config: Any,
  workdir: pathlib.Path,
  free: Collection[str],
  depends_on: Mapping[str, Any] | None,
) -> None:
  """Makes or checks the folder of a run; see `open_run`."""
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / 'config.json'
  settings = json.loads(json.dumps(config.to_dict()))
  if not path.exists():
    outputs = [name for name in _OUTPUTS if (workdir / name).exists()]
    if outputs:
      raise ValueError(
        f'{workdir} holds {outputs[0]}, but {path.name}, which tells how it was'
        ' made, is missing; take another --workdir'
      )
    if depends_on is not None:
      jsonl.write_json(workdir / _FINGERPRINTS, depends_on)
    jsonl.write_json(path, settings)
    return
  before = jsonl.read_settings(path)
  for name, values in _ADDED.items():
    if settings.get(name) in values:
      before.setdefault(name, settings[name])
  names = [*settings, *(n for n in before if n not in settings)]
  changed = [n for n in names if before.get(n) != settings.get(n)]
  known = _fingerprints(workdir) if depends_on else {}
  free = {*free, *(n for f in known for n in _NAMED.get(f, ()))}
  current = json.loads(json.dumps(depends_on or {}))
  old_books, books = (d.get('book_names', {}) for d in (known, current))
  differences = [
    f'{name}: got {settings.get(name)}, expected {before.get(name)}'
    for name in changed
    if name not in free
    and (
      _by_content(settings.get(name), books)
      != _by_content(before.get(name), old_books)
    )
  ]
  differences += [
    f'{name}: got {current.get(name)}, expected {value}'
    for name, value in known.items()
    if name != 'book_names'
    and current.get(name) != value
    # Other weights have other contents, too: one of the two is enough to say.
    and (name != 'contents' or current.get('weights') == known.get('weights'))
  ]
  if differences:
    raise ValueError(
      f'{workdir} holds a run with other settings ({"; ".join(differences)});'
      ' take another --workdir or remove the old one'
    )
  # Runs of earlier versions have no fingerprints; they get today's.
  if depends_on and (not known or changed):
    jsonl.write_json(workdir / _FINGERPRINTS, current)
  if changed:
    jsonl.write_json(path, settings)


def _by_content(value: Any, books: Mapping[str, str]) -> Any:
  """Puts fingerprints in the place of files of parameters in texts."""
  if isinstance(value, dict):
    return {name: _by_content(inner, books) for name, inner in value.items()}
  if isinstance(value, list):
    return [_by_content(inner, books) for inner in value]
  if isinstance(value, str):
    for name in sorted(books, key=len, reverse=True):
      value = value.replace(f'book={name}', f'book={books[name]}')
  return value


def _fingerprints(workdir: pathlib.Path) -> dict[str, Any]:
  """Reads the fingerprints of a run; empty for one of an earlier version."""
  path = workdir / _FINGERPRINTS
  return jsonl.read_settings(path) if path.exists() else {}


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps other runs out of a folder; of several processes one holds it."""
  with contextlib.ExitStack() as stack:
    if distributed.is_first():
      stack.enter_context(jsonl.locked(workdir))
    yield


def save_model(
  folder: pathlib.Path, params: Any, description: dict[str, Any], tokenizer: Any
) -> None:
  """Writes a trained model as `checkpoints.save` does; the first process."""
  whole = sharding.gather_tree(params)
  if distributed.is_first():
    checkpoints.save(folder, whole, description, tokenizer)
  distributed.wait()


def has_checkpoint(workdir: pathlib.Path) -> bool:
  """Returns whether `run` would resume from a checkpoint."""
  path = workdir / 'checkpoints'
  # Process 0 may make the folder while others still look for it, and a manager
  # waits for those of all processes.
  if not distributed.broadcast(path.exists()):
    return False
  with _quiet_orbax(), _manager(path) as manager:
    return distributed.broadcast(manager.latest_step() is not None)


def run(
  config: Any,
  workdir: pathlib.Path,
  state: State,
  step_fn: Callable[[State, int, Any], tuple[State, Mapping[str, jax.Array]]],
  stream: Callable[[int], Iterator[Any]],
  evaluate: Callable[[State, int], Sequence[Mapping[str, float]]],
) -> State:
  """Takes the remaining steps, from the last checkpoint if there is one.

  Args:
    config: With `steps`, `log_every` and `save_every`.
    workdir: Gets checkpoints/ and metrics.jsonl.
    state: State before the first step; has a field `step`.
    step_fn: Maps (state, steps done, batch) to the next state and its losses.
    stream: Maps the number of a batch to an iterator from there.
    evaluate: Maps (state, steps done) to scores; empty where none are due.

  Returns:
    The state after the last step.

  Raises:
    CheckpointError: There are checkpoints, and none can be read.
    ValueError: A line of metrics.jsonl is none of a run.
  """
  with _quiet_orbax(), _manager(workdir / 'checkpoints') as manager:
    state = _restore(manager, workdir, state)
    first = int(state.step)
    batches, recent = stream(first), []
    is_first = distributed.is_first()
    bar = tqdm.tqdm(
      range(first, config.steps),
      initial=first,
      total=config.steps,
      unit='step',
      disable=not is_first,
    )
    with _open_log(workdir / 'metrics.jsonl', first, is_first) as log:
      for step in bar:
        batch, left = next(batches), config.steps - step
        state, losses = monitoring.run_step(
          step, left, step_fn, state, step, batch
        )
        recent.append(losses)
        steps_done = step + 1
        last = steps_done == config.steps
        if last or steps_done % config.log_every == 0:
          means = _means(jax.device_get(recent))
          log.append({'step': steps_done, **_finite(means)})
          _monitor(steps_done, 'loss', means)
          bar.set_postfix(dict(list(means.items())[-2:]))
          recent = []
        for scores in evaluate(state, steps_done):
          log.append({'step': steps_done, **_finite(scores)})
          _monitor(steps_done, 'score', scores)
          _say(f'step {steps_done}: {scores}')
        if last or steps_done % config.save_every == 0:
          manager.save(steps_done, args=ocp.args.StandardSave(state))
  return state


def _say(text: str) -> None:
  """Writes a line above the progress bar; of several processes the first."""
  if distributed.is_first():
    tqdm.tqdm.write(text)


def _restore(
  manager: ocp.CheckpointManager, workdir: pathlib.Path, state: State
) -> State:
  """Returns the state of the newest checkpoint that can be read.

  Newer ones, which a full disk or a power cut damaged, are moved out of the
  way, since their steps are taken and saved again.
  """
  # Not by the manager, which takes its idea of all from the newest; nor by a
  # checkpointer, which waits for processes that have failed to read.
  handler = ocp.StandardCheckpointHandler()
  folder = workdir / 'checkpoints'
  damaged: list[int] = []
  # A shared folder may show a checkpoint to one process before another.
  steps = distributed.broadcast(sorted(manager.all_steps(), reverse=True))
  for step in steps:
    restored, reason = None, ''
    try:
      restored = handler.restore(
        manager.directory / str(step) / _ITEM,
        args=ocp.args.StandardRestore(state),
      )
    except MemoryError:
      raise
    # Whatever a library raises on a damaged file, the file is damaged.
    except Exception as error:
      first_line = (str(error).splitlines() or [''])[0][:200]
      reason = f'{type(error).__name__}: {first_line}'
    # What one process cannot read, none takes.
    reason = next(filter(None, distributed.gather(reason)), '')
    if reason or restored is None:
      _say(f'{folder / str(step)} cannot be read ({reason})')
      damaged.append(step)
      # The library's tasks tell of it again, whenever they are collected.
      std_logging.getLogger('asyncio').setLevel(std_logging.CRITICAL)
      continue
    for step in damaged:
      distributed.first_does(_put_aside, workdir, step)
    if damaged:
      manager.reload()
    _say(f'goes on from step {int(restored.step)}')
    return restored
  if steps:
    raise trees.CheckpointError(
      f'{folder}: none of the checkpoints of steps'
      f' {", ".join(map(str, steps))} can be read; remove {workdir} to begin'
      ' anew'
    )
  return state


def _put_aside(workdir: pathlib.Path, step: int) -> None:
  """Renames a damaged checkpoint, to where no step is looked for."""
  path = workdir / 'checkpoints' / str(step)
  other, count = workdir / f'damaged_checkpoint_{step}', 0
  while other.exists():
    count += 1
    other = workdir / f'damaged_checkpoint_{step}.{count}'
  path.rename(other)
  tqdm.tqdm.write(f'{path} is moved to {other}')


def _manager(path):
  options = ocp.CheckpointManagerOptions(
    max_to_keep=2, enable_async_checkpointing=False
  )
  return ocp.CheckpointManager(path, options=options)


@contextlib.contextmanager
def _quiet_orbax():
  """Silences Orbax, which logs many lines for each checkpoint."""
  before = logging.get_verbosity()
  logging.set_verbosity(min(before, logging.WARNING))
  try:
    yield
  finally:
    logging.set_verbosity(before)


def _means(recent):
  """Averages each loss over the steps that have it."""
  names = dict.fromkeys(name for losses in recent for name in losses)
  return {
    name: round(float(np.mean([w[name] for w in recent if name in w])), 4)
    for name in names
  }


def _monitor(steps_done: int, kind: str, numbers: Mapping[str, float]) -> None:
  """Writes numbers to the open monitor, those of a kind under one heading."""
  named = {f'{kind}/{name}': value for name, value in numbers.items()}
  monitoring.write(steps_done, named)


def _finite(numbers: Mapping[str, float]) -> dict[str, float | None]:
  """Replaces what JSON has no form for, as of a training that diverged."""
  return {n: v if np.isfinite(v) else None for n, v in numbers.items()}


class _NoLog(contextlib.nullcontext):
  """Log of the processes that write none."""

  def append(self, *entries: Any) -> None:
    """Drops the entries."""
    del entries

  def __enter__(self) -> '_NoLog':
    return self


def _open_log(path: pathlib.Path, step: int, writes: bool = True) -> Any:
  """Opens metrics.jsonl and drops entries of steps that are taken again."""
  if not writes:
    return _NoLog()
  if path.exists():
    lines, _ = jsonl.split_lines(path.read_bytes())
    entries = jsonl.parse_objects(path, lines)
    kept = []
    for number, (line, entry) in enumerate(zip(lines, entries, strict=True), 1):
      if not isinstance(entry.get('step'), int):
        raise ValueError(
          f'{path}:{number}: got no step, expected metrics of a run; move the'
          ' file away, or repair it'
        )
      if entry['step'] <= step:
        kept.append(line + b'\n')
    jsonl.write_atomically(path, b''.join(kept))
  return jsonl.JsonlWriter(path)
