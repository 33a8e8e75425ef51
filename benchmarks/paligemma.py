r"""PaliGemma at full size beside Hugging Face's, on the same random weights.

python -m benchmarks.paligemma --folder=/tmp/paligemma-3b

Makes the weights once (bfloat16, 5.9 GB, a Hugging Face folder, streamed), and
runs every system in a process of its own, in turns: one picture, five prompt
tokens, greedy. Prefill is the time to the first token without the encoder's;
per token is the time of the other tokens over their number. Medians; nothing
of it compiles. Without torch and transformers only ours is run:

pip install torch transformers
"""

import importlib.util
import json
import multiprocessing
import os
from pathlib import Path
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

from absl import app, flags
import ml_dtypes
import numpy as np
import safetensors.numpy

from collab_jax.checkpoints import huggingface, huggingface_config, shards
from collab_jax.evaluation.report import text
from collab_jax.models import zoo

_PROMPT = (2, 18910, 659, 573, 108)
_STAGES = ('encode', 'prefill', 'per token')
_SHARD = 1 << 30


def make_weights(folder: Path, name: str) -> None:
  """Writes random weights of a model's shapes, a file at a time."""
  config = zoo.card(name).config
  shapes = huggingface.tensors(config)
  sizes = {n: 2 * int(np.prod(s)) for n, s in shapes.items()}
  folder.mkdir(parents=True, exist_ok=True)
  rng = np.random.default_rng(0)
  pool = rng.standard_normal(1 << 24, np.float32)
  for file, names in shards.plan(sizes, _SHARD).items():
    made = {}
    for n in names:
      shape = shapes[n]
      scale = 0.05 if len(shape) == 1 else shape[-1] ** -0.5
      start = int(rng.integers(len(pool)))
      flat = np.resize(np.roll(pool, start), int(np.prod(shape)))
      made[shards.released(n)] = (
        (flat * np.float32(scale)).astype(ml_dtypes.bfloat16).reshape(shape)
      )
    safetensors.numpy.save_file(made, folder / file, {'format': 'pt'})
  shards.write_index(folder, sizes, _SHARD)
  fields = huggingface_config.write(config, 'bfloat16')
  # Last: a folder with it is whole.
  (folder / 'config.json').write_text(json.dumps(fields, indent=1) + '\n')


def _timed(stages: dict[str, Any], repeats: int) -> dict[str, list[float]]:
  """Seconds of each call, repeatedly; the first round is left out."""
  times: dict[str, list[float]] = {name: [] for name in stages}
  for _ in range(1 + repeats):
    for name, call in stages.items():
      start = time.perf_counter()
      call()
      times[name].append(time.perf_counter() - start)
  return {name: found[1:] for name, found in times.items()}


def time_ours(
  model: Any, batch: int, new_tokens: int, repeats: int
) -> dict[str, list[float]]:
  """Times our model.

  Args:
    model: A model.
    batch: Pictures at a time.
    new_tokens: Tokens to write, at least 2.
    repeats: Timed runs.

  Returns:
    Seconds of each run by stage: 'encode' with the projection, 'first' token
    and 'whole' text without it.
  """
  import jax

  size = model.config.vision.image_size
  images = np.zeros((batch, size, size, 3), np.float32)
  tokens = np.tile(np.asarray(_PROMPT, np.int32), (batch, 1))
  encode = jax.jit(lambda m, x: m.project(m.encode_image(x)))
  generate = jax.jit(
    lambda m, x, n: m.generate(x, tokens, tokens > 0, n, eos=-1),
    static_argnums=2,
  )
  features = encode(model, images)

  def write(n):
    return jax.block_until_ready(generate(model, features, n))

  return _timed(
    {
      'encode': lambda: jax.block_until_ready(encode(model, images)),
      'first': lambda: write(1),
      'whole': lambda: write(new_tokens),
    },
    repeats,
  )


def _ours(folder: str, dtype: str, part: str | None) -> dict[str, Any]:
  """Loads our model, whole or a part of it, and times what it can do."""
  import jax

  from collab_jax import checkpoints

  start = time.perf_counter()
  model = checkpoints.load(folder, dtype=dtype, part=part)
  jax.block_until_ready(model.params)
  load = time.perf_counter() - start
  if part is not None:
    return {'load': load}
  times = time_ours(
    model, flags.FLAGS.batch, flags.FLAGS.tokens, flags.FLAGS.repeats
  )
  return {'load': load} | times


