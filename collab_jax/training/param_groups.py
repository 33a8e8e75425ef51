"""What trains: parts of the parameters, by their paths."""

from collections.abc import Mapping
import re
from typing import Any

import optax

from collab_jax.checkpoints import trees
from collab_jax.models import lora
from collab_jax.training import pretrain_step

# The first pattern that is found in a path says which part it belongs to.
_PARTS = (
  (r'^heads/', 'heads'),
  (r'^model/img/head/', 'projector'),
  (r'^model/img/', 'encoder'),
  (rf'^model/llm/layers/{lora.NAME}/.*/[ab]$', 'lora'),
  (rf'^model/llm/layers/{lora.NAME}/scale$', 'scale'),
  (r'^model/llm/', 'decoder'),
)
PARTS = tuple(part for _, part in _PARTS if part != 'scale')
# Those that the model that is loaded does not have.
ADDED = ('heads', 'lora', 'scale')
TRAIN = {
  'projector': ('projector',),
  'lora': ('projector', 'lora'),
  'all': ('projector', 'decoder'),
}


def part(path: str) -> str:
  """Returns which part of the parameters a path belongs to."""
  return next(name for found, name in _PARTS if re.search(found, path))


def trained(train: str, encoder: bool) -> tuple[str, ...]:
  """Returns the parts that train.

  Args:
    train: A key of `TRAIN`.
    encoder: Whether the image encoder trains, too, and with it the heads that
      read the labels of patches.

  Raises:
    ValueError: An unknown choice.
  """
  if train not in TRAIN:
    raise ValueError(f'train: got {train!r}, expected one of {[*TRAIN]}')
  return TRAIN[train] + (('encoder', 'heads') if encoder else ())


def split(params: trees.Tree, parts: tuple[str, ...]) -> tuple[Any, Any]:
  """Takes parameters apart: what trains, and what stays as it is.

  Args:
    params: {'model': {'img', 'llm'}, 'heads': ...}.
    parts: From `trained`.

  Returns:
    Two trees, each of which lacks what the other has.
  """
  flat = trees.flatten(params)
  moving = {path: x for path, x in flat.items() if part(path) in parts}
  still = {path: x for path, x in flat.items() if path not in moving}
  return trees.unflatten(moving), trees.unflatten(still)


def join(moving: trees.Tree, still: trees.Tree) -> dict[str, Any]:
  """Returns the tree that `split` took apart."""
  return trees.unflatten(trees.flatten(moving) | trees.flatten(still))


def optimizer(
  config: Any, rates: Mapping[str, float]
) -> optax.GradientTransformation:
  """The optimizer of `step.optimizer`, with a share of its rate by part.

  Args:
    config: As of `step.optimizer`.
    rates: What the updates of each part are scaled by; 1 if not there.

  Raises:
    ValueError: An unknown part, or a rate below 0.
  """
  scales = []
  for name, share in rates.items():
    if name not in PARTS or not share >= 0:
      raise ValueError(
        f'rates: got {name} = {share!r}, expected one of {PARTS}, at least 0'
      )
    scales.append(optax.masked(optax.scale(share), _mask_of(name)))
  return optax.chain(pretrain_step.optimizer(config), *scales)


def _mask_of(name):
  def mask(tree):
    return trees.unflatten({p: part(p) == name for p in trees.flatten(tree)})

  return mask
