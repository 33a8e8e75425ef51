r"""Computes the memory of each device for released models and meshes.

  python -m benchmarks.sharding            the table of docs/sharding.md
  python -m benchmarks.sharding --lower    seconds to lower their programs
  python -m benchmarks.sharding --compile --models=paligemma2-28b
  python -m benchmarks.sharding --records  records on meshes and on one device
  python -m benchmarks.sharding --records --compute_dtype=bfloat16

Nothing of the released models is computed or allocated; the records are the
tiny model's. Where devices are needed, a CPU pretends to have eight.
"""

from collections.abc import Iterator, Sequence
import dataclasses
import os
import pathlib
import re
import sys
import tempfile
import time
from typing import Any

from absl import app, flags
import jax
from jax import numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from benchmarks import flag_names
from collab_jax import (
  captioner,
  message,
  sharding,
  studies,
)
from collab_jax.checkpoints import trees
from collab_jax.codecs import encoder
from collab_jax.models import decoding, paligemma, zoo
from configs import tradeoff

_LOWER = flags.DEFINE_bool('lower', False, 'Lower encoder and decoder.')
_COMPILE = flags.DEFINE_bool('compile', False, 'Compile them, too.')
_MODELS = flags.DEFINE_list('models', list(zoo.DECODERS), 'Which to lower.')
_RECORDS = flags.DEFINE_bool('records', False, 'Compare records instead.')
_COMPUTE_DTYPE = flags.DEFINE_string(
  'compute_dtype', '', "Dtype of their products; '' for float32."
)

# (data, model)
MESHES = ((1, 1), (4, 2), (2, 4), (1, 8))
RECORD_MESHES = ((8, 1), (4, 2), (2, 4), (1, 8))
# Of the table: pictures of 224 px, a prompt of 5 tokens, captions of 34.
_SIZE, _PROMPT, _TOKENS = 224, 5, 34
_COLLECTIVE = re.compile(
  r'= \(?(\w+)\[([\d,]*)\]\S* '
  r'(all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)'
)


def abstract_mesh(data: int, model: int) -> AbstractMesh:
  """A mesh without devices, enough to compute shapes."""
  auto = (AxisType.Auto,) * 2
  return AbstractMesh((data, model), sharding.AXES, axis_types=auto)


def abstract_model(
  config: paligemma.Config, mesh: Any, dtype: str = 'bfloat16'
) -> paligemma.Model:
  """A model whose parameters are shapes with their shardings."""
  params = paligemma.shapes(config)
  return paligemma.Model(
    params=sharding.abstract(params, mesh, jnp.dtype(dtype)), config=config
  )


def shallow(config: paligemma.Config, depth: int) -> paligemma.Config:
  """The same model with fewer layers."""
  vision, text = (
    dataclasses.replace(tower, depth=depth)
    for tower in (config.vision, config.text)
  )
  return dataclasses.replace(config, vision=vision, text=text)


def lower(
  model: paligemma.Model, mesh: jax.sharding.Mesh, rows: int, tokens: int
) -> Iterator[tuple[str, Any]]:
  """Lowers the programs of edge and server.

  Args:
    model: From `abstract_model`.
    mesh: Real devices.
    rows: Pictures in a batch.
    tokens: Longest caption.

  Yields:
    Name and lowered program: 'encode' (pictures to features), 'generate'
    (prefill, cache and the loop over tokens).
  """

  def batch(*shape, dtype: Any = jnp.float32) -> Any:
    where = NamedSharding(mesh, PartitionSpec('data'))
    return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=where)

  vision, text = model.config.vision, model.config.text
  n, side = vision.num_tokens, vision.image_size
  images = batch(side, side, 3, dtype=jnp.uint8)
  yield 'encode', encoder.features.lower(model, 'encoder', images)
  prefix = message.Prefix(
    batch(n, text.width),
    batch(n, dtype=jnp.bool_),
    batch(n, dtype=jnp.int32),
    batch(dtype=jnp.int32),
  )
  words = (batch(_PROMPT, dtype=d) for d in (jnp.int32, jnp.bool_))
  yield (
    'generate',
    captioner._generate.lower(
      model, prefix, *words, None, tokens, decoding.Greedy(), 0
    ),
  )


def collectives(compiled: Any) -> dict[str, int]:
  """Finds the largest exchange of a compiled program, by kind."""
  most: dict[str, int] = {}
  for _, shape, kind in _COLLECTIVE.findall(compiled.as_text()):
    size = 1
    for n in filter(None, shape.split(',')):
      size *= int(n)
    most[kind] = max(size, most.get(kind, 0))
  return most


