"""Things that configs call by name: frozen dataclasses of plain values.

A table holds the names of a room, `{'kmeans': KMeans}`; outsiders are called
'package.module:Class'.
"""

from collections.abc import Mapping
import dataclasses
import importlib
from typing import Any

from collab_jax import _validate


def make(table: Mapping[str, type], what: str, name: str, **kw: Any) -> Any:
  """Makes a thing from plain values.

  Args:
    table: Classes by name.
    what: What such a thing is called in errors.
    name: A key of the table, or 'package.module:Class'.
    **kw: The fields of the class.

  Returns:
    The thing.

  Raises:
    ValueError: The name or a field is unknown, with the nearest known one, or
      a value is out of range.
    ImportError: The module cannot be imported.
  """
  cls = find(table, what, name)
  fields = [f.name for f in dataclasses.fields(cls) if f.init]
  for field in kw:
    if field not in fields:
      raise _validate.unknown(f'field of {name}', field, fields)
  try:
    return cls(**kw)
  except TypeError as error:
    raise ValueError(f'{name}: {error}') from error


def name(table: Mapping[str, type], thing: Any) -> str:
  """A short name, equal for equal settings only; defaults are left out.

  Args:
    table: Classes by name.
    thing: A dataclass of plain values, or of such things.

  Returns:
    For instance 'erasure(p=0.4)' or 'kmeans(k=8,centroids=scalar)'.
  """
  defaults = {f.name: f.default for f in dataclasses.fields(thing)}
  parts = [
    f'{field}={plain(table, getattr(thing, field))}'
    for field, default in defaults.items()
    if getattr(thing, field) != default
  ]
  called = title(table, type(thing))
  return f'{called}({",".join(parts)})' if parts else called


def settings(table: Mapping[str, type], kind: str, thing: Any) -> dict:
  """Returns all settings as plain values, which JSON can hold.

  Args:
    table: Classes by name.
    kind: Key of the class's name.
    thing: A dataclass of plain values, or of such things.

  Returns:
    For instance {'channel': 'erasure', 'p': 0.4, ...}, defaults included; a
    thing within is such a dict itself.
  """
  return {
    kind: title(table, type(thing)),
    **{
      field.name: settings(table, kind, value)
      if dataclasses.is_dataclass(value)
      else value
      for field in dataclasses.fields(thing)
      for value in [getattr(thing, field.name)]
    },
  }


def title(table: Mapping[str, type], cls: type) -> str:
  """What a class is called: its name in the table, or where it is found."""
  for known, other in table.items():
    if cls is other:
      return known
  return f'{cls.__module__}:{cls.__qualname__}'


def plain(table: Mapping[str, type], value: Any) -> Any:
  """A field's value, things within as their names."""
  return name(table, value) if dataclasses.is_dataclass(value) else value


def find(table: Mapping[str, type], what: str, name: str) -> type[Any]:
  """The class of a name; see `make`."""
  if name in table:
    return table[name]
  module, colon, attribute = name.partition(':')
  if not colon:
    raise _validate.unknown(what, name, table)
  cls = getattr(importlib.import_module(module), attribute, None)
  if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
    raise _validate.error(what, name, 'a dataclass')
  return cls
