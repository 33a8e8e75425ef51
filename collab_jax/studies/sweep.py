"""Work units: the configs that a config file's `sweep(add, config)` makes."""

from collections.abc import Callable
import os
import re
import runpy
from typing import Any

import ml_collections


def work_units(
  config: ml_collections.ConfigDict, sweep: Callable[[Callable, Any], None]
) -> list[ml_collections.ConfigDict]:
  """The configs of a sweep.

  Args:
    config: What the units have in common.
    sweep: Called as sweep(add, config); calls add(field=value), once a unit.

  Returns:
    One config per unit.

  Raises:
    AttributeError: A field that the config does not have.
  """
  units = []

  def add(**fields):
    unit = config.copy_and_resolve_references().lock()
    for name, value in fields.items():
      setattr(unit, name, value)
    units.append(unit)

  sweep(add, config)
  return units


def load_sweep(path: str | os.PathLike[str]) -> Callable[[Any, Any], None]:
  """Reads the function `sweep` of a config file.

  Args:
    path: The file; arguments after a colon are left aside.

  Returns:
    The function.

  Raises:
    ValueError: The file has none.
  """
  file = os.fspath(path).partition(':')[0]
  sweep = runpy.run_path(file).get('sweep')
  if sweep is None:
    raise ValueError(f'{path} has no function sweep(add)')
  return sweep


def parse_shard(text: str) -> tuple[int, int]:
  """Reads 'i/n', 0 <= i < n."""
  match = re.fullmatch(r'(\d+)/(\d+)', text)
  if not match or int(match[1]) >= int(match[2]):
    raise ValueError(f'shard: got {text!r}, expected i/n with 0 <= i < n')
  return int(match[1]), int(match[2])
