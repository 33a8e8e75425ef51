"""Fields of a config with the comments of its file, as --help shows them.

The comments in configs/ are the source: those right above an assignment or an
entry of a dict, and those behind it.
"""

import ast
from collections.abc import Iterator, Mapping
import io
from pathlib import Path
import textwrap
import tokenize
from typing import Any, NamedTuple

import ml_collections

_WIDTH = 80
_SHOWN = 6  # Entries of a long tuple.


class Field(NamedTuple):
  """Field of a config.

  Attributes:
    name: Its path, 'mesh.data'.
    value: Its value, as it is written on a command line.
    comment: The comments of the file; '' for none.
  """

  name: str
  value: str
  comment: str


class _Place(NamedTuple):
  """Assignment of a field.

  Attributes:
    name: Its path.
    first: The first line.
    last: The last line.
    always: Whether it holds in every mode: no `if` is around it.
    relative: Whether a function returns it, which does not say where its
      group will be.
  """

  name: str
  first: int
  last: int
  always: bool
  relative: bool


class _Comments(NamedTuple):
  """Comments of a file's fields.

  Attributes:
    always: By path, of assignments that hold in every mode.
    sometimes: Of those that do not.
    names: Paths of all assignments, in their order.
    relative: Paths of those whose group is unknown.
  """

  always: dict[str, str]
  sometimes: dict[str, str]
  names: list[str]
  relative: set[str]


def fields(config: Any, path: str | Path) -> list[Field]:
  """Returns the fields of a config that are no groups, in the files' order.

  A group's comment stands with the first of its fields.

  Args:
    config: The config.
    path: Its file.
  """
  files = [_read(file) for file in _sources(Path(path))]
  order: dict[str, int] = {}
  for name in (name for file in files for name in file.names):
    order.setdefault(name, len(order))

  def position(leaf):
    paths = [*_groups(leaf[0]), leaf[0]]
    return [order.get(path, len(order)) for path in paths]

  shown: set[str] = set()
  found = []
  for name, value in sorted(_leaves(config), key=position):
    comments = [
      comment
      for path in (*_groups(name), name)
      if path not in shown and (comment := _comment(files, path))
    ]
    shown |= {*_groups(name), name}
    found.append(Field(name, literal(value), ' '.join(comments)))
  return found


def about(path: str | Path) -> str:
  """Returns the docstring of a config file."""
  return ast.get_docstring(ast.parse(Path(path).read_text('utf-8'))) or ''


def render(config: Any, name: str) -> str:
  """Returns the text of --help about a config.

  Args:
    config: The config.
    name: Its file, with arguments after a colon.
  """
  path = name.partition(':')[0]
  summary = textwrap.indent(about(path).replace('`', ''), '  ')
  lines = [f'fields of --config={name}:', '', summary, '']
  for field in fields(config, path):
    lines += textwrap.wrap(
      f'--config.{field.name}={field.value}',
      _WIDTH,
      initial_indent='  ',
      subsequent_indent=' ' * 6,
      break_long_words=False,
      break_on_hyphens=False,
    )
    if field.comment:
      lines += textwrap.wrap(
        field.comment,
        _WIDTH,
        initial_indent=' ' * 4,
        subsequent_indent=' ' * 4,
        break_on_hyphens=False,
      )
  return '\n'.join(lines)


def literal(value: Any) -> str:
  """Returns a value as Python writes it, a long tuple by its first entries."""
  if isinstance(value, tuple | list) and len(value) > _SHOWN + 2:
    first = ', '.join(map(repr, value[:_SHOWN]))
    return f'({first}, ... {len(value) - _SHOWN} more)'
  return repr(value)


def paths(config: Any) -> dict[str, Any]:
  """Returns the fields of a config that are no groups, by path."""
  return dict(_leaves(config))


