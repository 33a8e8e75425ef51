"""Choice whether capital letters count when texts are compared."""

from collections.abc import Callable
from typing import Any

from collab_jax import _validate

_FOLDS: dict[str, Callable[[str], str]] = {'exact': str, 'ignore': str.lower}


def check(case: Any) -> None:
  """Raises ValueError for a case that is neither 'exact' nor 'ignore'."""
  _validate.choice('case', case, _FOLDS)


def fold(case: str) -> Callable[[str], str]:
  """Returns the function that texts pass before they are compared."""
  return _FOLDS[case]
