"""Reader of datasets prepared by TensorFlow Datasets, without TensorFlow."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import json
import os
from pathlib import Path
import sys
from typing import Any, SupportsIndex

from collab_jax import _validate
from collab_jax.data import example, files, pictures

# Names of features; the first that a dataset has is read.
_CAPTIONS = ('captions', 'caption', 'sentences', 'text')
_IDS = ('image/id', 'image_id', 'id')
_FILES = ('image/filename', 'filename', 'file_name')

# Keys of features.json under which the library imports the class named, in the
# present and in older versions.
_CLASS_KEYS = ('pythonClassName', 'python_class_name', 'type')
_LIBRARY = 'tensorflow_datasets'


@dataclasses.dataclass(frozen=True, repr=False)
class Prepared:
  """Split of a prepared dataset; random access, safe to read on threads.

  Attributes:
    name: Name in records and progress bars, such as 'coco_captions/val'.
    source: Yields dicts of the features, pictures still encoded.
    captions: Name of the feature with the captions.
    image_id: Name of the feature with the id; None to number the examples.
    filename: Name of the feature with the file's name, or None.
    limit: Number of examples.
    size: Side of the pictures in pixels.
    method: Method of resizing, a name in `pictures.METHODS`.
  """

  name: str
  source: Sequence[Mapping[str, Any]]
  captions: str
  image_id: str | None
  filename: str | None
  limit: int
  size: int = 224
  method: str = 'hf_bicubic'

  def __len__(self) -> int:
    return self.limit

  def __repr__(self) -> str:
    """Shows the number of pictures, not all of them."""
    return f'Prepared({self.name!r}, {len(self)} pictures, {self.size} px)'

  def __getitem__(self, index: SupportsIndex) -> example.Example:
    """Reads a picture.

    Raises:
      IndexError: Out of range.
      PictureError: The picture is damaged.
      ValueError: The picture has no caption.
    """
    index, item, where = self._item(index)
    captions = files.clean(_texts(item[self.captions]))
    if not captions:
      raise ValueError(f'{where} has no caption, expected at least one')
    image = pictures.decode(
      item['image'], where, pictures.matte_of(self.method)
    )
    return example.Example(
      image=pictures.resize(image, self.size, self.method),
      image_id=int(item[self.image_id]) if self.image_id else index,
      captions=captions,
    )

  def check(self, index: SupportsIndex) -> None:
    """Raises the PictureError that reading the picture would, but faster."""
    _, item, where = self._item(index)
    pictures.check(item['image'], where, self.size)

  def _item(self, index: SupportsIndex) -> tuple[int, Mapping[str, Any], str]:
    index = example.position(self, index)
    item = self.source[index]
    where = f'example {index} of {self.name}'
    if self.filename:
      where += f' ({_text(item[self.filename])})'
    return index, item, where


def tfds(
  folder: str | os.PathLike[str],
  split: str = 'test',
  limit: int | None = None,
  size: int = 224,
  method: str = 'hf_bicubic',
) -> Prepared:
  """Makes a reader of a dataset that TFDS prepared as array_record.

  Needs the extra `tfds`, not TensorFlow: where the dataset was prepared,
  `builder.download_and_prepare(file_format='array_record')` makes such a
  directory, of `coco_captions` for instance, whose splits are Karpathy's.

  Args:
    folder: The directory with dataset_info.json, or one above it that holds
      one dataset in one version.
    split: A split, or part of one as TFDS writes it: 'val', 'val[:50%]'.
    limit: Largest number of pictures; None for all.
    size: Side of the pictures in pixels.
    method: Method of resizing, a name in `pictures.METHODS`.

  Returns:
    A reader named by the dataset and the split.

  Raises:
    ModuleNotFoundError: The extra is not installed.
    FileNotFoundError: The folder holds no prepared dataset.
    ValueError: The folder holds several; there is no such split; the dataset
      is stored in another format, has no pictures with captions, or names a
      class of a module that is not imported.
  """
  pictures.check_method(size, method)
  directory = _directory(Path(folder))
  check_classes(directory)
  library = load_library()
  builder = library.builder_from_directory(directory)
  captions, image_id, filename = _features(builder, directory)
  known = [*builder.info.splits]
  if split.partition('[')[0] not in known:
    raise ValueError(
      f'split: got {split!r}, which is not in {directory}'
      f'{_validate.suggest(split, known)}'
    )
  try:
    source = builder.as_data_source(
      split, decoders={'image': library.decode.SkipDecoding()}
    )
  except NotImplementedError as error:
    raise ValueError(
      f'{directory} is stored as {builder.info.file_format.value}, expected '
      "array_record: prepare it with file_format='array_record'"
    ) from error
  return Prepared(
    name=f'{builder.info.name}/{split}',
    source=source,
    captions=captions,
    image_id=image_id,
    filename=filename,
    limit=len(files.first(range(len(source)), limit)),
    size=size,
    method=method,
  )


def check_classes(directory: Path) -> None:
  """Raises ValueError if a dataset's features name code of somebody's own.

  The library imports the module of every class in features.json. A dataset is
  data, and starts no code: classes of the library may be named, and those of
  modules that this process has imported already.

  Args:
    directory: The directory with dataset_info.json.
  """
  path = directory / 'features.json'
  if not path.is_file():
    return
  table = files.parse(path.read_bytes(), str(path))
  for name in _class_names(table, str(path)):
    module = name.rpartition('.')[0]
    if module.partition('.')[0] != _LIBRARY and module not in sys.modules:
      raise _validate.error(
        f'{path}: class of a feature',
        name[:64],
        f'one of {_LIBRARY}',
        'import its module yourself if you trust it',
      )


def _class_names(value: Any, where: str) -> Iterator[str]:
  """Yields the classes that features name, at every level."""
  if isinstance(value, list):
    for item in value:
      yield from _class_names(item, where)
  elif isinstance(value, Mapping):
    for key, item in value.items():
      if not isinstance(item, str):
        yield from _class_names(item, where)
      elif key in _CLASS_KEYS:
        yield item
      elif key == 'json':  # Holds the settings of a feature, JSON in a text.
        try:
          inner = json.loads(item)
        except (ValueError, RecursionError) as error:
          raise ValueError(f'{where}: got {error} in JSON') from error
        yield from _class_names(inner, where)


def _features(
  builder: Any, directory: Path
) -> tuple[str, str | None, str | None]:
  """Returns the names of the captions', ids' and file names' features."""
  features = [*builder.info.features]
  captions, image_id, filename = (
    next((name for name in names if name in features), None)
    for names in (_CAPTIONS, _IDS, _FILES)
  )
  if 'image' not in features or captions is None:
    raise ValueError(
      f"{directory} has the features {', '.join(features)}, expected 'image' "
      f'and one of {", ".join(_CAPTIONS)}'
    )
  return captions, image_id, filename


