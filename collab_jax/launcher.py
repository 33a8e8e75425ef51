"""Set-up shared by all programs: flags, compilation cache, short errors."""

from collections.abc import Callable, Iterator
import contextlib
import ctypes
import errno
import importlib.metadata
import logging
import math
import os
from pathlib import Path
import re
import sys
import textwrap
from typing import Any
import warnings

from absl import app, flags
import jax
from PIL import Image

from collab_jax import (
  _config_help,
  _interrupts,
  _output,
  _precision,
  _renamed,
  _validate,
  distributed,
  provenance,
)
from collab_jax import config as config_lib

_LOG = logging.getLogger(__name__)

# Settings of JAX under which these programs are not written: both make errors
# of what is right.
_PROMOTIONS = {
  'jax_numpy_rank_promotion': ('raise', 'allow'),
  'jax_numpy_dtype_promotion': ('strict', 'standard'),
}
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
_CACHE_TROUBLE = ('Error reading persistent', 'Error writing persistent')
# absl's errors: of values, of flags without one, of --noNAME with one.
_VALUE = re.compile(r'flag --(\w+)=(.*?): ', re.DOTALL)
_NO_VALUE = re.compile(
  r'(?:Missing value for flag )?--(\w+)(?: with no argument)?$'
)
_HAS_VALUE = re.compile(r'--no(\w+)=(.*) does not take an argument', re.DOTALL)
_NO_FILE = re.compile(r"ERROR:: Unable to open flagfile: .*('.*')")
_HELP = ('-h', '-help', '--help', '-helpshort', '--helpshort')
# Flags that say which process this is, and those that the config's values tell.
_OWN_FLAGS = ('--distributed', '-distributed', '--config', '-config')


def start(main: Callable[[list[str]], Any]) -> None:
  """Runs a launcher's `main` after its flags were read.

  `--help` shows all flags, and the fields of the config with the comments of
  its file.

  Args:
    main: Called with the program's name and arguments that are no flags.

  Raises:
    SystemExit: The program has ended.
  """

  def checked(argv):
    try:
      return main(argv)
    except app.UsageError as error:
      raise SystemExit(f'error: {error}; --help shows the flags') from error

  _output.prepare()
  with _output.until_closed():
    app.run(checked, flags_parser=parse_flags)


def parse_flags(argv: list[str]) -> list[str]:
  """Reads flags, and answers --help.

  Args:
    argv: Program and arguments.

  Returns:
    The program, and arguments that are no flags.

  Raises:
    SystemExit: A flag is wrong, or help was asked for.
  """
  others = [argument for argument in argv if argument not in _HELP]
  try:
    positional = flags.FLAGS(others)
  # ValueError: --noNAME=VALUE.
  except (flags.Error, ValueError) as error:
    positional = []
    if isinstance(error, ValueError) and not _HAS_VALUE.match(str(error)):
      raise
    if len(others) == len(argv):
      raise SystemExit(f'error: {_explain(error, argv)}') from error
  if len(others) < len(argv):
    print(_help_text(argv[0]))
    raise SystemExit(0)
  return positional


def describe_flags(module: Any) -> str:
  """Returns the flags of a module with their defaults and help.

  Args:
    module: A module, or the name of the program.
  """
  lines = []
  for flag in key_flags(module):
    lines.append(f'  --{flag.name}={_config_help.literal(flag.default)}')
    wrapped = textwrap.wrap(flag.help or '', 76)
    lines += textwrap.indent('\n'.join(wrapped), '    ').splitlines()
  return '\n'.join(lines)


def key_flags(module: Any) -> list[flags.Flag]:
  """Returns the flags of a module, sorted by their names.

  Args:
    module: A module, or the name of the program.
  """
  known = flags.FLAGS.get_key_flags_for_module(module)
  return sorted(known, key=lambda flag: flag.name)


