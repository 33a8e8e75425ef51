"""Set-up shared by all programs: compilation cache, logging, short errors."""

from collections.abc import Iterator
import contextlib
import ctypes
import logging
import os
from pathlib import Path
import sys
import warnings

import jax
from PIL import Image

from collab_jax import _precision


@contextlib.contextmanager
def runtime(precision: str = 'default') -> Iterator[None]:
  """Prepares a program, and turns its users' errors into one line each.

  Compiled programs are kept in JAX_COMPILATION_CACHE_DIR, by default in the
  user's cache folder: equal ones are compiled once, and not at all in the next
  run. JAX's settings in the environment win.

  Args:
    precision: Of float32 products, 'default' or 'highest'.

  Raises:
    SystemExit: The program raised an error that its user can mend.
  """
  _reuse_large_buffers()
  sys.path.insert(0, os.getcwd())  # For quantizers and codecs of one's own.
  logging.getLogger('jax').setLevel(logging.ERROR)
  # Such a picture is refused with an error, which is enough.
  warnings.simplefilter('ignore', Image.DecompressionBombWarning)
  home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  for name, value in {
    'jax_compilation_cache_dir': str(Path(home).expanduser() / 'collab_jax'),
    'jax_persistent_cache_min_compile_time_secs': 0.05,
    'jax_persistent_cache_min_entry_size_bytes': -1,
  }.items():
    if name.upper() not in os.environ:
      jax.config.update(name, value)
  try:
    with _precision.matmul_precision(precision):
      yield
  except (ValueError, AttributeError, OSError, ImportError) as error:
    message = error.args[0] if len(error.args) == 1 else error
    raise SystemExit(f'error: {message}') from error


def _reuse_large_buffers() -> None:
  """Makes glibc reuse large buffers: clearing their pages costs a third."""
  if sys.platform == 'linux' and hasattr(libc := ctypes.CDLL(None), 'mallopt'):
    # Of malloc.h: M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD.
    for option, value in ((-8, 1), (-4, 0), (-1, 2**31 - 1)):
      libc.mallopt(option, value)
