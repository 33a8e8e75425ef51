"""Downloads of released checkpoints, on explicit request only."""

import importlib
import os
import pathlib

from collab_jax.models import zoo

_FILES = ('*.json', '*.safetensors', 'tokenizer.model')


def fetch(
  name: str,
  folder: str | os.PathLike[str] | None = None,
  revision: str = 'main',
) -> pathlib.Path:
  """Downloads the missing files of a released model from Hugging Face.

  Args:
    name: One of `collab_jax.models.zoo.NAMES`.
    folder: Target folder; None for the cache of huggingface_hub.
    revision: Branch; PaliGemma 1 has 'bfloat16' and 'float16' beside float32.

  Returns:
    The folder, for `collab_jax.load(name, folder)`.

  Raises:
    ValueError: There is no such model.
    ModuleNotFoundError: huggingface_hub is not installed.
  """
  card = zoo.card(name)
  try:
    hub = importlib.import_module('huggingface_hub')
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      "fetching needs huggingface_hub: pip install 'collab_jax[hub]'"
    ) from error
  return pathlib.Path(
    hub.snapshot_download(
      card.huggingface,
      revision=revision,
      local_dir=folder,
      allow_patterns=list(_FILES),
    )
  )
