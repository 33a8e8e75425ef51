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

from collab_jax import _output, _precision

_LOG = logging.getLogger(__name__)

# Settings of JAX under which these programs are not written: both make errors
# of what is right.
_PROMOTIONS = {
  'jax_numpy_rank_promotion': ('raise', 'allow'),
  'jax_numpy_dtype_promotion': ('strict', 'standard'),
}
_CACHE_TROUBLE = ('Error reading persistent', 'Error writing persistent')


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
  _output.prepare()
  _reuse_large_buffers()
  # For quantizers and codecs of one's own; a folder that is gone has none.
  with contextlib.suppress(OSError):
    sys.path.insert(0, os.getcwd())
  logging.getLogger('jax').setLevel(logging.ERROR)
  # Such a picture is refused with an error, which is enough.
  warnings.simplefilter('ignore', Image.DecompressionBombWarning)
  _keep_compiled_programs()
  _allow_promotions()
  try:
    with _output.until_closed(), _precision.matmul_precision(precision):
      yield
  except (ValueError, AttributeError, OSError, ImportError) as error:
    message = error.args[0] if len(error.args) == 1 else error
    raise SystemExit(f'error: {message}') from error
  except RuntimeError as error:
    if 'Unable to initialize backend' not in str(error):
      raise
    raise SystemExit(f'error: {error}') from error


def _keep_compiled_programs() -> None:
  """Turns JAX's cache of compiled programs on, if there is a place for it."""
  settings = {
    'jax_persistent_cache_min_compile_time_secs': 0.05,
    'jax_persistent_cache_min_entry_size_bytes': -1,
  }
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    settings['jax_compilation_cache_dir'] = _cache_folder()
  for name, value in settings.items():
    if name.upper() not in os.environ:
      jax.config.update(name, value)
  _warn_of_cache_once()


def _cache_folder() -> str | None:
  """Returns the folder of compiled programs; None where none can be kept."""
  try:
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    folder = Path(base).expanduser() / 'collab_jax'
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
      raise PermissionError(f'{folder} may not be written to')
  except (OSError, RuntimeError) as error:  # RuntimeError: there is no home.
    _LOG.warning(
      'compiled programs are not kept: %s; JAX_COMPILATION_CACHE_DIR names'
      ' another folder',
      error,
    )
    return None
  return str(folder)


def _warn_of_cache_once() -> None:
  """Tells once of entries that JAX cannot read or write, not of each."""
  show, told = warnings.showwarning, []

  def showwarning(message, *arguments, **options):
    if not str(message).startswith(_CACHE_TROUBLE):
      show(message, *arguments, **options)
    elif not told:
      told.append(message)
      _LOG.warning(
        'the compilation cache %s has entries that cannot be read or written;'
        ' their programs are compiled at each start: delete the folder if that'
        ' stays so (%s)',
        jax.config.values['jax_compilation_cache_dir'],
        message,
      )

  warnings.showwarning = showwarning


def _allow_promotions() -> None:
  for name, (refused, usual) in _PROMOTIONS.items():
    if jax.config.values[name] == refused:
      _LOG.warning(
        '%s=%s is taken for %s: this program promotes', name, refused, usual
      )
      jax.config.update(name, usual)


def _reuse_large_buffers() -> None:
  """Makes glibc reuse large buffers: clearing their pages costs a third."""
  if sys.platform == 'linux' and hasattr(libc := ctypes.CDLL(None), 'mallopt'):
    # Of malloc.h: M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD.
    for option, value in ((-8, 1), (-4, 0), (-1, 2**31 - 1)):
      libc.mallopt(option, value)
