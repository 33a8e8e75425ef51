r"""Writes docs/flags.md: flags of all programs, and the fields of all configs.

python tools/flags.py

The help of flags and the comments of configs are the source, as of --help.
"""

import ast
from collections.abc import Iterator
import importlib
import importlib.util
from pathlib import Path
import sys
from typing import Any

from absl import flags

from collab_jax import __main__ as commands
from collab_jax import _config_help, launcher

ROOT = Path(__file__).parents[1]
PAGE = ROOT / 'docs' / 'flags.md'
_SHARED = 'common'
_HEAD = """# Flags

Of every program `--help` shows its flags, and the fields of its config; this
page has all of them at once. `python tools/flags.py` makes it of the same
source, the help of flags and the comments in `configs/`.

A field of a config is set by `--config.field=value`, and a config file, with
its mode, by `--config=configs/rate.py:mode=smoke`. Values are Python's: of
several `--config.ks='(4, 8)'`, of texts `--config.data=coco`. A name that is
none is refused with the nearest one, and `--limit=3` with `--config.limit=3`.
"""


def page() -> str:
  """Returns the page."""
  lines = [_HEAD]
  lines += ['## collab-jax', '', 'A dash is as good as an underscore.', '']
  for name, module in commands._COMMANDS.items():
    about = (ROOT / f'{module.replace(".", "/")}.py').read_text('utf-8')
    lines += [f'### collab-jax {name}', '', _summary(about), '']
    lines += [*_flags(lambda m=module: importlib.import_module(m)), '']
  lines += ['## Launchers', '']
  for path in sorted(ROOT.glob('experiments/*.py')):
    source = path.read_text('utf-8')
    lines += [f'### experiments/{path.name}', '', _summary(source), '']
    if 'adopt_module_key_flags' in source:
      lines += ['The flags are those of `collab-jax serve`.', '']
      continue
    lines += [*_flags(lambda p=path: _load(p)), *_config_line(source), '']
  return '\n'.join([*lines, *_configs()]).rstrip() + '\n'


def _summary(source: str) -> str:
  """Returns the first line of a module's docstring."""
  return (ast.get_docstring(ast.parse(source)) or '').partition('\n')[0]


def _config_line(source: str) -> Iterator[str]:
  """Yields the config file that a launcher reads by default."""
  for node in ast.walk(ast.parse(source)):
    match node:
      case ast.Call(
        func=ast.Attribute(attr='define', value=ast.Name(id='config_lib')),
        args=[ast.Constant(value=str(name))],
      ):
        yield f"- `--config='{name}'` Config file, see [below](#configs)."


def _load(path: Path) -> Any:
  """Imports a launcher."""
  name = f'launcher_{path.stem}'
  spec = importlib.util.spec_from_file_location(name, path)
  assert spec is not None
  assert spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  spec.loader.exec_module(module)
  return module


def _flags(load) -> list[str]:
  """Returns the flags of a module, which are forgotten then."""
  before = {*flags.FLAGS}
  module = load()
  lines = [
    f'- `--{flag.name}={_config_help.literal(flag.default)}`'
    f' {" ".join((flag.help or "").split())}'
    for flag in launcher.key_flags(module)
  ]
  # The next module has flags of the same names.
  for name in {*flags.FLAGS} - before:
    delattr(flags.FLAGS, name)
  return lines


def _configs() -> Iterator[str]:
  """Yields the fields of the configs, shared ones once."""
  yield '## Configs'
  yield ''
  sys.path.insert(0, str(ROOT))
  common = ROOT / 'configs' / f'{_SHARED}.py'
  module = importlib.import_module(f'configs.{_SHARED}')
  made = module.evaluation()
  module.codecs(made)
  shared = {f.name: f for f in _config_help.fields(made, common)}
  yield '### Fields of evaluations'
  yield ''
  yield _summary(common.read_text('utf-8'))
  yield ''
  yield from map(_line, shared.values())
  for path in sorted(ROOT.glob('configs/*.py')):
    if path == common:
      continue
    made = importlib.import_module(f'configs.{path.stem}').get_config()
    fields = _config_help.fields(made, path)
    inherits = f'from configs import {_SHARED}' in path.read_text('utf-8')
    other = [f for f in fields if not inherits or shared.get(f.name) != f]
    yield ''
    yield f'### configs/{path.name}'
    yield ''
    yield _config_help.about(path)
    yield ''
    if inherits:
      yield f'Beside fields of evaluations{":" if other else ", none."}'
      yield ''
    yield from map(_line, other)


def _line(field: _config_help.Field) -> str:
  return f'- `--config.{field.name}={field.value}` {field.comment}'.rstrip()


def main() -> None:
  """Writes the page."""
  PAGE.write_text(page(), 'utf-8')
  print(PAGE)


if __name__ == '__main__':
  main()
