r"""Writes a checkpoint in another format.

collab-jax convert --source=paligemma-3b-mix-224.npz \
    --model=paligemma-3b-mix-224 --target=edge --to=orbax --part=edge

Every number arrives bit by bit as it was, unless --dtype converts it.
"""

from absl import app, flags

from collab_jax import (
  checkpoints,
  launcher,
)
from collab_jax.commands import dtype_flags
from collab_jax.models import zoo

_SOURCE = flags.DEFINE_string('source', None, 'npz or folder to read.')
_TARGET = flags.DEFINE_string('target', None, 'Folder, or FILE.npz, to make.')
_TO = flags.DEFINE_enum('to', None, checkpoints.FORMATS, 'Format to write.')
_MODEL = flags.DEFINE_string('model', None, 'Released model, for an npz.')
_CONFIG = flags.DEFINE_string('config', None, 'JSON file, for an npz.')
_DTYPE = flags.DEFINE_enum(
  'dtype', None, ('float32', 'bfloat16', 'float16'), 'Converts the parameters.'
)
_PART = flags.DEFINE_enum(
  'part', None, ('edge', 'server'), 'Writes what that side needs.'
)
_VARIANT = flags.DEFINE_string(
  'variant', None, "Variant of the source's files, such as fp16."
)
_ADAPTER = dtype_flags.define_adapter()
flags.mark_flags_as_required(['source', 'target', 'to'])


def main(argv):
  """Converts a checkpoint."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  if _MODEL.value and _CONFIG.value:
    raise app.UsageError('--model and --config say the same: give one')
  # absl requires them.
  assert _SOURCE.value is not None
  assert _TARGET.value is not None
  assert _TO.value is not None
  with launcher.runtime(resumes=False):
    config = None
    if _CONFIG.value:
      config = checkpoints.read_config(_CONFIG.value)
    elif _MODEL.value:
      config = zoo.card(_MODEL.value).config
    model_config = checkpoints.convert(
      _SOURCE.value,
      _TARGET.value,
      _TO.value,
      config=config,
      dtype=_DTYPE.value,
      part=_PART.value,
      variant=_VARIANT.value,
      adapter=_ADAPTER.value or None,
    )
    print(f'{_TARGET.value}: {model_config.name} as {_TO.value}')
