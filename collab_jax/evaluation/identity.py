"""Identity of a run: all that its records depend on, by content.

Names and places (of a model's folder, of the data) stand beside it for readers
and decide nothing: the same weights in another folder make the same records.
"""

from collections.abc import Mapping
import hashlib
import json
from typing import Any

import PIL

from collab_jax import _precision, provenance, tasks
from collab_jax import captioner as captioning
from collab_jax import data as datasets
from collab_jax.checkpoints import checksums

# Settings that tell people where things were, and what made them.
_NAMES = ('model.name', 'data', 'versions')


def settings(
  captioner: captioning.Captioner,
  data: str,
  method: str | None,
  task: tasks.Task | None = None,
) -> dict[str, Any]:
  """Returns the settings that all records of a run share, as plain values.

  Args:
    captioner: The captioner, with its model.
    data: Name of the data.
    method: Method of resizing, if the reader tells.
    task: The task, whose questions hold the prompts; None for captions.
  """
  model = captioner.model
  numbers = _precision.describe(model.compute_dtype)
  compute_dtype = numbers.pop('compute_dtype')
  flags = {name: numbers.pop(name) for name in _precision.FLAGS}
  versions = provenance.provenance()['versions']
  return {
    'format': 1,
    'model': {
      'name': model.config.name,
      'checksum': checksums.sampled(model.params),
      'contents': checksums.whole(model.params),
      'config': digest(_computation(model.config.to_dict())),
      'tokenizer': getattr(model.tokenizer, 'fingerprint', None),
      'dtype': model.dtype,
      'compute_dtype': compute_dtype,
    },
    **numbers,
    'random': flags,
    'data': data,
    **_texts(captioner, task),
    **({} if method is None else {'preprocess': method}),
    'versions': {
      **{name: versions[name] for name in ('collab_jax', 'jax', 'jaxlib')},
      'pillow': PIL.__version__,
    },
  }


def method_of(data: Any, task: tasks.Task | None = None) -> str | None:
  """Returns the method of resizing of a reader, if it tells."""
  source = data if task is None else source_of(data)
  return getattr(source, 'method', None)


def source_of(reader: Any) -> Any:
  """Returns the reader of the pictures within a reader of questions."""
  while True:
    inner = getattr(reader, 'pictures', None)
    if inner is None and isinstance(reader, datasets.Subset):
      inner = reader.data
    if inner is None:
      return reader
    reader = inner


def _texts(
  captioner: captioning.Captioner, task: tasks.Task | None
) -> dict[str, Any]:
  """Returns what texts are written with."""
  settings = captioner.describe()
  if task is None:
    return {'captioner': settings}
  del settings['prompt']  # Questions have prompts of their own.
  return {'captioner': settings, 'task': tasks.name(task)}


def _computation(config: dict[str, Any]) -> dict[str, Any]:
  """Returns the dimensions without the name and without what is recorded."""
  return {
    name: {n: v for n, v in tower.items() if n != 'unroll'}
    if isinstance(tower, Mapping)
    else tower
    for name, tower in config.items()
    if name not in ('name', 'compute_dtype')
  }


def of_run(values: Mapping[str, Any]) -> str:
  """Returns the fingerprint of a run's settings, names left out.

  Args:
    values: From `settings`.
  """
  deciding = {n: v for n, v in flat(values).items() if not is_name(n)}
  return digest(deciding)


def is_name(field: str) -> bool:
  """Whether a flat setting is a name, a place or a version."""
  return field in _NAMES or field.split('.')[0] in _NAMES


def digest(value: Any) -> str:
  """Returns a fingerprint of plain values, 16 hexadecimal digits."""
  text = json.dumps(value, sort_keys=True)
  return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def flat(values: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Returns nested settings as one level, with names such as 'model.dtype'."""
  found = {}
  for name, value in values.items():
    if isinstance(value, Mapping):
      found |= flat(value, f'{prefix}{name}.')
    else:
      found[f'{prefix}{name}'] = value
  return found