def load_library() -> Any:
  """Imports TensorFlow Datasets; ModuleNotFoundError names its extra."""
  try:
    import tensorflow_datasets  # pyright: ignore[reportMissingImports]
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      f"prepared datasets need the extra 'tfds', {error}: "
      "pip install 'collab_jax[tfds]'",
      name=error.name,
    ) from error
  return tensorflow_datasets


def _directory(folder: Path) -> Path:
  """Finds the folder of the version of a dataset."""
  marker = 'dataset_info.json'
  if (folder / marker).is_file():
    return folder
  datasets = sorted(
    path.parent
    for depth in range(1, 5)
    for path in folder.glob('*/' * depth + marker)
  )
  if not datasets:
    raise files.missing(folder, [marker], 'dataset prepared by TFDS')
  if len(datasets) > 1:
    raise ValueError(
      f'{folder} holds {len(datasets)} prepared datasets, expected the folder '
      f'of one: {", ".join(str(path) for path in datasets[:8])}'
    )
  return datasets[0]


def _texts(value: Any) -> list[str]:
  """Returns captions from any of the ways to store them."""
  if isinstance(value, Mapping):
    value = value.get('text', value.get('raw'))
  if isinstance(value, str | bytes):
    return [_text(value)]
  if isinstance(value, Iterable):
    return [text for item in value for text in _texts(item)]
  raise ValueError(f'captions: got {value!r:.60}, expected texts')


def _text(value: Any) -> str:
  return value.decode('utf-8', 'replace') if isinstance(value, bytes) else value
