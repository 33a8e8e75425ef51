"""Sweeps: work units made by the function `sweep` of a config file."""

from collections.abc import Callable, Sequence
import functools
import os
import re
import runpy
from typing import Any

import ml_collections

from collab_jax.models import paligemma
from collab_jax.studies import build, tradeoff


def work_units(
  config: ml_collections.ConfigDict, sweep: Callable[[Callable, Any], None]
) -> list[ml_collections.ConfigDict]:
  """Makes the configs of a sweep.

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


def make_studies(
  units: Sequence[ml_collections.ConfigDict],
) -> list[tradeoff.TradeoffStudy]:
  """Makes the studies of work units; those of one model load it once.

  Args:
    units: From `work_units`.
  """
  loads: dict[str, Callable[[], paligemma.Model]] = {}
  studies = []
  for unit in units:
    model = repr([unit[name] for name in build.MODEL_FIELDS])
    load = functools.cache(functools.partial(build.load_model, unit))
    studies.append(tradeoff.TradeoffStudy(unit, loads.setdefault(model, load)))
  return studies


def load_sweep(path: str | os.PathLike[str]) -> Callable[[Any, Any], None]:
  """Reads the function `sweep` of a config file.

  Args:
    path: The file; arguments after a colon are ignored.

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
