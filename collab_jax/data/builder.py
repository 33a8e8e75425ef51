"""Builder of the generated scenes for TensorFlow Datasets.

Importing this module needs the extra `tfds` and registers the dataset; the
rest of the package does not import it.

  import tensorflow_datasets as tfds
  from collab_jax.data import builder

  scenes = builder.CollabScenes(data_dir='/data', file_format='array_record')
  scenes.download_and_prepare()
  tfds.data_source('collab_scenes', split='test', data_dir='/data')
"""

from collections.abc import Iterator
import io
import json
from typing import Any

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds  # pyright: ignore[reportMissingImports]

from collab_jax.data import generated

_DESCRIPTION = """
Small drawings of shapes on a background, with five exact captions each and a
description from which captions can be scored.
"""


class CollabScenes(tfds.core.GeneratorBasedBuilder):
  """The splits of the scenes that are small enough to be stored.

  Features: 'image', a PNG of 64 px; 'image/id'; 'captions', five texts; 'info',
  `Example.info` as JSON.
  """

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'The scenes of collab_jax 0.1.'}  # noqa: RUF012
  SPLITS = ('val', 'test', 'dense')

  def __init__(self, *, limit: int | None = None, **options: Any):
    """Makes a builder.

    Args:
      limit: Store only the first so many scenes of each split.
      **options: Of `tfds.core.DatasetBuilder`, 'data_dir' among them.
    """
    self.limit = limit
    super().__init__(**options)

  def _info(self) -> Any:
    return tfds.core.DatasetInfo(
      builder=self,
      description=_DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(
            shape=(64, 64, 3), encoding_format='png'
          ),
          'image/id': np.int64,
          'captions': tfds.features.Sequence(tfds.features.Text()),
          'info': tfds.features.Text(),
        }
      ),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager  # Nothing is downloaded.
    return {split: self._generate_examples(split) for split in self.SPLITS}

  def _generate_examples(
    self, split: str
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    for example in generated.scenes(split, self.limit):
      # Encoded here, since TFDS would do it with TensorFlow.
      picture = io.BytesIO()
      Image.fromarray(example.image).save(picture, 'PNG')
      picture.seek(0)
      yield (
        example.image_id,
        {
          'image': picture,
          'image/id': example.image_id,
          'captions': list(example.captions),
          'info': json.dumps(example.info),
        },
      )