def _leaves(config: Any, prefix: str = '') -> Iterator[tuple[str, Any]]:
  for name, value in config.items():
    if isinstance(value, Mapping | ml_collections.ConfigDict) and len(value):
      yield from _leaves(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value


def _groups(name: str) -> list[str]:
  """Returns the paths of the groups around a field, the outermost first."""
  parts = name.split('.')
  return ['.'.join(parts[:n]) for n in range(1, len(parts))]


def _comment(files: list[_Comments], name: str) -> str:
  """Returns the comments of a field, those of shared files first."""
  parts = name.split('.')
  for path in ('.'.join(parts[n:]) for n in range(len(parts))):
    for kind in ('always', 'sometimes'):
      texts = [
        getattr(file, kind).get(path, '')
        for file in files
        if path == name or path in file.relative
      ]
      if joined := ' '.join(dict.fromkeys(filter(None, texts))):
        return joined
  return ''


def _sources(path: Path) -> Iterator[Path]:
  """Yields the files of a config, those that it imports before itself."""
  tree = ast.parse(path.read_text('utf-8'))
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and node.module == path.parent.name:
      for alias in node.names:
        file = path.with_name(f'{alias.name}.py')
        if file.is_file():
          yield file
  yield path


def _read(path: Path) -> _Comments:
  """Reads the comments of a file's fields."""
  source = path.read_text('utf-8')
  by_line: dict[int, tuple[str, bool]] = {}
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type == tokenize.COMMENT:
      text = token.string.lstrip('#').strip()
      by_line[token.start[0]] = text, not token.line[: token.start[1]].strip()
  places = list(_assignments(ast.parse(source)))
  relative = {place.name for place in places if place.relative}
  found = _Comments({}, {}, [place.name for place in places], relative)
  for place in places:
    if comment := _around(by_line, place.first, place.last):
      table = found.always if place.always else found.sometimes
      table.setdefault(place.name, comment)
  return found


def _around(by_line: dict[int, Any], first: int, last: int) -> str:
  """Returns the comment above some lines, and those behind them."""
  above, line = [], first - 1
  while line in by_line and by_line[line][1]:
    above.insert(0, by_line[line][0])
    line -= 1
  for line in dict.fromkeys((first, last)):
    text, is_whole_line = by_line.get(line, ('', True))
    if not is_whole_line:
      above.append(text)
  return ' '.join(above)


def _assignments(tree: ast.Module) -> Iterator[_Place]:
  """Yields the assignments to fields in the syntax of a config file."""

  def walk(nodes, always, relative):
    for node in nodes:
      if isinstance(node, ast.If):
        yield from walk([*node.body, *node.orelse], False, relative)
      elif isinstance(node, ast.FunctionDef):
        # A helper that takes a config fills it; others return a group of it.
        is_relative = node.name.startswith('_') and not node.args.args
        yield from walk(node.body, always, is_relative)
      elif isinstance(node, ast.Assign):
        for name in _targets(node):
          place = _Place(name, node.lineno, _end(node), always, relative)
          yield place
          yield from _entries(node.value, place)
      elif isinstance(node, ast.Return):
        yield from _entries(
          node.value, _Place('', node.lineno, 0, always, True)
        )

  yield from walk(tree.body, True, False)


def _targets(node: ast.Assign) -> Iterator[str]:
  """Yields the fields that a statement sets: 'mesh.data' of c.mesh.data."""
  for target in node.targets:
    for item in target.elts if isinstance(target, ast.Tuple) else [target]:
      parts: list[str] = []
      while isinstance(item, ast.Attribute):
        parts.insert(0, item.attr)
        item = item.value
      if parts and isinstance(item, ast.Name):
        yield '.'.join(parts)


def _end(node: ast.Assign) -> int:
  """Returns the last line of a statement; the first one of a dict's."""
  has_entries = any(isinstance(n, ast.Dict) for n in ast.walk(node.value))
  return node.lineno if has_entries else node.end_lineno or node.lineno


def _entries(node: Any, group: _Place) -> Iterator[_Place]:
  """Yields the entries of a dict that stands in an expression.

  Args:
    node: The expression.
    group: The assignment of the dict.
  """
  if isinstance(node, ast.Call):
    for argument in node.args:
      yield from _entries(argument, group)
  elif isinstance(node, ast.Dict):
    for key, value in zip(node.keys, node.values, strict=True):
      if isinstance(key, ast.Constant) and isinstance(key.value, str):
        name = f'{group.name}.{key.value}' if group.name else key.value
        first = last = key.lineno
        if first <= group.first:  # On its line a comment is the group's.
          first = last = -1
        elif not isinstance(value, ast.Dict | ast.Call):
          last = value.end_lineno or last
        place = group._replace(name=name, first=first, last=last)
        yield place
        yield from _entries(value, place)