def _help_text(program: str) -> str:
  """Returns a launcher's docstring, its flags, and the fields of its config."""
  about = sys.modules['__main__'].__doc__ or ''
  parts = [about.strip(), f'flags:\n{describe_flags(program)}']
  if (config := _config_flag()) is not None:
    name = f'--config={config.config_filename}'
    parts[1] += f'\n  {name}\n    {config.help}'
    file = config_lib.locate(config.config_filename)
    parts.append(_config_help.render(config.value, file))
  return '\n\n'.join(parts)


def _config_flag() -> Any:
  """Returns the flag --config if the program has one with a config."""
  known = {flag.name: flag for flag in key_flags(config_lib)}
  flag: Any = known.get('config')
  return flag if getattr(flag, 'value', None) is not None else None


def _explain(error: Exception, argv: list[str]) -> str:
  """Returns an error of flags in one line, with the flag that was meant."""
  config = _config_flag()
  fields = {} if config is None else _config_help.paths(config.value)
  if isinstance(error, flags.UnrecognizedFlagError):
    name = error.flagname
    given = next((a for a in argv if a.lstrip('-').startswith(name)), name)
    _, equals, value = given.partition('=')
    field = name if name in fields else ''
    if field:
      return (
        f'flag: got {given}, expected a flag, and {field} is a field of the'
        f' config; write --config.{field}{equals or "="}{value}'
      )
    for new in _renamed.FLAGS.get(name, ()):
      if new in flags.FLAGS:
        return (
          f'flag: got {given}, which is now --{new}; write'
          f' --{new}{equals or "="}{value}'
        )
    known = [f'--{flag}' for flag in flags.FLAGS]
    known += [f'--config.{field}' for field in fields]
    near = _validate.nearest(f'--{name}', known)
    hint = f'; did you mean {near}?' if near else '; --help shows the flags'
    return f'flag: got {given}, which is none{hint}'
  if match := re.match(r'flag --(\w+)=None: .* other than None', str(error)):
    return f'{match[1]}: is not given, expected --{match[1]}=...'
  if explained := _explain_value(str(error)):
    return explained
  match = re.match(r'flag --config\.([\w.]+)=(.*?): ', str(error), re.DOTALL)
  if match and match[1] in fields:
    value = fields[match[1]]
    return str(
      _validate.error(
        f'config.{match[1]}',
        match[2],
        f'a value of type {type(value).__name__}',
        f"write for instance --config.{match[1]}='{value}'",
      )
    )
  return ' '.join(str(error).split('\n'))


def _explain_value(text: str) -> str:
  """Returns absl's error of a flag's value in our grammar; '' for others."""
  if match := _HAS_VALUE.match(text):
    name, value = match[1], match[2]
    return f'{name}: got --no{name}={value}, expected --{name} or --no{name}'
  if match := _NO_VALUE.match(text):
    name = match[1]
    about = flags.FLAGS[name].help if name in flags.FLAGS else ''
    expected = f'{name}: got no value, expected --{name}=VALUE'
    return f'{expected}: {about}' if about else expected
  if match := _NO_FILE.match(text):
    return f'flagfile: got {match[1]}, expected a file with flags'
  match = _VALUE.match(text)
  if not match or match[1] not in flags.FLAGS:
    return ''
  name, value = match.groups()
  return str(_value_error(name, value, flags.FLAGS[name].parser))


def _value_error(name: str, value: str, parser: Any) -> ValueError:
  """Makes the error for a value that a parser of absl does not take."""
  if isinstance(parser, flags.EnumParser):
    return _validate.unknown(name, value, parser.enum_values)
  if isinstance(parser, flags.BooleanParser):
    return _validate.error(name, value, 'true or false')
  is_number = isinstance(parser, flags.IntegerParser | flags.FloatParser)
  if not is_number:
    return _validate.error(name, value, f'a value: {parser.syntactic_help}')
  expected = f'{parser.number_article} {parser.number_name}'
  low, high = parser.lower_bound, parser.upper_bound
  if low is not None:
    high = math.inf if high is None else high
    expected += f' {_validate.interval(low, high)}'
  return _validate.error(name, value, expected)