def cache_bytes(text: Any, model: int) -> int:
  """Bytes of one picture's bfloat16 cache on each device of 'model'."""
  slots = (_SIZE // 14) ** 2 + _PROMPT + _TOKENS
  heads = text.num_kv_heads
  heads = heads // model if heads % model == 0 else heads
  return 2 * 2 * text.depth * heads * text.head_dim * slots


def memory() -> Iterator[str]:
  """The table, line by line."""
  yield '| model | data x model | all | a device | largest | whole | cache |'
  yield '|---|---|---|---|---|---|---|'
  for decoder in zoo.DECODERS:
    config = zoo.config(decoder, _SIZE)
    for data, model in MESHES:
      shapes = abstract_model(config, abstract_mesh(data, model)).params
      flat = trees.flatten(shapes)
      here = {name: sharding.device_bytes(x) for name, x in flat.items()}
      everything = {n: x.size * x.dtype.itemsize for n, x in flat.items()}
      whole = sum(here[n] for n in here if here[n] == everything[n])
      yield (
        f'| {decoder} | {data} x {model}'
        f' | {sum(everything.values()) / 1e9:.2f} GB'
        f' | {sum(here.values()) / 1e9:.2f} GB'
        f' | {max(here.values()) / 1e9:.2f} GB'
        f' | {"all" if model == 1 else f"{whole / 1e6:.0f} MB"}'
        f' | {cache_bytes(config.text, model) / 1e6:.1f} MB |'
      )


def lowering(decoders: Sequence[str], compiled: bool) -> Iterator[str]:
  """Seconds that lowering and compiling take, line by line."""
  for decoder in decoders:
    for sizes in MESHES[1:]:
      mesh = sharding.make_mesh(*sizes)
      model = abstract_model(zoo.config(decoder, _SIZE), mesh)
      start = time.perf_counter()
      for name, program in lower(model, mesh, 8, _TOKENS):
        line = f'{decoder:15} {sizes[0]} x {sizes[1]}  {name:8}'
        line += f'  lowered in {time.perf_counter() - start:.1f} s'
        if compiled:
          start = time.perf_counter()
          done = program.compile()
          line += f', compiled in {time.perf_counter() - start:.1f} s; '
          line += ', '.join(
            f'{kind} of {size:,} numbers'
            for kind, size in collectives(done).items()
          )
        yield line
        start = time.perf_counter()


def settings(data: int, model: int, /, **fields: Any) -> Any:
  """The smoke config on a mesh."""
  config: Any = tradeoff.get_config('mode=smoke')
  config.mesh.data, config.mesh.model = data, model
  with config.unlocked():
    config.update(fields)
  return config


def compare(got: Any, want: Any) -> tuple[int, int, float]:
  """Compares two runs' records.

  Args:
    got: Records.
    want: Those expected, in the same order.

  Returns:
    How many are equal in all but times and distortions, how many of those
    have the same distortion, too, and the largest relative difference of one.
  """
  equal = same = 0
  worst = 0.0
  for a, b in zip(got, want, strict=True):
    first, second = a['distortion'], b['distortion']
    rest = [
      {k: v for k, v in r.items() if k not in ('seconds', 'distortion')}
      for r in (a, b)
    ]
    equal += rest[0] == rest[1]
    same += rest[0] == rest[1] and first == second
    if first and second:
      worst = max(worst, abs(first / second - 1))
  return equal, same, worst


def records(**fields: Any) -> Iterator[str]:
  """Records of meshes beside those of one device, line by line."""
  whole = {'batch_size': 16, **fields}

  def run(data, model, /, **more):
    config = settings(data, model, **{**whole, **more})
    with tempfile.TemporaryDirectory() as folder:
      path = pathlib.Path(folder) / 'records.jsonl'
      return studies.TradeoffStudy(config).run(path, progress=False)

  one = run(1, 1)
  yield '| data x model | beside one device, batches of | records |' + (
    ' equal but for distortion | equal | distortion, relative |'
  )
  yield '|---|---|---|---|---|---|'
  for data, model in RECORD_MESHES:
    got = run(data, model)
    pairs = [(16, one)]
    if model == 1:
      pairs.append((16 // data, run(1, 1, batch_size=16 // data)))
    for size, want in pairs:
      equal, same, worst = compare(got, want)
      yield (
        f'| {data} x {model} | {size} | {len(got)} | {equal} | {same}'
        f' | {worst:.1e} |'
      )


def main(argv):
  """Prints what was asked for."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  flag_names.choices('models', _MODELS.value or (), zoo.DECODERS)
  # Read when JAX first looks for devices.
  count = '--xla_force_host_platform_device_count=8'
  os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {count}'
  with studies.runtime():
    lines = memory()
    if _RECORDS.value:
      lines = records(
        limit=20, max_tokens=20, compute_dtype=_COMPUTE_DTYPE.value
      )
    elif _LOWER.value or _COMPILE.value:
      lines = lowering(_MODELS.value or (), _COMPILE.value)
    for line in lines:
      print(line, flush=True)
  return 0


if __name__ == '__main__':
  sys.exit(app.run(main))