def time_theirs(
  model: Any, batch: int, new_tokens: int, repeats: int, **settings: Any
) -> dict[str, list[float]]:
  """Times Hugging Face's model; see `time_ours`.

  Args:
    model: A `transformers.PaliGemmaForConditionalGeneration`.
    batch: As of `time_ours`.
    new_tokens: As of `time_ours`.
    repeats: As of `time_ours`.
    **settings: Arguments of its `generate`.
  """
  torch: Any = importlib.import_module('torch')
  size = model.config.vision_config.image_size
  made = {'device': model.device}
  images = torch.zeros(batch, 3, size, size, dtype=model.dtype, **made)
  image_tokens = (size // model.config.vision_config.patch_size) ** 2
  ids = [model.config.image_token_id] * image_tokens + [*_PROMPT]
  ids = torch.tensor([ids] * batch, **made)
  given = {
    'input_ids': ids,
    'pixel_values': images,
    'attention_mask': torch.ones_like(ids),
    'token_type_ids': torch.zeros_like(ids),
  }

  def finished(out):
    if model.device.type == 'cuda':
      torch.cuda.synchronize()
    return out

  def write(n):
    lengths = {'max_new_tokens': n, 'min_new_tokens': n}
    return finished(
      model.generate(**given, **lengths, do_sample=False, **settings)
    )

  with torch.inference_mode():
    times = _timed(
      {
        'encode': lambda: finished(model.model.get_image_features(images)),
        'first': lambda: write(1),
        'whole': lambda: write(new_tokens),
      },
      repeats,
    )
  # Their first token includes the encoder.
  pairs = zip(times['first'], times['encode'], strict=True)
  whole = zip(times['whole'], times['encode'], strict=True)
  return {
    'encode': times['encode'],
    'first': [a - b for a, b in pairs],
    'whole': [a - b for a, b in whole],
  }


def _theirs(folder: str, dtype: str) -> dict[str, Any]:
  """Loads Hugging Face's model, and times it."""
  torch: Any = importlib.import_module('torch')
  transformers: Any = importlib.import_module('transformers')
  start = time.perf_counter()
  model = transformers.PaliGemmaForConditionalGeneration.from_pretrained(
    folder, dtype=getattr(torch, dtype)
  ).eval()
  load = time.perf_counter() - start
  times = time_theirs(
    model, flags.FLAGS.batch, flags.FLAGS.tokens, flags.FLAGS.repeats
  )
  return {'load': load} | times


def _work(worker: str) -> None:
  """Runs in its own process, and prints times as JSON on the last line."""
  system, dtype, _, part = (*worker.split(','), '', '')[:4]
  if system == 'ours':
    found = _ours(flags.FLAGS.folder, dtype, part or None)
  else:
    found = _theirs(flags.FLAGS.folder, dtype)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
  print(json.dumps(found | {'peak': peak}))


def _run(*worker: str) -> dict[str, Any]:
  """Runs a worker and reads its last line."""
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'benchmarks.paligemma',
      f'--worker={",".join(worker)}',
    ]
    + [
      f'--{name}={flags.FLAGS[name].value}'
      for name in ('folder', 'repeats', 'batch', 'tokens')
    ],
    # One arena, as in our launchers: glibc's others keep what is freed.
    env=os.environ | {'MALLOC_ARENA_MAX': '1'},
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


def _row(found: dict[str, Any]) -> list[float]:
  """Seconds of load and each stage, and the peak in GB."""
  median = {
    k: statistics.median(v) for k, v in found.items() if isinstance(v, list)
  }
  rest = (median['whole'] - median['first']) / (flags.FLAGS.tokens - 1)
  stages = found['load'], median['encode'], median['first'], rest
  return [*stages, found['peak'] / 1e9]


def main(argv):
  """Prints the table, and the ratios of ours to theirs."""
  del argv
  if flags.FLAGS.worker:
    _work(flags.FLAGS.worker)
    return
  folder = Path(flags.FLAGS.folder)
  if not (folder / 'config.json').exists():
    # A process started by this one counts this one's peak of memory as its own.
    context = multiprocessing.get_context('spawn')
    maker = context.Process(
      target=make_weights, args=(folder, flags.FLAGS.model)
    )
    maker.start()
    maker.join()
    if maker.exitcode:
      raise SystemExit(f'making the weights in {folder} failed')
  peers = [
    name
    for name in ('torch', 'transformers')
    if importlib.util.find_spec(name) is not None
  ]
  lines = [['', 'load s', *(f'{s} s' for s in _STAGES), 'peak GB']]
  for dtype in flags.FLAGS.dtype:
    ours = _row(_run('ours', dtype))
    lines.append([f'ours, {dtype}', *(f'{x:.2f}' for x in ours)])
    if len(peers) == 2:
      theirs = _row(_run('theirs', dtype))
      lines.append([f'transformers, {dtype}', *(f'{x:.2f}' for x in theirs)])
      ratios = [f'{a / b:.2f}' for a, b in zip(ours, theirs, strict=True)]
      lines.append(['ratio', *ratios])
  for part in ('edge', 'server'):
    found = _run('ours', 'bfloat16', '', part)
    peak = found['peak'] / 1e9
    row = [f'{found["load"]:.2f}', '', '', '', f'{peak:.2f}']
    lines.append([f'ours, bfloat16, {part} only', *row])
  print(text.align(lines))


def _define_flags() -> None:
  # Not on import: tests import several programs.
  flags.DEFINE_string('folder', '/tmp/paligemma-3b', 'Of the weights.')
  flags.DEFINE_string('model', 'paligemma-3b-pt-224', 'Its dimensions.')
  flags.DEFINE_multi_enum(
    'dtype', ['bfloat16', 'float32'], ['bfloat16', 'float32'], 'Of the weights.'
  )
  flags.DEFINE_integer('repeats', 3, 'Timed runs of each.')
  flags.DEFINE_integer('batch', 1, 'Pictures at a time.')
  flags.DEFINE_integer('tokens', 20, 'New tokens.')
  flags.DEFINE_string('worker', '', 'Internal: what this process runs.')


if __name__ == '__main__':
  _define_flags()
  app.run(main)
