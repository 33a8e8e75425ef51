"""Filter of datasets: drops undecodable images and lists them."""

import json
import logging
import os
from pathlib import Path
from typing import Any

from collab_jax import data as datasets
from collab_jax import distributed

_LOG = logging.getLogger(__name__)
_SHOWN = 8


def filter_readable(
  data: Any, path: str | os.PathLike[str] | None, progress: bool = False
) -> Any:
  """Drops undecodable images from a dataset and lists them beside the records.

  Args:
    data: A reader.
    path: File of records, beside which `<name>.left_out.json` lists the error
      of each damaged image; None to warn only.
    progress: Show a bar while reading.

  Returns:
    The reader, or a part of it.

  Raises:
    ValueError: There are no pictures, or none can be read.
  """
  total = len(data)
  if not total:
    raise ValueError(f'{data.name} is empty: there is nothing to evaluate')
  data, broken = datasets.readable(
    data,
    progress=progress,
    part=distributed.part(),
    gather=distributed.gather,
  )
  if path is not None and distributed.is_first():
    listing = Path(path).with_suffix('.left_out.json')
    if broken:
      listing.parent.mkdir(parents=True, exist_ok=True)
      listing.write_text(json.dumps(broken, indent=1) + '\n')
    else:
      listing.unlink(missing_ok=True)
  if broken:
    text = f'{data.name}: {len(broken)} of {total} pictures cannot be read'
    if len(broken) == total:
      raise ValueError(f'{text}; the first: {broken[0]}')
    more = ['...'] if len(broken) > _SHOWN else []
    shown = '\n  '.join([*broken[:_SHOWN], *more])
    _LOG.warning('%s and are left out:\n  %s', text, shown)
  return data
