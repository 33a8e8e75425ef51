r"""Says what a model's folder holds, which files count, and why.

collab-jax inspect some/folder
collab-jax inspect tiny

Ends with 1 where the model would be refused, and says why.
"""

from absl import app, flags

from collab_jax import checkpoints, launcher
from collab_jax.commands import dtype_flags

_VARIANT = flags.DEFINE_string('variant', None, 'Variant, such as fp16.')
_ADAPTER = dtype_flags.define_adapter()
_PART = flags.DEFINE_enum(
  'part', None, ('edge', 'server'), 'Describes what that side needs.'
)


def main(argv):
  """Describes a checkpoint."""
  if len(argv) != 2:
    raise app.UsageError(f'expected one folder or npz, got {argv[1:]}')
  with launcher.runtime(resumes=False):
    description = checkpoints.describe(
      argv[1], _VARIANT.value, _ADAPTER.value or None, _PART.value
    )
    # Names of files are somebody's, and no commands of a terminal.
    text = str(description)
    print(
      ''.join(
        c if c.isprintable() or c == '\n' else ascii(c)[1:-1] for c in text
      )
    )
  return 1 if description.refusals else 0
