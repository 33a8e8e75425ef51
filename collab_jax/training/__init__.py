"""Training: the tiny model, models with the quantizer inside, and codebooks.

`train` makes the tiny model. `finetune` trains any model with the quantizer
inside of it (see `finetune_step` and `bottleneck`), `memory` estimates the
memory that takes, and `codebooks` trains quantizer parameters.
"""

from collab_jax.training.pretrain import (
  evaluate,
  make_tokenizer,
  train,
)

__all__ = ['evaluate', 'make_tokenizer', 'train']
