"""Models of the Hugging Face Hub by their ids: found here, or fetched.

An id, 'google/paligemma-3b-mix-224', may have a revision behind it: 'id@rev'. A
folder of that name comes first.
"""

import functools
import importlib
import os
import pathlib
import re
from typing import NamedTuple

from collab_jax import _validate
from collab_jax.models import feature_statistics, hf_tokenizer, zoo

_ID = re.compile(
  r'(?P<repository>\w[\w.-]{0,95}/\w[\w.-]{0,95})(@(?P<revision>\w[\w./-]*))?'
)
# Files in which a model may be; of subfolders, where conversions of other
# libraries lie, none. Variants are fetched by name.
_MODEL = (
  '*.json',
  '*.safetensors',
  '*.npz',
  hf_tokenizer.MODEL,
  'paligemma_tokenizer.model',
)
_NOT_MODEL = ('*/*', 'adapter_model.safetensors')
_VARIANTS = ('model.*.safetensors', 'model-*.*.safetensors', '*.index.*.json')
_ADAPTER = ('adapter_config.json', 'adapter_model.safetensors')
# Suffixes of files, which no repository's name has.
_FILES = ('.npz', '.safetensors', '.json', '.bin')


class HubError(FileNotFoundError):
  """A model of the Hugging Face Hub is not here and cannot be fetched."""


class HubId(NamedTuple):
  """Id of a model on the Hugging Face Hub.

  Attributes:
    repository: Owner and name, with '/' between them.
    revision: A branch, tag or commit; None for the main branch.
  """

  repository: str
  revision: str | None

  @property
  def page(self) -> str:
    """Address of the model's page."""
    return f'https://huggingface.co/{self.repository}'

  @property
  def is_released(self) -> bool:
    """Whether it is one of the models in `zoo.NAMES`."""
    return self.repository in _released()

  def __str__(self) -> str:
    """Writes the id as `parse` reads it."""
    revision = f'@{self.revision}' if self.revision else ''
    return self.repository + revision


def parse(name: str | os.PathLike[str]) -> HubId | None:
  """Reads the id of a model on the Hub.

  Args:
    name: Such an id, or a path.

  Returns:
    The id; None for a path: of something that is there, in a folder that is
    there, or not of an id's form.
  """
  match = _ID.fullmatch(name) if isinstance(name, str) else None
  if match is None or match['repository'].endswith(_FILES):
    return None
  path = pathlib.Path(name)
  if path.exists() or path.parent.exists():
    return None
  return HubId(match['repository'], match['revision'])


def locate(
  name: str | os.PathLike[str],
  variant: str | None = None,
  adapter: str | os.PathLike[str] | bool | None = None,
) -> pathlib.Path:
  """Returns the path of a checkpoint, fetched if it is an id of the Hub.

  Args:
    name: A path, or an id.
    variant: Variant of the files to fetch, such as 'fp16'.
    adapter: True if the repository's own adapter will be merged.

  Raises:
    FileNotFoundError: There is no such path, the model cannot be fetched, or
      huggingface_hub is not installed.
  """
  path = pathlib.Path(name)
  if path.exists():
    return path
  hub_id = parse(name)
  if hub_id is not None:
    return _download_or_miss(hub_id, _patterns(variant, adapter is True))
  hint = ''
  if isinstance(name, str) and _ID.fullmatch(name):
    hint = (
      f' in the folder {path.parent}, which is here; to fetch a model of that'
      f' id from the Hugging Face Hub: collab_jax.checkpoints.fetch({name!r})'
    )
  raise FileNotFoundError(f'no such checkpoint: {path}{hint}')


def locate_adapter(name: str | os.PathLike[str]) -> pathlib.Path:
  """Returns the folder of an adapter, fetched if it is an id of the Hub."""
  hub_id = parse(name)
  if hub_id is None:
    return pathlib.Path(name)
  return _download_or_miss(hub_id, (_ADAPTER, ('*/*',)))


def locate_config(name: str) -> pathlib.Path | None:
  """Fetches the config.json of an id alone; None if the name is no id."""
  hub_id = parse(name)
  if hub_id is None:
    return None
  folder = _download_or_miss(hub_id, (('config.json',), ('*/*',)))
  return folder / 'config.json'


def fetch(
  name: str,
  folder: str | os.PathLike[str] | None = None,
  revision: str | None = None,
) -> pathlib.Path:
  """Downloads the missing files of a model from the Hugging Face Hub.

  Args:
    name: One of `collab_jax.models.zoo.NAMES`, or an id such as
      'google/paligemma-3b-mix-224'.
    folder: Target folder; None for the cache of huggingface_hub.
    revision: Branch; PaliGemma 1 has 'bfloat16' and 'float16' beside float32.

  Returns:
    The folder, for `collab_jax.load(folder)`.

  Raises:
    ValueError: There is no such model in the zoo.
    HubError: The model cannot be fetched.
    ModuleNotFoundError: huggingface_hub is not installed.
  """
  match = _ID.fullmatch(name)
  repository = match['repository'] if match else zoo.card(name).huggingface
  revision = revision or (match['revision'] if match else None)
  return _download(HubId(repository, revision), _patterns(None, False), folder)


