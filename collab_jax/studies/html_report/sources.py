"""Pictures, model and codecs of a run whose process has ended."""

from collections.abc import Mapping
import functools
from pathlib import Path
from typing import Any, cast

import ml_collections

from collab_jax import channels, checkpoints
from collab_jax import codecs as codecs_lib
from collab_jax import data as datasets
from collab_jax.codecs import base, transports
from collab_jax.evaluation.report import settings
from collab_jax.models import paligemma
from collab_jax.studies import build
from collab_jax.studies.html_report import choice, gallery, run_folder

Row = Mapping[str, Any]

_SCENES = 'scenes/'


def of_part(
  run: run_folder.RunFolder,
  part: run_folder.Part,
  clusters: bool = True,
) -> gallery.Source:
  """Returns where the gallery of a run comes from.

  Nothing that files name is imported: codecs of one's own have no maps, and
  pictures of datasets and tasks of one's own are not read again.

  Args:
    run: The run.
    part: Records of one of its models.
    clusters: Load the model's edge half, to draw what arrives.
  """
  config = run.config
  trained = run_folder.model_folder(run.folder, part.label) / 'model'
  if part.task:
    config = {**config, 'task': part.task}
  elif part.label and trained.is_dir():
    config = {**config, 'model': str(trained), 'model_path': ''}
  name = str(part.records[0].get('data') or '')
  model = str(part.records[0].get('model') or '')
  return gallery.Source(
    reader=lambda: _read_data(config, name, model),
    model=(lambda: _load_edge(config, model)) if clusters else None,
    specs={
      codec['name']: functools.partial(_parse, codec)
      for codec in choice.codecs_of(part.records)
    },
  )


def _read_data(config: Mapping[str, Any], name: str, model: str) -> Any:
  """Makes the reader of a run's data."""
  if config:
    for field in ('task', 'data'):
      _check_known(field, config.get(field) or '')
    fields = ml_collections.ConfigDict(dict(config))
    size = _dimensions(config, model).vision.image_size
    return build.make_data(fields, size)
  if name.startswith(_SCENES):
    return datasets.scenes(name.removeprefix(_SCENES))
  raise ValueError(
    f'no config.json says where {name or "the data"} lie; finish the run, which'
    ' writes it'
  )


def _check_known(field: str, value: Any) -> None:
  """Raises ValueError for a class outside of this package, and no path."""
  title = str(value).partition('(')[0]
  if ':' in title and not Path(str(value)).exists():
    raise ValueError(
      f'{field}: got {title!r}, but classes outside of this package are not'
      ' loaded here'
    )


def _dimensions(config: Mapping[str, Any], model: str) -> paligemma.Config:
  if 'model' in config:
    return build.dimensions(ml_collections.ConfigDict(dict(config)))
  return checkpoints.config_of(model)


def _load_edge(config: Mapping[str, Any], model: str) -> paligemma.Model:
  """Loads the edge half of a run's model."""
  if not config and model not in checkpoints.NAMES:
    raise ValueError(f'no config.json says where the model {model} is')
  fields = cast(Any, config)
  name = fields.get('model', model)
  return checkpoints.load(
    name,
    fields.get('model_path') or None,
    dtype=fields.get('dtype') or None,
    compute_dtype=fields.get('compute_dtype') or None,
    part='edge',
  )


def _parse(row: Row) -> base.CodecSpec:
  """Makes the spec of a row's codec.

  Raises:
    ValueError: It is a class of somebody's, or its settings are damaged.
    OSError: A file of its parameters is missing.
  """
  codec = settings.nested(row)
  text, *link = row['name'].split(' | ')
  if codec['codec'] == 'feature':
    text = settings.text(codec['quantizer'])
  if ':' in f'{row["name"]}{text}':
    raise ValueError('classes outside of this package are not loaded here')
  split, coding = codec.get('split'), codec.get('coding')
  spec = codecs_lib.parse(text, split or 'encoder', coding or 'fixed')
  if len(link) != 2:
    return spec
  transport, channel = link
  return codecs_lib.LinkSpec(
    spec, transports.make(transport), channels.make(channel)
  )
