"""The command `collab-jax`: its subcommands, each with flags of its own.

A subcommand is a module with `main(argv)`, whose flags are defined when it is
imported, and which is imported only when it is asked for.
"""

import ast
import functools
import importlib
from importlib import metadata
import importlib.util
from pathlib import Path
import platform
import sys
from types import ModuleType

from absl import app, flags

from collab_jax import __version__, _interrupts, _output, _validate

_COMMANDS = {
  'caption': 'collab_jax.commands.caption',
  'convert': 'collab_jax.commands.convert',
  'export': 'collab_jax.commands.export',
  'fit': 'collab_jax.commands.fit',
  'inspect': 'collab_jax.commands.inspect',
  'page': 'collab_jax.commands.page',
  'serve': 'collab_jax.commands.serve',
}

# What the extra 'serving' installs.
_SERVING = ('aiohttp', 'google', 'grpc', 'prometheus_client')

_HELP = ('-h', '-help', '--help', '--helpshort')
_VERSION = ('-V', '--version', 'version')


def _summary(module: str) -> str:
  """The first line of a module's docstring; the module is not imported."""
  spec = importlib.util.find_spec(module)
  assert spec is not None
  assert spec.origin is not None
  tree = ast.parse(Path(spec.origin).read_text('utf-8'))
  return (ast.get_docstring(tree) or '').partition('\n')[0]


def _overview() -> str:
  width = max(map(len, _COMMANDS))
  lines = [
    f'  {name:{width}}  {_summary(module)}'
    for name, module in _COMMANDS.items()
  ]
  return '\n'.join(
    [
      'usage: collab-jax COMMAND [--flag=value ...]',
      '',
      *lines,
      '',
      'To begin with, in two terminals:',
      '',
      '  collab-jax serve',
      '  collab-jax caption picture.png    # or: collab-jax page',
      '',
      'collab-jax COMMAND --help shows the flags of a command, --version the',
      'version.',
    ]
  )


def _version() -> str:
  jax = metadata.version('jax')
  python = platform.python_version()
  return f'collab_jax {__version__}, jax {jax}, Python {python}'


def _described(module: ModuleType) -> str:
  """Returns a subcommand's docstring and flags."""
  launcher = importlib.import_module('collab_jax.launcher')
  text = launcher.describe_flags(module)
  return f'{(module.__doc__ or "").strip()}\n\nflags:\n{text}'


def _start(module: ModuleType, argv: list[str]) -> int | None:
  """Runs a subcommand, and describes it if its arguments are wrong."""
  try:
    return module.main(argv)
  except app.UsageError as error:
    about, name = (module.__doc__ or '').strip(), argv[0].split()[-1]
    raise SystemExit(
      f'{about}\n\ncollab-jax {name} --help shows its flags.\n\nerror: {error}'
    ) from error


def run(argv: list[str] | None = None) -> None:
  """Starts a subcommand.

  Args:
    argv: Program, subcommand and flags; default `sys.argv`.

  Raises:
    SystemExit: There is no such subcommand, or it has ended.
  """
  _output.prepare()
  # Imports take seconds, too.
  with _interrupts.in_one_line('interrupted'), _output.until_closed():
    _run(sys.argv if argv is None else argv)


def _run(argv: list[str]) -> None:
  name, arguments = (argv[1], argv[2:]) if argv[1:] else ('--help', [])
  if name in (*_HELP, 'help'):
    print(_overview())
    raise SystemExit(0 if argv[1:] else 1)
  if name in _VERSION or (name in _COMMANDS and '--version' in arguments):
    print(_version())
    raise SystemExit(0)
  if name not in _COMMANDS:
    raise SystemExit(f'error: {_validate.unknown("command", name, _COMMANDS)}')
  try:
    with _interrupts.in_one_line('interrupted', at_once=True):
      module = importlib.import_module(_COMMANDS[name])
  except ModuleNotFoundError as error:
    if (error.name or '').partition('.')[0] not in _SERVING:
      raise
    raise SystemExit(
      f"error: {name} needs the extra 'serving': pip install"
      " 'collab_jax[serving]'"
    ) from error
  except ImportError as error:  # Of an extra.
    raise SystemExit(f'error: {error}') from error
  if any(argument in _HELP for argument in arguments):
    print(_described(module))
    raise SystemExit(0)
  # A path may stand before flags, and flags be spelled with dashes.
  flags.FLAGS.set_gnu_getopt(True)
  app.run(
    functools.partial(_start, module),
    [f'{argv[0]} {name}', *map(_flag, arguments)],
    # Imported late, as JAX is with it.
    flags_parser=importlib.import_module('collab_jax.launcher').parse_flags,
  )


def _flag(argument: str) -> str:
  """'--max-bytes=9' as absl has it, '--max_bytes=9'."""
  if not argument.startswith('--'):
    return argument
  name, equals, value = argument[2:].partition('=')
  return f'--{name.replace("-", "_")}{equals}{value}'


if __name__ == '__main__':
  run()
