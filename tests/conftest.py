"""Checks every jaxtyping signature of the package while the tests run.

Compiled programs are kept in .cache, the smallest too: many tests, and the
processes that they start, compile the same ones. They are small, so that
compiling them takes longer than running them: XLA's costly optimizations are
left out, as JAX leaves them out of its own tests, and its older emitters, which
need a third of the time, make the loops. Users have none of this: one test in
models/test_parity.py compares every recorded array with the flags that they
have, in a process of its own.
"""

import functools
import gc
import inspect
import os
import pathlib
import subprocess
import sys
import typing

_CACHE = pathlib.Path(__file__).parent.parent / '.cache' / 'jax'
for _name, _value in (
  ('COMPILATION_CACHE_DIR', str(_CACHE)),
  ('PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0'),
  ('PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1'),
  ('DISABLE_MOST_OPTIMIZATIONS', '1'),
):
  os.environ.setdefault(f'JAX_{_name}', _value)


def _add_xla_flags(*flags):
  """Sets flags of XLA, for the processes that tests start too.

  A version of XLA that lacks one of them would end the process: a process of
  its own tries them.
  """
  said = os.environ.get('XLA_FLAGS', '')
  if flags[0] in said:
    return
  environment = os.environ | {'XLA_FLAGS': ' '.join([said, *flags])}
  client = 'from jaxlib import xla_client; xla_client.make_cpu_client()'
  command = [sys.executable, '-c', client]
  done = subprocess.run(command, env=environment, capture_output=True)
  if done.returncode == 0:
    os.environ.update(environment)


_add_xla_flags(
  '--xla_cpu_use_fusion_emitters=false',
  '--xla_cpu_parallel_codegen_split_count=1',
)

import beartype  # noqa: E402
import jax  # noqa: E402, reads the environment
import jaxtyping  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

_jaxtyped = jaxtyping.jaxtyped


def _has_shapes(hint):
  """Whether a type hint has an array's shape in it, or may have."""
  if isinstance(hint, str | typing.ForwardRef):
    return True
  if getattr(hint, '__module__', '').startswith('jaxtyping'):
    return True
  return any(map(_has_shapes, typing.get_args(hint)))


def _checked(function=None, *, typechecker):
  """Is `jaxtyping.jaxtyped`, without its costs where no shapes are to check.

  It binds and checks arguments three times a call. Of the package's functions
  most have no shapes in their signatures, among them those that are called for
  each symbol; beartype alone checks these.
  """
  if function is None:
    return lambda function: _checked(function, typechecker=typechecker)
  hints = getattr(function, '__annotations__', {}).values()
  if not inspect.isfunction(function) or any(map(_has_shapes, hints)):
    return _jaxtyped(function, typechecker=typechecker)
  if not hints:
    return function
  return _unless_disabled(function, _beartyped(function))


def _unless_disabled(function, checked):
  if function is checked:  # Nothing to check.
    return function

  @functools.wraps(function)
  def call(*args, **kwargs):
    disabled = jaxtyping.config.jaxtyping_disable
    return (function if disabled else checked)(*args, **kwargs)

  return call


_beartyped = beartype.beartype(
  conf=beartype.BeartypeConf(violation_type=jaxtyping.TypeCheckError)
)
jaxtyping.jaxtyped = _checked

# Both before anything imports collab_jax. A JAX function takes a NumPy array
# wherever it takes its own, so that shapes and dtypes are checked of either.
jaxtyping.Array = jax.Array | np.ndarray
jaxtyping.install_import_hook(
  [
    f'collab_jax.{name}'
    for name in (
      '_validate',
      'launcher',
      'commands.edge_model',
      'message',
      'config',
      'registry',
      'jsonl',
      'colours',
      'boxes',
      'masks',
      'regions',
      'provenance',
      'models',
      'quantizers',
      'wire',
      'channels',
      'data',
      'metrics',
      'sharding',
      'checkpoints',
      'codecs',
      'captioner',
      'tasks',
      'testing',
      'evaluation',
      'training',
      'studies',
      'serving',
      'exporters',
    )
  ],
  'beartype.beartype',
)

_MAPS = 30_000

# What takes longest, first: no process should end long after the other.
_FIRST = (
  'test_contract.py',
  'test_sharding.py',
  'test_parity.py',
  'test_notebooks.py',
  'test_paligemma_coco.py',
  'test_formats.py',
  'test_training.py',
  'test_selectors.py',
  'test_transposed.py',
  'test_finetune.py',
  'test_site.py',
  'test_kmeans.py',
  'test_decoding.py',
  'test_kills.py',
  'test_evaluate.py',
  'test_experiments.py',
  'test_model.py',
  'test_low_rank.py',
  'test_huggingface.py',
  'test_as_needed.py',
)


@pytest.fixture(autouse=True, scope='module')
def forgotten():
  """Forgets compiled programs before a process has more than Linux lets it.

  Each has some memory mappings, of which a process may have 65,530; LLVM
  crashes at the next.
  """
  yield
  maps = pathlib.Path('/proc/self/maps')
  if maps.exists() and maps.read_bytes().count(b'\n') > _MAPS:
    jax.clear_caches()


@pytest.fixture
def unchecked():
  """Leaves the signatures unchecked, as they are for a user."""
  jaxtyping.config.update('jaxtyping_disable', True)
  yield
  jaxtyping.config.update('jaxtyping_disable', False)


def pytest_collection_finish():
  """Collects garbage less often, and nothing that was imported.

  Tracing makes many small objects, which nearly all stay.
  """
  gc.collect()
  gc.freeze()
  gc.set_threshold(100_000, 20, 20)


def pytest_collection_modifyitems(items):
  place = {name: i for i, name in enumerate(_FIRST)}
  items.sort(key=lambda item: place.get(item.path.name, len(_FIRST)))


@pytest.fixture
def without_types():
  """Leaves types unchecked, as users have it: errors are the package's own."""
  jaxtyping.config.update('jaxtyping_disable', True)
  yield
  jaxtyping.config.update('jaxtyping_disable', False)
