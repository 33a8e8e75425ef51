"""Seconds to compile and memory of each device, program by program."""

import collections
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
import dataclasses
import math
import re
import time
from typing import Any

import jax

from collab_jax import provenance
from collab_jax.aot import devices, programs

# In the compiler's error; its sizes are of 2 ** 10 and its powers.
_NEEDED = re.compile(r'(?:[Uu]sed|temporaries \() ?([\d.]+)([KMGT])\b')
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
  """Costs of a program.

  Attributes:
    name: As of `programs.Program`.
    seconds: Seconds that the compiler took; 0 for an equal program.
    cpu_seconds: Seconds of cores that the process took meanwhile, which other
      processes change less; of one job at a time they are the program's.
    arguments: Bytes of its arguments on each device.
    outputs: Bytes of what it returns, without what it writes over arguments.
    temporaries: Bytes of temporaries and of its code.
    total: Bytes that are in use while it runs, the weights that it does not
      read included; of one that does not fit, at least those the compiler
      says.
    fits: Whether that is not more than there is; None if that is unknown.
    error: The compiler's reason, if it refused the program.
    same_as: Name of an equal program, compiled before; '' for none.
  """

  name: str
  seconds: float
  cpu_seconds: float
  arguments: int = 0
  outputs: int = 0
  temporaries: int = 0
  total: int = 0
  fits: bool | None = None
  error: str = ''
  same_as: str = ''


def compile_all(
  traced: Iterable[programs.Program],
  placement: devices.Placement,
  weights: Any,
  jobs: int = 1,
) -> Iterator[CompiledProgram]:
  """Compiles programs, equal ones once.

  Args:
    traced: The programs.
    placement: The devices.
    weights: Shapes of all parameters, from `Placement.params`.
    jobs: Programs that are compiled at a time.

  Yields:
    The costs of each, in order, as soon as they are known.
  """
  compiled: dict[str, futures.Future[CompiledProgram]] = {}
  # Name of each program, its costs, and whether an equal one came before.
  waiting: collections.deque[
    tuple[str, futures.Future[CompiledProgram], bool]
  ] = collections.deque()
  with futures.ThreadPoolExecutor(jobs) as pool:
    for program in traced:
      lowered = program.traced.lower(lowering_platforms=(placement.platform,))
      text = lowered.as_text()
      is_known = text in compiled
      if not is_known:
        unread = _unread_bytes(program.traced, weights)
        compiled[text] = pool.submit(
          _compile, program.name, lowered, placement, unread
        )
      waiting.append((program.name, compiled[text], is_known))
      if len(waiting) >= jobs:
        yield _result(*waiting.popleft())
    for item in waiting:
      yield _result(*item)


def _result(
  name: str, future: 'futures.Future[CompiledProgram]', is_known: bool
) -> CompiledProgram:
  """Waits for a program's costs; those of a known one took no time."""
  row = future.result()
  if not is_known:
    return row
  return dataclasses.replace(
    row, name=name, seconds=0.0, cpu_seconds=0.0, same_as=row.name
  )


def _compile(name: str, lowered, placement, unread: int) -> CompiledProgram:
  start, cpu_start = time.perf_counter(), time.process_time()
  stats, refusal = None, ''
  try:
    stats = lowered.compile().memory_analysis()
  except jax.errors.JaxRuntimeError as error:
    refusal = str(error)
    if 'RESOURCE_EXHAUSTED' not in refusal:
      raise
  row = CompiledProgram(
    name,
    time.perf_counter() - start,
    time.process_time() - cpu_start,
  )
  if stats is None:
    reason = refusal.partition(': ')[2].splitlines()[0]
    total = unread + _needed(refusal)
    return dataclasses.replace(row, total=total, fits=False, error=reason)
  arguments = stats.argument_size_in_bytes
  outputs = stats.output_size_in_bytes - stats.alias_size_in_bytes
  temporaries = stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
  total = arguments + outputs + temporaries + unread
  fits = None if placement.memory is None else total <= placement.memory
  return dataclasses.replace(
    row,
    arguments=arguments,
    outputs=outputs,
    temporaries=temporaries,
    total=total,
    fits=fits,
  )


def _needed(message: str) -> int:
  """Reads the bytes that a program needs from the compiler's error; else 0."""
  size = _NEEDED.search(message)
  return int(float(size[1]) * _UNITS[size[2]]) if size else 0


def _unread_bytes(traced: Any, weights: Any) -> int:
  """Returns the bytes of weights on each device that a program ignores."""
  jaxpr = traced.jaxpr.jaxpr
  used = {id(v) for eqn in jaxpr.eqns for v in eqn.invars}
  unread = {
    jax.tree_util.keystr(path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights)
  }
  leaves = jax.tree_util.tree_leaves_with_path(traced.args_info)
  for (path, _), variable in zip(leaves, jaxpr.invars, strict=True):
    # A model's leaf is at [0].params['llm'][...], one of the weights at
    # ['llm'][...].
    _, is_weight, name = jax.tree_util.keystr(path).partition('.params')
    if is_weight and id(variable) in used:
      del unread[name]
  return device_bytes(unread)


def device_bytes(tree: Any) -> int:
  """Returns the bytes of shapes on each device."""
  return sum(
    math.prod(x.sharding.shard_shape(tuple(x.shape))) * x.dtype.itemsize
    for x in jax.tree.leaves(tree)
  )


def to_json(
  settings: dict[str, Any],
  weights: Any,
  compiled: Sequence[CompiledProgram],
  elapsed: float,
) -> dict[str, Any]:
  """Returns a report as plain values.

  Args:
    settings: The model, the devices and the sizes.
    weights: Shapes of all parameters, from `Placement.params`.
    compiled: The programs.
    elapsed: Seconds that all of it took, with tracing.
  """
  described = provenance.provenance()
  return {
    **settings,
    'weights': device_bytes(weights),
    'fits': all(program.fits is not False for program in compiled),
    'seconds': sum(program.seconds for program in compiled),
    'elapsed': elapsed,
    'cpu_seconds': sum(program.cpu_seconds for program in compiled),
    'programs': [dataclasses.asdict(program) for program in compiled],
    'versions': described['versions'],
    'commit': described['commit'],
    'cores': described['cores'],
  }
