"""Training of the tiny model."""

from collab_jax.training.loop import evaluate, make_tokenizer, train

__all__ = ['evaluate', 'make_tokenizer', 'train']
