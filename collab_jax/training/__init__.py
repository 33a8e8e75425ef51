"""Training: the tiny model, models with the quantizer inside, and codebooks.

`train` makes the tiny model, and `train_questions` teaches it to answer.
`finetune` trains any model with the quantizer
inside of it (see `finetune_step` and `bottleneck`), `memory` estimates the
memory that takes, and `codebooks` trains quantizer parameters.
"""

from typing import TYPE_CHECKING

from collab_jax import _renamed
from collab_jax.training.pretrain import (
  evaluate,
  make_tokenizer,
  train,
)
from collab_jax.training.questions import train as train_questions

__all__ = ['evaluate', 'make_tokenizer', 'train', 'train_questions']
__dir__ = __all__.copy

if not TYPE_CHECKING:  # Unknown names are errors to type checkers.
  __getattr__ = _renamed.module_getattr(__name__)
