r"""Measures memory and time of fine-tuning a released model.

  python -m benchmarks.finetune                   the table, in GB
  python -m benchmarks.finetune --lower_steps          and lowers each step
  python -m benchmarks.finetune --compile_steps --depth=2    and compiles it
  python -m benchmarks.finetune --step --depth=1    one real step of full width

Nothing is allocated but by `--step`. Devices are those of a CPU that pretends
to have eight.
"""

import dataclasses
import os
import sys
import time
from typing import Any, cast

from absl import app, flags
import jax
from jax import numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from benchmarks import flag_names
from benchmarks import sharding as bench
from collab_jax import (
  quantizers,
  sharding,
  studies,
)
from collab_jax.models import paligemma, zoo
from collab_jax.training import (
  finetune_step,
  memory,
  param_groups,
)
from collab_jax.training import validate as settings_lib
from configs import finetune as finetune_config

_NAME = flags.DEFINE_string('tuned_model', 'paligemma-3b', 'Which model.')
_LOWER = flags.DEFINE_bool('lower_steps', False, 'Lower each step.')
_COMPILE = flags.DEFINE_bool('compile_steps', False, 'Compile it, too.')
_STEP = flags.DEFINE_bool('step', False, 'Take one step with random weights.')
_DEPTH = flags.DEFINE_integer('depth', 0, 'Layers of each tower; 0 for all.')
_ROWS = flags.DEFINE_integer('rows', 8, 'Pictures in a batch.')

CHOICES = tuple((t, e) for t in param_groups.TRAIN for e in (False, True))
MESH = (1, 8)
_QUANTIZER = 'kmeans(k=8,init=++,iters=5)'


def dimensions(name: str, depth: int = 0) -> paligemma.Config:
  """A released model's dimensions, its layers computed again for gradients."""
  config = zoo.config(name, 224)
  config = bench.shallow(config, depth) if depth else config
  vision, text = (
    dataclasses.replace(tower, remat=True)
    for tower in (config.vision, config.text)
  )
  return dataclasses.replace(config, vision=vision, text=text)


def settings(train: str, encoder: bool, rows: int) -> Any:
  """The config of a choice; photographs have no labels of patches."""
  config: Any = finetune_config.get_config()
  config.train, config.encoder, config.batch_size = train, encoder, rows
  config.optimizer, config.weights.label = 'adamw', 0.0
  config.weights.distill = 0.0  # A teacher's parameters would come on top.
  config.quantizers = (_QUANTIZER,)
  return config


def placed(tree: Any, mesh: Any) -> Any:
  """Shapes of parameters, or of an optimizer's state, with their shardings."""

  def leaf(path, x):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    _, _, own = name.rpartition('model/')
    spec = PartitionSpec()
    if own.startswith(('img/', 'llm/')) and x.ndim:
      spec = sharding.spec(own, x.shape, mesh)
    where = NamedSharding(mesh, spec)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

  return jax.tree_util.tree_map_with_path(leaf, tree)


def step(config: Any, dims: paligemma.Config, mesh: Any) -> tuple[Any, Any]:
  """The arguments of a step as shapes on a mesh, and its lowered program.

  Args:
    config: From `settings`.
    dims: From `dimensions`.
    mesh: Real devices.
  """
  trainable, frozen = memory.param_shapes(config, dims, 'bfloat16')
  _, weights = settings_lib.check(config)
  tx = param_groups.optimizer(config, config.rates.to_dict())
  state = finetune_step.FinetuneState(
    placed(trainable, mesh),
    placed(jax.eval_shape(tx.init, trainable), mesh),
    None,
    cast(Any, jax.ShapeDtypeStruct((), jnp.int32)),
  )
  rows = NamedSharding(mesh, PartitionSpec('data'))
  batch = {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=rows)
    for name, x in memory.batch_shapes(config, dims).items()
  }
  arguments = (state, placed(frozen, mesh), None, batch)
  key = jax.eval_shape(lambda: jax.random.key(0))
  lowered = finetune_step.finetune_step.lower(
    dims, tx, weights, quantizers.make(_QUANTIZER), *arguments, key
  )
  return arguments, lowered


