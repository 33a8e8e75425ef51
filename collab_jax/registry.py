"""Classes by name, as configs name them: frozen dataclasses of plain values.

A table maps the names of a package to its classes, `{'kmeans': KMeans}`; other
classes are named 'package.module:Class', which imports the module. Text out of
data (files, messages) names no module: `check_data`.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import importlib
from typing import Any

from collab_jax import _validate

_SHOWN = 64  # Letters of a refused text that its error shows.


def make(table: Mapping[str, type], kind: str, name: str, /, **kw: Any) -> Any:
  """Makes an instance from plain values.

      make({'kmeans': KMeans}, 'quantizer', 'kmeans', k=8)

  Args:
    table: Classes by name.
    kind: Kind of the classes, for errors.
    name: A key of the table, or 'package.module:Class'.
    **kw: Fields of the class.

  Returns:
    The instance.

  Raises:
    ValueError: The name or a field is unknown, with the nearest known one, or
      a value is out of range.
    ImportError: The module cannot be imported.
  """
  cls = find(table, kind, name)
  fields = [f.name for f in dataclasses.fields(cls) if f.init]
  for field in kw:
    if field not in fields:
      raise _validate.unknown(f'field of {name}', field, fields)
  lacking = [
    f.name
    for f in dataclasses.fields(cls)
    if f.init
    and f.name not in kw
    and f.default is dataclasses.MISSING
    and f.default_factory is dataclasses.MISSING
  ]
  if lacking:
    example = ','.join(f'{field}=...' for field in lacking)
    raise ValueError(
      f'{name}: got no {" and no ".join(lacking)}, expected {name}({example})'
    )
  try:
    return cls(**kw)
  except TypeError as error:
    raise ValueError(f'{name}: {error}') from error


def name(table: Mapping[str, type], instance: Any) -> str:
  """Returns a short name, equal for equal settings only; omits defaults.

  Args:
    table: Classes by name.
    instance: A dataclass of plain values, or of such dataclasses.

  Returns:
    For instance 'erasure(p=0.4)' or 'kmeans(k=8,centroids=scalar)'.
  """
  defaults = {f.name: f.default for f in dataclasses.fields(instance)}
  parts = [
    f'{field}={plain(table, getattr(instance, field))}'
    for field, default in defaults.items()
    if getattr(instance, field) != default
  ]
  class_name = title(table, type(instance))
  return f'{class_name}({",".join(parts)})' if parts else class_name


def settings(table: Mapping[str, type], kind: str, instance: Any) -> dict:
  """Returns all settings as plain values, which JSON can hold.

  Args:
    table: Classes by name.
    kind: Key of the class's name.
    instance: A dataclass of plain values, or of such dataclasses.

  Returns:
    For instance {'channel': 'erasure', 'p': 0.4, ...}, defaults included;
    a dataclass within becomes such a dict itself.
  """
  return {
    kind: title(table, type(instance)),
    **{
      field.name: settings(table, kind, value)
      if dataclasses.is_dataclass(value)
      else value
      for field in dataclasses.fields(instance)
      for value in [getattr(instance, field.name)]
    },
  }


def check_data(
  kind: str,
  text: str,
  action: str = 'name modules in a flag or a config only',
) -> None:
  """Raises ValueError if text out of a file or a message names a module.

  Data never names code: `find` imports what 'package.module:Class' names,
  which only a user's own flag, config or call may say. Every text of a rate
  curve, a handshake or a record passes here before anything is made of it.

  Args:
    kind: Kind of what is named, for errors.
    text: A name with its settings, at any depth.
    action: Words on what to do, for the error.
  """
  if ':' in text:
    raise _validate.error(
      kind,
      text[:_SHOWN],
      "a name of the package, without ':', in data",
      action,
    )


def title(table: Mapping[str, type], cls: type) -> str:
  """Returns the name of a class: its key in the table, or its path."""
  for known, other in table.items():
    if cls is other:
      return known
  return f'{cls.__module__}:{cls.__qualname__}'


def plain(table: Mapping[str, type], value: Any) -> Any:
  """Returns a field's value, with dataclasses as their names."""
  return name(table, value) if dataclasses.is_dataclass(value) else value


def find(table: Mapping[str, type], kind: str, name: str) -> type[Any]:
  """Returns the class of a name; see `make`."""
  if name in table:
    return table[name]
  if ':' not in name:
    raise unknown(table, kind, name)
  cls = load(kind, name)
  if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
    raise _validate.error(
      kind,
      name,
      'a frozen dataclass',
      'write @dataclasses.dataclass(frozen=True) above its class',
    )
  return cls


def unknown(table: Iterable[str], kind: str, name: str) -> ValueError:
  """Returns the error of a name that is not in a table, and has no colon.

  Args:
    table: The names of the package.
    kind: Kind of what is named, for errors.
    name: The name; one with a dot may be a class's, in Python's form.
  """
  module, dot, attribute = name.rpartition('.')
  parts = name.split('.')
  # Classes begin with a capital; 'mine.py' is a file.
  if dot and attribute[:1].isupper() and all(map(str.isidentifier, parts)):
    return _validate.error(
      kind,
      name,
      "a name of the package, or 'package.module:Class'",
      f"write '{module}:{attribute}' if it is a class of your own",
    )
  return _validate.unknown(kind, name, table)


def load(kind: str, name: str) -> Any:
  """Imports what 'package.module:Name' names.

  Args:
    kind: Kind of what is named, for errors.
    name: Module and name; 'module:Outer.Inner' for a class in a class.

  Raises:
    ValueError: The text is not of that form, or the module has no such name.
    ImportError: The module cannot be imported.
  """
  module, _, attribute = name.partition(':')
  parts = [*module.split('.'), *attribute.split('.')]
  if not all(part.isidentifier() for part in parts):
    raise _validate.error(
      kind, name, "'package.module:Class'", 'name a module, not a file'
    )
  try:
    value = importlib.import_module(module)
  except ModuleNotFoundError as error:
    missing = error.name or ''
    if module != missing and not module.startswith(f'{missing}.'):
      raise  # The module is there, and imports one that is not.
    raise ModuleNotFoundError(
      f'{kind}: got {name!r}, expected a module on the path, and there is no'
      f' {missing}; start in its folder, or put that on PYTHONPATH',
      name=missing,
    ) from error
  for part in attribute.split('.'):
    if not hasattr(value, part):
      near = _validate.nearest(part, [n for n in vars(value) if n[0] != '_'])
      hint = f'; did you mean {near!r}?' if near else ''
      raise ValueError(
        f'{kind}: got {name!r}, but {module} has no {attribute}{hint}'
      )
    value = getattr(value, part)
  return value
