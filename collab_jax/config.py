"""Parses config files' arguments, overrides and fields.

Arguments are those of `configs/tradeoff.py:k=8,mode=tiny`, fields such as
'kmeans(init=++)'.
"""

from collections.abc import Iterable, Mapping
import json
import pathlib
import re
import sys
from typing import Any

from absl import flags
import ml_collections
from ml_collections import config_flags

from collab_jax import _validate

Value = bool | int | float | str
Fields = Mapping[str, Any] | ml_collections.ConfigDict

_BOOLEANS = {'true': True, 'false': False, '1': True, '0': False}
# Has configs/ where the package is used from a clone.
_CLONE = pathlib.Path(__file__).parents[1]

_CALL = re.compile(r'(?P<name>[^(),=]+)(?:\((?P<settings>.*)\))?', re.DOTALL)
_INT = re.compile(r'-?\d+')
_FLOAT = re.compile(r'-?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?')


class ConfigError(flags.Error):
  """Error in a config, which absl prints without a traceback."""


def parse(
  arg: str | None, **defaults: Value | tuple[Value, ...]
) -> dict[str, Any]:
  """Reads the argument of a config file's `get_config`.

  Args:
    arg: 'name=value' pairs with commas between them, or None or '' for the
      defaults.
    **defaults: Defaults of all arguments; a value must have the type of its
      default. A tuple lists the allowed values, default first.

  Returns:
    A value for each of the defaults, in their order.

  Raises:
    ConfigError: An unknown or repeated name, a value of another type, or one
      that is not allowed.
  """
  values: dict[str, Any] = {
    name: default[0] if isinstance(default, tuple) else default
    for name, default in defaults.items()
  }
  given = set()
  for pair in filter(None, map(str.strip, (arg or '').split(','))):
    name, equals, text = map(str.strip, pair.partition('='))
    if name not in defaults:
      raise _validate.unknown('argument', name, defaults, kind=ConfigError)
    if not equals or name in given:
      raise ConfigError(
        f'got {pair!r} in {arg!r}, expected name=value, each name once'
      )
    given.add(name)
    values[name] = _convert(name, text, values[name])
    allowed = defaults[name]
    if isinstance(allowed, tuple) and values[name] not in allowed:
      raise _validate.unknown(name, text, allowed, kind=ConfigError)
  return values


def call(
  text: str, what: str, example: str, reserved: Iterable[str] = ()
) -> tuple[str, dict[str, Any]]:
  """Parses a name with settings, as fields of a config hold it.

  Args:
    text: For instance 'kmeans(init=++)' or 'pool'. A setting may have settings
      itself: 'kmeans(centroids=scalar(bits=4))'. A text with commas stands in
      double quotes, as in JSON.
    what: Kind of the named object, for errors.
    example: Example of the form, for errors.
    reserved: Settings that are not allowed.

  Returns:
    Name and settings; numbers become int or float, nested settings stay text.

  Raises:
    ValueError: The text is not of that form.
  """
  match = _CALL.fullmatch(text.strip())
  settings: dict[str, Any] = {}
  try:
    if not match:
      raise ValueError
    for part in _parts(match['settings'] or ''):
      name, equals, value = map(str.strip, part.partition('='))
      if not equals:
        raise ValueError
      if name in settings:
        raise ValueError(f'; {name!r} is there twice')
      if name in reserved:
        raise ValueError(f'; {name!r} may not stand there')
      settings[name] = _value(value)
  except ValueError as error:
    raise ValueError(
      f"{what}: got {text!r}, expected 'name' or 'name(setting=value,...)',"
      f' for instance {example!r}{error}'
    ) from None
  return match['name'].strip(), settings


def _parts(settings: str) -> list[str]:
  """Splits at commas outside of parentheses and double quotes."""
  parts, depth, quoted, escaped = [''], 0, False, False
  for letter in settings:
    if letter == '"' and not escaped:
      quoted = not quoted
    escaped = quoted and letter == '\\' and not escaped
    if not quoted:
      depth += (letter == '(') - (letter == ')')
    if depth < 0:
      break
    if letter == ',' and not depth and not quoted:
      parts.append('')
    else:
      parts[-1] += letter
  if depth:
    raise ValueError('; its parentheses do not match')
  if quoted:
    raise ValueError('; its quotes do not match')
  return [part for part in map(str.strip, parts) if part]


