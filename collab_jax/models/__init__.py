"""PaliGemma and its parts. Modules are imported when first used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
  from collab_jax.models import (
    decoding,
    gemma,
    paligemma,
    siglip,
    tokenizer,
    zoo,
  )

__all__ = ['decoding', 'gemma', 'paligemma', 'siglip', 'tokenizer', 'zoo']
__dir__ = __all__.copy


def __getattr__(name: str) -> Any:
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return importlib.import_module(f'{__name__}.{name}')
