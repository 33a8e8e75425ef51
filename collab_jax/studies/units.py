"""Units of a sweep: passes of about equal cost, for a process each."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from collab_jax.models import paligemma
from collab_jax.studies import build
from collab_jax.studies import study as study_lib

Pass = study_lib.Pass


@dataclasses.dataclass(frozen=True)
class Plan:
  """Division of a study's passes into units.

  Attributes:
    units: Passes of each unit: names of codecs, and seeds.
    costs: Cost of each unit per picture, in passes through the whole model.
    count: Number of units that was asked for; there may be fewer passes.
    settings: Fields of the config on which records depend.
  """

  units: tuple[tuple[Pass, ...], ...]
  costs: tuple[float, ...]
  count: int
  settings: Mapping[str, Any]

  @property
  def passes(self) -> set[Pass]:
    """All passes."""
    return {one for unit in self.units for one in unit}

  def to_json(self) -> dict[str, Any]:
    """Returns the plan as plain values."""
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, values: Mapping[str, Any]) -> 'Plan':
    """Makes a plan of plain values."""
    units = tuple(
      tuple((name, seed) for name, seed in unit) for unit in values['units']
    )
    costs = tuple(values['costs'])
    return cls(units, costs, values['count'], values['settings'])


def divide(
  study: study_lib.Study,
  passes: Sequence[Pass],
  count: int,
  settings: Mapping[str, Any],
) -> Plan:
  """Divides passes into units of about equal cost.

  Neighbours stay together: seeds of a codec and codecs of a method share
  compiled programs.

  Args:
    study: The study.
    passes: Some of its passes, in their order.
    count: Number of units; there are fewer if there are fewer passes.
    settings: Fields of the config on which records depend.
  """
  blind = {name for name, _ in passes} & set(study.blind_names)
  groups = [[one] for one in passes if one[0] not in blind]
  if blind:  # One pass over all pictures makes them all.
    groups.append([one for one in passes if one[0] in blind])
  costs = pass_costs(study)
  weights = [costs[group[0][0]] for group in groups]
  bounds = _bounds(weights, min(count, len(groups)))
  units = [
    tuple(one for group in groups[start:end] for one in group)
    for start, end in bounds
  ]
  sums = [float(f'{sum(weights[a:b]):.4g}') for a, b in bounds]
  return Plan(tuple(units), tuple(sums), count, settings)


def _bounds(weights: Sequence[float], count: int) -> list[tuple[int, int]]:
  """Returns the ends of `count` runs of about equal weight, none empty."""
  bounds, start = [], 0
  for left in range(count, 0, -1):
    target = sum(weights[start:]) / left
    end, weight = start + 1, weights[start]
    # The nearer end, and one at least for each run that is left.
    while (
      end < len(weights) - (left - 1) and weight + weights[end] / 2 <= target
    ):
      weight += weights[end]
      end += 1
    bounds.append((start, end))
    start = end
  return bounds


def pass_costs(study: study_lib.Study) -> dict[str, float]:
  """Returns the cost of a caption by codec, in passes through the model.

  Products of the parameters: the image encoder where the server runs it, and
  the decoder for the prefix and the longest caption. Features are computed
  once a unit and shared by its codecs, so that they count for none.

  Args:
    study: The study.
  """
  dimensions = study.dimensions
  max_tokens = build.text_settings(study.config).max_tokens
  shapes = paligemma.shapes(dimensions)
  tokens = dimensions.vision.num_tokens
  encode = paligemma.count_parameters(shapes['img']) * tokens
  decode = paligemma.count_parameters(shapes['llm']) * (tokens + max_tokens)
  whole = encode + decode
  costs = {
    spec.name: (decode + encode * spec.server_encodes) / whole
    for spec in study.specs
  }
  return costs | dict.fromkeys(study.blind_names, 1.0)