def table(name: str, depth: int, rows: int):
  """The table, line by line; GB."""
  dims = dimensions(name, depth)
  mesh = bench.abstract_mesh(*MESH)
  yield (
    '| trains | encoder | trained | parameters | optimizer | gradients'
    ' | activations | one device | each of 8 |'
  )
  yield '|---|---|---|---|---|---|---|---|---|'
  for train, encoder in CHOICES:
    config = settings(train, encoder, rows)
    need = memory.step_memory(
      config, dims, quantizers.make(_QUANTIZER), dtype='bfloat16'
    )
    trainable, frozen = memory.param_shapes(config, dims, 'bfloat16')
    tx = param_groups.optimizer(config, config.rates.to_dict())
    before = memory.loaded_copies(trainable, dims, 'bfloat16')
    trees = [
      trainable,
      frozen,
      before,
      jax.eval_shape(tx.init, trainable),
      trainable,
    ]
    here = sum(
      sharding.device_bytes(x) for x in jax.tree.leaves(placed(trees, mesh))
    )
    parts = need.trained, need.params, *need[2:], need.total
    cells = [f'{x / 1e9:.2f}' for x in (*parts, here + need.activations)]
    yield f'| {train} | {encoder} | {" | ".join(cells)} |'


def programs(name: str, depth: int, rows: int, compiled: bool):
  """Seconds to lower, and what the compiler says, line by line."""
  dims, mesh = dimensions(name, depth), sharding.make_mesh(*MESH)
  for train, encoder in CHOICES:
    start = time.perf_counter()
    _, lowered = step(settings(train, encoder, rows), dims, mesh)
    line = f'{train:10} encoder={encoder!s:6}'
    line += f' lowered in {time.perf_counter() - start:.1f} s'
    if compiled:
      start = time.perf_counter()
      found = lowered.compile().memory_analysis()
      line += f', compiled in {time.perf_counter() - start:.1f} s; a device has'
      line += f' {found.argument_size_in_bytes / 1e9:.2f} GB of arguments and'
      line += f' {found.temp_size_in_bytes / 1e9:.2f} GB within'
    yield line


def real(name: str, depth: int, rows: int):
  """Takes one step of each choice but 'all', line by line."""
  dims = dimensions(name, depth)
  for train, encoder in CHOICES:
    if train == 'all':
      continue
    config = settings(train, encoder, rows)
    trainable, frozen = memory.param_shapes(config, dims, 'bfloat16')
    key = jax.random.key(0)

    def draw(x):
      # Flat and narrow: what is computed is of no interest, that it is finite.
      return jnp.full(x.shape, 0.01, x.dtype)

    trainable, frozen = jax.tree.map(draw, (trainable, frozen))
    tx = param_groups.optimizer(config, config.rates.to_dict())
    chosen, weights = settings_lib.check(config)
    state = finetune_step.FinetuneState(
      trainable, tx.init(trainable), None, jnp.zeros((), jnp.int32)
    )
    rng = np.random.default_rng(0)
    batch = {
      n: jnp.asarray(rng.integers(0, 2, x.shape), x.dtype)
      for n, x in memory.batch_shapes(config, dims).items()
    }
    start = time.perf_counter()
    state, metrics = finetune_step.finetune_step(
      dims, tx, weights, chosen[0], state, frozen, None, batch, key
    )
    values = {k: float(v) for k, v in metrics.items()}
    yield (
      f'{train:10} encoder={encoder!s:6} {values}'
      f' {time.perf_counter() - start:.1f} s'
    )


def main(argv):
  """Prints what was asked for."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  flag_names.choices('tuned_model', [_NAME.value], zoo.DECODERS)
  if not _STEP.value:
    # Read when JAX first looks for devices.
    count = '--xla_force_host_platform_device_count=8'
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {count}'
  name, depth, rows = _NAME.value, _DEPTH.value, _ROWS.value
  with studies.runtime():
    lines = table(name, depth, rows)
    if _STEP.value:
      lines = real(name, depth, rows)
    elif _LOWER.value or _COMPILE.value:
      lines = programs(name, depth, rows, _COMPILE.value)
    for line in lines:
      print(line, flush=True)
  return 0


if __name__ == '__main__':
  sys.exit(app.run(main))