def name_of(folder: pathlib.Path) -> str:
  """Returns the name of a model in a folder: of a download, the repository's.

  The cache of huggingface_hub calls folders by their commits.
  """
  folder = folder.absolute()
  cached = folder.parent.parent.name
  if folder.parent.name == 'snapshots' and cached.startswith('models--'):
    return cached.rpartition('--')[2]
  return folder.name


def _patterns(
  variant: str | None, with_adapter: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
  """Returns the patterns of files to fetch, and of those among them not to."""
  wanted, unwanted = _MODEL, (*_NOT_MODEL, *_VARIANTS)
  if variant is not None:
    named = (
      f'model.{variant}*.safetensors',
      f'model-*.{variant}.safetensors',
    )
    kept = [p for p in _MODEL if p not in ('*.safetensors', '*.npz')]
    wanted, unwanted = (*kept, *named), _NOT_MODEL
  if with_adapter:
    unwanted = tuple(p for p in unwanted if p not in _ADAPTER)
  # Statistics are weights' neighbours, whatever the variant.
  return (*wanted, feature_statistics.FILE), unwanted


def _download_or_miss(hub_id, patterns) -> pathlib.Path:
  """Fetches as `_download`; HubError without huggingface_hub, too.

  The name may be a path that is mistyped.
  """
  try:
    return _download(hub_id, patterns)
  except ModuleNotFoundError as error:
    raise HubError(str(error)) from error


def _download(
  hub_id: HubId,
  patterns: tuple[tuple[str, ...], tuple[str, ...]],
  folder: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
  """Fetches files that are not in the cache; returns their folder."""
  try:
    hub = importlib.import_module('huggingface_hub')
  except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
      f'no such checkpoint: {hub_id} is no folder here{_unreleased(hub_id)}; to'
      f' fetch {"it" if hub_id.is_released else "a model of that id"} from the'
      " Hugging Face Hub, pip install 'collab_jax[hub]', or download it from"
      f' {hub_id.page} and give the folder'
    ) from error
  wanted, unwanted = patterns
  try:
    path = hub.snapshot_download(
      hub_id.repository,
      revision=hub_id.revision,
      local_dir=folder,
      allow_patterns=list(wanted),
      ignore_patterns=list(unwanted),
    )
  # Its HTTP library, whose errors it lets through, is another in each version.
  except Exception as error:
    raise HubError(_explain(hub_id, error)) from error
  return pathlib.Path(path)


@functools.cache
def _released() -> frozenset[str]:
  """Returns the repositories of released models."""
  cards = [zoo.card(name) for name in zoo.NAMES]
  return frozenset(r for card in cards for r in (card.huggingface, card.npz))


def _unreleased(hub_id: HubId) -> str:
  """Says of an id that it is none of the known ones; '' for one of those."""
  if hub_id.is_released:
    return ''
  near = _validate.nearest(hub_id.repository, _released())
  if near:
    return f' and none of the released models (did you mean {near!r}?)'
  return f' and none of the released models (google/ and {zoo.SUMMARY})'


def _explain(hub_id: HubId, error: Exception) -> str:
  """Says in one line why a model could not be fetched, and what to do."""
  kinds, constants = (
    importlib.import_module(f'huggingface_hub.{name}')
    for name in ('errors', 'constants')
  )
  absent = f'no such checkpoint: {hub_id}'
  by_hand = f'download it from {hub_id.page} and give the folder'
  if isinstance(error, kinds.GatedRepoError):
    return (
      f'{hub_id}: its terms have to be accepted at {hub_id.page}; then'
      f" 'hf auth login' with a token of that account, or {by_hand}"
    )
  if isinstance(error, kinds.RepositoryNotFoundError):
    return (
      f'{absent} is no folder here{_unreleased(hub_id)}, and no model on the'
      ' Hugging Face Hub that you may read; check the name, or'
      " 'hf auth login' if it is private"
    )
  if isinstance(error, kinds.RevisionNotFoundError):
    return (
      f'{hub_id}: the model has no revision {hub_id.revision!r}; expected a'
      f' branch, tag or commit of {hub_id.page}'
    )
  for answer in (error, error.__cause__):
    if isinstance(answer, kinds.HfHubHTTPError):
      response = getattr(answer, 'response', None)
      status = getattr(response, 'status_code', 'an error')
      return (
        f'{hub_id}: the Hugging Face Hub answered {status}; try again later, or'
        f' {by_hand}'
      )
  if constants.HF_HUB_OFFLINE:
    return (
      f'{absent} is neither a folder here nor in'
      f' {constants.HF_HUB_CACHE}{_unreleased(hub_id)}, and HF_HUB_OFFLINE'
      f' forbids to fetch it; unset that, or {by_hand}'
    )
  if isinstance(error, OSError) and error.errno is not None:
    return f'{hub_id}: its files cannot be written: {error}'
  reason = error.__cause__ or error
  text = ' '.join(str(reason).split())[:100]
  return (
    f'{absent} is no folder here{_unreleased(hub_id)}, and the Hugging Face'
    f' Hub cannot be reached ({type(reason).__name__}: {text}); try again, or'
    f' {by_hand}'
  )
