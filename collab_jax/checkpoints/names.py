"""Names of models: those that ship with the package, and released ones."""

from importlib import resources
import os
import pathlib

from collab_jax import _validate
from collab_jax.models import zoo

# The models that ship with the package, each a folder in collab_jax/assets.
NAMES = ('tiny',)


def folder(name: str) -> pathlib.Path:
  """Returns the folder of a model that ships with the package."""
  return pathlib.Path(str(resources.files('collab_jax'))) / 'assets' / name


def resolve(
  name_or_path: str | os.PathLike[str],
) -> str | os.PathLike[str]:
  """Returns the path of a name; paths and ids of the Hub stay.

  Args:
    name_or_path: The first argument of `load`.

  Raises:
    ValueError: There is no such name, or it is of a released model, whose
      weights do not ship with the package.
  """
  if name_or_path in NAMES:
    return folder(str(name_or_path))
  path = pathlib.Path(name_or_path)
  if path.exists():
    return path
  if name_or_path in zoo.NAMES:
    raise ValueError(
      f'{name_or_path} does not ship with the package: load({name_or_path!r}, '
      f'path). To get it:\n{zoo.describe(str(name_or_path))}'
    )
  if path.suffix or len(path.parts) > 1 or not isinstance(name_or_path, str):
    return name_or_path
  paths = (
    'the path of an npz or folder, an id of the Hugging Face Hub such as'
    " 'google/paligemma-3b-mix-224', or a name of models.zoo and its path"
  )
  raise _validate.unknown('model', name_or_path, [*NAMES, *zoo.NAMES], paths)
