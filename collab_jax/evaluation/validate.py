"""Checks of an evaluation's settings."""

from collections.abc import Sequence

from collab_jax.evaluation import blind as blinds


def check_passes(
  seeds: Sequence[int],
  batch_size: int = 1,
  workers: int = 1,
  blind: Sequence[str] = (),
) -> None:
  """Checks the settings that do not depend on model and data.

  Args:
    seeds: See `evaluate`.
    batch_size: See `evaluate`.
    workers: See `evaluate`.
    blind: See `evaluate`.

  Raises:
    ValueError: One of them is out of range.
  """
  listed = isinstance(seeds, Sequence) and not isinstance(seeds, str)
  whole = listed and all(type(seed) is int for seed in seeds)
  if not whole or not seeds or len(set(seeds)) < len(seeds):
    raise ValueError(
      f'seeds: got {seeds}, expected one or more whole numbers, all different'
    )
  for name, value in (('batch_size', batch_size), ('workers', workers)):
    if not isinstance(value, int) or value < 1:
      raise ValueError(f'{name}: got {value}, expected at least 1')
  blinds.check(blind)