@contextlib.contextmanager
def runtime(
  precision: str = 'default',
  resumes: bool = True,
  processes: str | None = None,
) -> Iterator[None]:
  """Prepares a program, and turns its users' errors into one line each.

  Compiled programs are kept in JAX_COMPILATION_CACHE_DIR, by default in the
  user's cache folder: equal ones are compiled once, and not at all in the next
  run. JAX's settings in the environment win.

  Args:
    precision: Of float32 products, 'default' or 'highest'.
    resumes: Whether the program goes on when it is started again, which is
      told once it was interrupted.
    processes: Other processes to run with, see `distributed.together`; None
      for the config's field `distributed`.

  Raises:
    SystemExit: The program raised an error that its user can mend, or was
      interrupted.
  """
  _output.prepare()
  # For quantizers and codecs of one's own; a folder that is gone has none.
  with contextlib.suppress(OSError):
    sys.path.insert(0, os.getcwd())
  prepare_process()
  last_line = _interrupts.GOES_ON if resumes else _interrupts.BEGINS_ANEW
  with contextlib.ExitStack() as stack:
    with _short_errors():
      stack.enter_context(_interrupts.telling(distributed.tell_end))
      stack.enter_context(distributed.together(*_processes(processes)))
    with (
      _short_errors(),
      _interrupts.in_one_line(last_line),
      _output.until_closed(),
      _precision.matmul_precision(precision),
    ):
      yield


def _processes(text: str | None) -> tuple[str, dict[str, Any]]:
  """Returns the arguments of `distributed.together`.

  Args:
    text: Its first one; None for the config's field `distributed`.
  """
  flag = _config_flag()
  fields = {} if flag is None else flag.value.to_dict()
  config_text = fields.pop('distributed', '')
  text = config_text if text is None else text
  if not text:
    return '', {}
  values = {
    'program': ' '.join(_program_flags(text)),
    'version': importlib.metadata.version('collab_jax'),
    'commit': provenance.commit(),
    'jax': jax.__version__,
  }
  flat = _config_help.paths(fields) if fields else {}
  return text, values | {f'config.{n}': repr(v) for n, v in flat.items()}


def _program_flags(text: str) -> list[str]:
  """Returns the program's name and its flags, but those that may differ."""
  own = [
    argument
    for argument in sys.argv[1:]
    if not argument.startswith(_OWN_FLAGS) and argument != text
  ]
  return [Path(sys.argv[0]).name, *own]


@contextlib.contextmanager
def _short_errors() -> Iterator[None]:
  """Turns errors that a user can mend into one line each."""
  try:
    yield
  except (ValueError, AttributeError, OSError, ImportError) as error:
    raise SystemExit(f'error: {_in_words(error)}') from error
  except RuntimeError as error:
    if 'Unable to initialize backend' not in str(error):
      raise
    raise SystemExit(f'error: {error}') from error


def prepare_process() -> None:
  """Prepares memory, warnings and JAX; for workers, which have no user."""
  _reuse_large_buffers()
  logging.getLogger('jax').setLevel(logging.ERROR)
  # Such a picture is refused with an error, which is enough.
  warnings.simplefilter('ignore', Image.DecompressionBombWarning)
  _keep_compiled_programs()
  _allow_promotions()


def _in_words(error: Exception) -> Any:
  """Returns the words of an error for people."""
  if isinstance(error, OSError) and error.errno in _REFUSED and error.filename:
    return (
      f'{error.filename}: got {error.strerror!r}, expected a place that may be'
      ' read and written; name another one, of results by --workdir'
    )
  if isinstance(error, FileNotFoundError) and error.filename:
    return (
      f'{error.filename}: got {error.strerror!r}, expected a file or folder'
      ' that is there; check the path'
    )
  return error.args[0] if len(error.args) == 1 else error


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
