"""Training: the tiny model, models with the quantizer inside, and books.

What stands here makes the tiny model. `finetune` trains any with the quantizer
inside of it, as `tuning` and `bottleneck` say, and `memory` tells what that
takes; `codebooks` makes what both ends of a link hold.
"""

from collab_jax.training.pretrain import (
  evaluate,
  make_tokenizer,
  train,
)

__all__ = ['evaluate', 'make_tokenizer', 'train']
