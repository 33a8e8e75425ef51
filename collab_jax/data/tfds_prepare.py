"""Preparation of datasets by TensorFlow Datasets, for the reader `tfds`."""

import importlib.util
import os
from pathlib import Path
from typing import Any
import urllib.error
import urllib.request

from collab_jax import _validate
from collab_jax.data import tfds_reader

NAMES = ('scenes', 'coco_captions')

# Downloads of the builder of coco_captions.
SOURCES = (
  'http://images.cocodataset.org/annotations/annotations_trainval2014.zip',
  'https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip',
)


def prepare(name: str, folder: str | os.PathLike[str]) -> Path:
  """Makes a directory that `tfds` reads without TensorFlow.

  'scenes' draws the generated scenes (extra `tfds`; a minute).
  'coco_captions' downloads about 40 GB and needs TensorFlow (extra
  `tensorflow`), once, on any machine: COCO 2014 in Karpathy's splits 'train',
  'restval', 'val' and 'test'. Existing datasets are left unchanged.

  Args:
    name: 'scenes' or 'coco_captions'.
    folder: Folder of TFDS's datasets; made if missing.

  Returns:
    The dataset's directory.

  Raises:
    ModuleNotFoundError: An extra is not installed.
    ConnectionError: A server cannot be reached, which is tested first: TFDS
      would retry for minutes.
    ValueError: An unknown name.
  """
  if name not in NAMES:
    raise _validate.unknown('dataset', name, NAMES)
  folder = Path(folder)
  options: dict[str, Any] = {
    'data_dir': os.fspath(folder),
    'file_format': 'array_record',
  }
  library = tfds_reader.load_library()
  if name == 'scenes':
    from collab_jax.data import builder

    maker = builder.CollabScenes(**options)
  else:
    if importlib.util.find_spec('tensorflow') is None:
      raise ModuleNotFoundError(
        'preparing coco_captions needs TensorFlow, which is not installed: pip '
        "install 'collab_jax[tensorflow]', or read COCO's own files with "
        "data='coco'",
        name='tensorflow',
      )
    if not any((folder / name).glob('*/*/dataset_info.json')):
      for url in SOURCES:
        reach(url)
    maker = library.builder(name, **options)
  maker.download_and_prepare()
  return Path(maker.data_dir)


def reach(url: str, timeout: float = 10.0) -> None:
  """Tests whether a file can be downloaded.

  Args:
    url: Its address; proxies are taken from the environment.
    timeout: Seconds to wait.

  Raises:
    ConnectionError: The server cannot be reached.
  """
  request = urllib.request.Request(url, method='HEAD')
  try:
    with urllib.request.urlopen(request, timeout=timeout):
      pass
  except OSError as error:  # URLError, HTTPError and time-outs.
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    raise ConnectionError(
      f'{url} cannot be reached ({reason}): connect this machine, or prepare '
      'the dataset on one that is connected and copy its directory'
    ) from error
