"""Groups of parameters by path: trainable or frozen, and their rates."""

from collections.abc import Mapping
import re
from typing import TYPE_CHECKING, Any

import optax

from collab_jax import _renamed, _validate
from collab_jax.checkpoints import trees
from collab_jax.models import lora
from collab_jax.training import pretrain_step

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)

# The first pattern found in a path decides its group.
_PATTERNS = (
  (r'^heads/', 'heads'),
  (r'^model/img/head/', 'projector'),
  (r'^model/img/', 'encoder'),
  (rf'^model/llm/layers/{lora.NAME}/.*/[ab]$', 'lora'),
  (rf'^model/llm/layers/{lora.NAME}/scale$', 'scale'),
  (r'^model/llm/', 'decoder'),
)
GROUPS = tuple(group for _, group in _PATTERNS if group != 'scale')
# Groups that a loaded model does not have.
ADDED = ('heads', 'lora', 'scale')
TRAIN = {
  'projector': ('projector',),
  'lora': ('projector', 'lora'),
  'all': ('projector', 'decoder'),
}


def group_of(path: str) -> str:
  """Returns the group of parameters that a path belongs to."""
  return next(name for pattern, name in _PATTERNS if re.search(pattern, path))


def trainable_groups(train: str, encoder: bool) -> tuple[str, ...]:
  """Returns the groups that train.

  Args:
    train: A key of `TRAIN`.
    encoder: Whether the image encoder trains, too, and with it the heads that
      read the labels of patches.

  Raises:
    ValueError: An unknown choice.
  """
  _validate.choice('train', train, TRAIN)
  return TRAIN[train] + (('encoder', 'heads') if encoder else ())


def split(params: trees.Tree, groups: tuple[str, ...]) -> tuple[Any, Any]:
  """Splits parameters into trainable and frozen ones.

  Args:
    params: {'model': {'img', 'llm'}, 'heads': ...}.
    groups: From `trainable_groups`.

  Returns:
    Two trees, each of which lacks the leaves of the other.
  """
  flat = trees.flatten(params)
  trainable = {p: x for p, x in flat.items() if group_of(p) in groups}
  frozen = {p: x for p, x in flat.items() if p not in trainable}
  return trees.unflatten(trainable), trees.unflatten(frozen)


def join(trainable: trees.Tree, frozen: trees.Tree) -> dict[str, Any]:
  """Joins the two trees of `split` again."""
  return trees.unflatten(trees.flatten(trainable) | trees.flatten(frozen))


def optimizer(
  config: Any, rates: Mapping[str, float]
) -> optax.GradientTransformation:
  """Makes the optimizer of `pretrain_step`, with rates scaled by group.

  Args:
    config: As of `pretrain_step.optimizer`.
    rates: Factor of the updates of each group; 1 for groups not in it.

  Raises:
    ValueError: An unknown group, or a rate below 0.
  """
  scales = []
  for name, share in rates.items():
    if name not in GROUPS or not share >= 0:
      raise ValueError(
        f'rates: got {name} = {share!r}, expected one of {GROUPS}, at least 0'
      )
    scales.append(optax.masked(optax.scale(share), _mask_of(name)))
  return optax.chain(pretrain_step.optimizer(config), *scales)


def _mask_of(name):
  def mask(tree):
    paths = trees.flatten(tree)
    return trees.unflatten({p: group_of(p) == name for p in paths})

  return mask
