"""Reader of the photographs that ship with the package."""

from importlib import resources
import pathlib

from collab_jax.data import files, jsonl_folder


def photos(
  limit: int | None = None, size: int = 224, method: str = 'hf_bicubic'
) -> files.Files:
  """Makes a reader of seven photographs with five captions each.

  For a look at features, and to run a released model once; too few to score
  one. assets/photos/README.md has their authors and licences.

  Args:
    limit: Largest number of pictures; None for all.
    size: Side of the pictures in pixels.
    method: Method of resizing, a name in `pictures.METHODS`.

  Returns:
    A reader whose name is 'photos/test'.

  Raises:
    ValueError: A negative limit, or an unknown method.
  """
  assets = pathlib.Path(str(resources.files('collab_jax'))) / 'assets'
  return jsonl_folder.jsonl(assets / 'photos', 'test', limit, size, method)
