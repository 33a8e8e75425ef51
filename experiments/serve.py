r"""Serves a model to edges: `collab-jax serve`, from a clone.

python experiments/serve.py --model=tiny --quantizers='kmeans(k=8)'
"""

if __name__ == '__main__':  # Imports take seconds.
  from collab_jax import _interrupts

  _interrupts.watch_imports(_interrupts.BEGINS_ANEW)

from absl import flags

from collab_jax import launcher
from collab_jax.commands import serve

flags.adopt_module_key_flags(serve)

if __name__ == '__main__':
  launcher.start(serve.main)