def _value(text: str) -> Value:
  """Reads a number, or a text that may stand in double quotes."""
  if text.startswith('"'):
    try:
      return str(json.loads(text))
    except ValueError:
      raise ValueError('; its quotes do not match') from None
  if _INT.fullmatch(text):
    return int(text)
  return float(text) if _FLOAT.fullmatch(text) else text


def define(
  default: str | None = None,
  name: str = 'config',
  *,
  flag_values: flags.FlagValues = flags.FLAGS,
  argv: list[str] | None = None,
) -> flags.FlagHolder:
  """Defines `--config=file.py:arg` and its overrides `--config.field=value`.

  `ml_collections.config_flags` does the work; this turns mistyped names into
  errors of one line with the nearest known name.

  Args:
    default: Default config file.
    name: Name of the flag.
    flag_values: Registry of the flag.
    argv: Command line with the overrides; `sys.argv` by default.

  Returns:
    The flag, whose `value` is the locked config.

  Raises:
    SystemExit: An override does not fit the default config, which is read at
      once. Another config is read, and refused, when absl parses flags.
  """
  holder = config_flags.DEFINE_config_file(
    name,
    help_string='Config file, with arguments after a colon.',
    flag_values=flag_values,
    sys_argv=argv,
  )
  flag = flag_values[name]
  flag.parser = _Parser(flag.parser, name, sys.argv if argv is None else argv)
  if default is not None:
    try:
      flag_values.set_default(name, default)
    except ConfigError as error:
      raise SystemExit(f'--{name}={default}: {error}') from error
  return holder


def locate(argument: str) -> str:
  """Finds a config file from the working folder, or else from the clone's.

  Args:
    argument: Name of the file, with arguments after a colon.

  Returns:
    The same, with the file's path in the clone if only that is there.
  """
  file = pathlib.Path(argument.partition(':')[0])
  elsewhere = not file.is_file() and (_CLONE / file).is_file()
  return str(_CLONE / argument) if elsewhere else argument


def check_overrides(
  config: Fields, argv: Iterable[str], name: str = 'config'
) -> None:
  """Refuses overrides of fields that the config does not have.

  Args:
    config: The config, nested mappings of plain values.
    argv: The command line.
    name: Name of the config's flag.

  Raises:
    ConfigError: An unknown field, with the nearest known one; or an index.
  """
  known = dict(_paths(config))
  pattern = re.compile(rf'--?(no)?{re.escape(name)}\.([^=]+)')
  for argument in argv:
    match = pattern.match(argument)
    if not match:
      continue
    field, bracket, _ = match[2].partition('[')
    if field not in known:
      raise _validate.unknown(
        f'field of --{name}', field, known, kind=ConfigError
      )
    if bracket and isinstance(known[field], tuple):
      raise ConfigError(
        f'--{name}.{match[2]}: got a part of a field, expected all of it, as in'
        f" --{name}.{field}='{known[field]}'"
      )


class _Parser(flags.ArgumentParser):
  """Loads a config file and checks the overrides before they are applied."""

  def __init__(self, inner: flags.ArgumentParser, name: str, argv: list[str]):
    self._inner = inner
    self._name = name
    self._argv = argv

  def parse(self, argument: str) -> Any:
    argument = locate(argument)
    file = pathlib.Path(argument.split(':', 1)[0])
    if not file.is_file():
      others = [str(other) for other in file.parent.glob('*.py')]
      raise _validate.unknown('config file', argument, others, kind=ConfigError)
    folder = file.resolve().parent
    root = str(folder.parent)
    shares = folder.name == 'configs' and (folder / 'common.py').is_file()
    if shares and root not in sys.path:
      sys.path.append(root)  # Its configs import `configs.common`.
    config: Any = self._inner.parse(argument)
    check_overrides(config, self._argv, self._name)
    return config

  def flag_type(self) -> str:
    return 'config file'


def _paths(config: Fields, prefix: str = '') -> Iterable[tuple[str, Any]]:
  for name, value in config.items():
    yield prefix + name, value
    if isinstance(value, Mapping | ml_collections.ConfigDict):
      yield from _paths(value, f'{prefix}{name}.')


def _convert(name: str, text: str, default: Value) -> Value:
  try:
    if isinstance(default, bool):
      return _BOOLEANS[text.lower()]
    return type(default)(text)
  except (KeyError, ValueError):
    kind = type(default).__name__
    wanted = f'a value of type {kind}, as in {name}={default}'
    raise _validate.error(name, text, wanted, kind=ConfigError) from None
