"""Flags that name a model, the same in every command that loads one."""

from typing import Any, NamedTuple

from absl import flags

# The flags belong to the command that calls `define`, and to its --help.
flags.disclaim_key_flags()


class ModelFlags(NamedTuple):
  """Holders of the flags; see `define`."""

  model: Any
  model_path: Any

  @property
  def source(self) -> tuple[str, str | None]:
    """The first two arguments of `checkpoints.load`."""
    return self.model.value, self.model_path.value or None


def define() -> ModelFlags:
  """Defines the flags."""
  return ModelFlags(
    model=flags.DEFINE_string('model', 'tiny', "Name, or a model's folder."),
    model_path=flags.DEFINE_string(
      'model_path', '', 'Folder or npz of a released model, named by model.'
    ),
  )
