"""Training: of the tiny model here, of others and of books in the modules.

`finetune` trains a model with the quantizer inside of it, as `tuning` and
`bottleneck` say, in as much memory as `memory` finds; `codebooks` trains what
both ends of a link hold.
"""

from collab_jax.training.loop import evaluate, make_tokenizer, train

__all__ = ['evaluate', 'make_tokenizer', 'train']
