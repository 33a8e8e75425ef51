"""Contents of a model's folder: which files count, which do not, and why.

transformers' rules decide where several files say the same; docs/checkpoints.md
has them as a table. A file that says that the model is more than its weights is
obeyed or refused by name.
"""

from collections.abc import Iterator
import dataclasses
import os
import pathlib
import shlex
from typing import Any, NamedTuple

from absl import logging

from collab_jax import _validate
from collab_jax.checkpoints import (
  adapters,
  formats,
  hub,
  names,
  orbax,
  shards,
  trees,
)
from collab_jax.checkpoints.trees import CheckpointError
from collab_jax.models import (
  feature_statistics,
  hf_tokenizer,
  paligemma,
  tokenizer,
)

_PICTURES = ('preprocessor_config.json', 'processor_config.json')
_GENERATION = 'generation_config.json'
_MERGED = 'an adapter, merged into the weights'

# What our pictures are, in the fields of transformers' image processors. None
# stands for the default of `SiglipImageProcessor`, which is the same.
_PREPROCESSING: dict[str, tuple[Any, ...]] = {
  'do_convert_rgb': (None, True),
  'do_resize': (None, True),
  'do_rescale': (None, True),
  'do_normalize': (None, True),
  'do_center_crop': (None, False),
  'do_pad': (None, False),
  'resample': (None, 3),
  'image_mean': (None, [0.5, 0.5, 0.5]),
  'image_std': (None, [0.5, 0.5, 0.5]),
}
# Fields that change no pixel, or only with a field that is refused above.
_OTHER_FIELDS = (
  *('image_processor_type', 'feature_extractor_type', 'processor_class'),
  *('image_seq_length', 'valid_processor_keys', '_valid_processor_keys'),
  *('size', 'rescale_factor', 'crop_size', 'pad_size', 'default_to_square'),
  *('data_format', 'input_data_format', 'return_tensors', 'device'),
  'disable_grouping',
)
# Fields of a generation config that choose tokens otherwise than greedily.
_GREEDY: dict[str, tuple[Any, ...]] = {
  'do_sample': (None, False),
  'num_beams': (None, 1),
  'num_beam_groups': (None, 1),
  'penalty_alpha': (None,),
  'repetition_penalty': (None, 1),
  'encoder_repetition_penalty': (None, 1),
  'no_repeat_ngram_size': (None, 0),
  'length_penalty': (None, 1),
  'min_length': (None, 0),
  'min_new_tokens': (None,),
  'bad_words_ids': (None,),
  'sequence_bias': (None,),
  'suppress_tokens': (None, []),
  'begin_suppress_tokens': (None, []),
  'forced_bos_token_id': (None,),
  'forced_eos_token_id': (None,),
  'guidance_scale': (None, 1),
  'stop_strings': (None,),
}
# Files without a say in weights, ids or pixels.
_UNUSED = {
  'README.md': 'a text',
  'special_tokens_map.json': 'the special ids are fixed',
  'chat_template.json': 'prompts are no chats',
  'chat_template.jinja': 'prompts are no chats',
  'training_args.bin': 'of a training run',
  'trainer_state.json': 'of a training run',
  'optimizer.pt': 'of a training run',
  'scheduler.pt': 'of a training run',
}


class FileRole(NamedTuple):
  """Part that a file of a folder has in a model.

  Attributes:
    name: Name of the file.
    role: 'read', 'checked', 'passed over', 'refused' or 'not used'.
    reason: Why, in a few words.
  """

  name: str
  role: str
  reason: str


@dataclasses.dataclass(frozen=True)
class FolderDescription:
  """Description of a checkpoint: its files, and what each counts for.

  ```python
  print(cj.checkpoints.describe('some/folder'))
  ```

  Attributes:
    path: The folder or npz.
    format: 'npz', 'huggingface' or 'orbax'; None if there is no checkpoint.
    config: The dimensions; None if they are nowhere, or wrong.
    vocabulary: Number of ids of the tokenizer; None without one.
    files: The files by name, each with its role.
    refusals: Reasons why `load` refuses the checkpoint, the first as it says.
    remarks: Settings that are not used, and files that are passed over.
    adapter: Folder of the adapter that is merged into the weights, if any.
  """

  path: pathlib.Path
  format: str | None
  config: paligemma.Config | None
  vocabulary: int | None
  files: tuple[FileRole, ...]
  refusals: tuple[str, ...]
  remarks: tuple[str, ...]
  adapter: pathlib.Path | None = None

  def __str__(self) -> str:
    """Writes the description as text, a line for each file."""
    lines = [f'{self.path}: {self.format or "no checkpoint"}']
    if self.config is not None:
      text, vision = self.config.text, self.config.vision
      lines.append(
        f'  {"Gemma 2" if text.post_norms else "Gemma"} with {text.depth}'
        f' layers of width {text.width}, {text.vocab_size} ids;'
        f' {vision.image_size} px, {vision.num_tokens} image tokens'
      )
    if self.vocabulary is not None:
      lines.append(f'  a tokenizer of {self.vocabulary} ids')
    width = max((len(file.name) for file in self.files), default=0)
    lines += [f'  {f.name:{width}}  {f.role}: {f.reason}' for f in self.files]
    lines += [f'  note: {remark}' for remark in self.remarks]
    lines += [f'  refused: {refusal}' for refusal in self.refusals]
    if self.format and not self.refusals:
      merged = f', with the adapter {self.adapter} merged'
      lines.append(f'  loads{merged if self.adapter else ""}')
    return '\n'.join(lines)


def check(
  source: formats.CheckpointSource,
  config: paligemma.Config | None,
  part: str | None,
  adapter: str | os.PathLike[str] | bool | None = None,
) -> None:
  """Refuses a folder whose files say more than the model computes.

  Args:
    source: The checkpoint.
    config: Its dimensions.
    part: A key of `trees.PARTS`; files that do not concern it do not count.
    adapter: The argument of `load`: None refuses a folder with an adapter.

  Raises:
    CheckpointError: Names the file, the field and what to do.
  """
  for refusal in _refusals(source, config, part, adapter):
    raise CheckpointError(refusal)
  for remark in _remarks(source, part):
    logging.warning('%s', remark)


def _refusals(source, config, part, adapter) -> Iterator[str]:
  """Yields what `load` refuses, in its words."""
  folder = source.folder
  if folder is None:
    return
  if adapter is None and adapters.is_adapter(folder):
    text = shlex.quote(str(folder))
    yield (
      f'{folder} holds an adapter beside its base: got no adapter=, expected'
      f' load(folder, adapter=True); or merge it: collab-jax convert'
      f' --source={text} --adapter={text} --target=merged --to=huggingface'
    )
  if part != 'server':
    for name in _PICTURES:
      if (folder / name).exists():
        yield from _preprocessing(folder / name, config)
  if part != 'edge' and (folder / _GENERATION).exists():
    path = folder / _GENERATION
    fields = shards.read_json(path)
    for name, value in (('eos_token_id', 1), ('bos_token_id', 2)):
      given = fields.get(name)
      if given not in (None, value, [value]):
        yield (
          f'{path}: {name}: got {given!r:.60}, expected {value}; correct it if'
          " captions end or begin as PaliGemma's"
        )


def _preprocessing(
  path: pathlib.Path, config: paligemma.Config | None
) -> Iterator[str]:
  """Yields the settings with which pixels would be other ones."""
  fields = _image_processor(path)
  if not isinstance(fields, dict):
    yield f'{path}: image_processor: got {fields!r:.60}, expected an object'
    return
  wrong = [
    (name, fields[name], known[-1])
    for name, known in _PREPROCESSING.items()
    if name in fields and fields[name] not in known
  ]
  factor = fields.get('rescale_factor')
  if factor is not None and not _near(factor, 1 / 255):
    wrong.append(('rescale_factor', factor, 1 / 255))
  size = fields.get('size')
  if size is not None and config is not None:
    side = config.vision.image_size
    square = {'height': side, 'width': side}
    if size != square and size != side:
      wrong.append(('size', size, square))
  for name, got, expected in wrong:
    yield (
      f'{path}: {name}: got {got!r:.60}, expected {expected!r}, as pictures are'
      ' made here; without the file, if the model was trained so'
    )


def _image_processor(path: pathlib.Path) -> Any:
  """Reads the fields of an image processor."""
  fields = shards.read_json(path)
  if path.name == 'processor_config.json':
    return fields.get('image_processor') or {}
  return fields


def _unknown(path: pathlib.Path) -> list[str]:
  """Returns set fields of an image processor that are not known here."""
  fields = _image_processor(path)
  if not isinstance(fields, dict):
    return []
  return [
    f'{name}={value!r:.40}'
    for name, value in fields.items()
    if name not in (*_PREPROCESSING, *_OTHER_FIELDS)
    and value not in (None, False, [], {})
  ]


def _near(got: Any, expected: float) -> bool:
  return isinstance(got, int | float) and abs(got - expected) < 1e-6 * expected


def _remarks(source, part) -> Iterator[str]:
  """Yields what is passed over, of which a user should know."""
  folder = source.folder
  if folder is None:
    return
  for name, reason in _passed_over(source):
    yield f'{folder / name} is passed over: {reason}'
  for name in _PICTURES if part != 'server' else ():
    if (folder / name).exists() and (unknown := _unknown(folder / name)):
      yield (
        f'{folder / name}: {", ".join(unknown)}: not known; pictures are made'
        ' without'
      )
  if part != 'edge' and (folder / _GENERATION).exists():
    fields = shards.read_json(folder / _GENERATION)
    others = [
      f'{name}={fields[name]!r:.40}'
      for name, known in _GREEDY.items()
      if name in fields and fields[name] not in known
    ]
    if others:
      yield (
        f'{folder / _GENERATION}: {", ".join(others)}: not used; captions are'
        " decoded as the captioner's decoding= says"
      )


def _passed_over(source) -> Iterator[tuple[str, str]]:
  """Yields files of weights that do not count, and the reason."""
  folder = source.folder
  chosen = source.weights.name if source.format == 'npz' else None
  if source.format == 'huggingface':
    counted = shards.weights_of(folder, source.variant)
    chosen = counted.name if counted else None
    index = shards.spelled(shards.INDEX, source.variant)
    if chosen != index and (folder / index).exists():
      yield index, f'{chosen} counts before it, as in transformers'
  else:
    if source.format == 'npz' and orbax.is_folder(folder):
      yield orbax.TOWERS[0], f'{chosen} counts before it'
    for name in (shards.SINGLE, shards.INDEX):
      if (folder / name).exists():
        yield name, f'{chosen or "the Orbax checkpoint"} counts before it'


def describe(
  path: str | os.PathLike[str],
  variant: str | None = None,
  adapter: str | os.PathLike[str] | bool | None = None,
  part: str | None = None,
) -> FolderDescription:
  """Says what a checkpoint's files are, which of them count, and why.

  Only headers and JSON files are read. `load` goes by the same rules.

  Args:
    path: A folder, npz, id of the Hugging Face Hub, or a model that ships with
      the package, 'tiny'.
    variant: As in `load`.
    adapter: As in `load`.
    part: As in `load`: the files that this part needs are checked.

  Returns:
    The description; a checkpoint that `load` refuses has its `refusals`.

  Raises:
    FileNotFoundError: There is no such path.
    ValueError: There is no such part or name.
  """
  _validate.choice('part', part, trees.PARTS)
  path = hub.locate(names.resolve(path), variant, adapter)
  try:
    source = formats.find(path, variant, adapter)
  except (ValueError, FileNotFoundError) as error:
    files = _files(path, None, adapter) if path.is_dir() else ()
    return FolderDescription(path, None, None, None, files, (str(error),), ())
  refusals: list[str] = []
  config, vocabulary, remarks = None, None, ()
  try:
    config = source.config()
    refusals += _refusals(source, config, part, adapter)
    remarks = tuple(_remarks(source, part))
    vocabulary = None if part == 'edge' else _vocabulary(source)
    if config is not None:
      _check_arrays(source, config, part)
      if vocabulary is not None and vocabulary > config.text.vocab_size:
        refusals.append(
          f'tokenizer in {path}: got {vocabulary} ids, expected at most the'
          f" model's {config.text.vocab_size}: they do not belong together"
        )
  except (ValueError, FileNotFoundError) as error:
    refusals.append(str(error))
  files = _files(path, source, adapter)
  return FolderDescription(
    path,
    source.format,
    config,
    vocabulary,
    files,
    tuple(refusals),
    remarks,
    source.adapter,
  )


def _vocabulary(source) -> int | None:
  """Counts the ids of a checkpoint's tokenizer."""
  vocabulary = source.vocabulary()
  if vocabulary is None:
    return None
  return tokenizer.Tokenizer(vocabulary).vocab_size


def _check_arrays(source, config, part) -> None:
  """Compares the headers of a part's arrays with the dimensions."""
  shapes = trees.flatten(trees.select(paligemma.shapes(config), part))
  with source.open(config, part) as entries:
    arrays = dict(entries)
    table = arrays.get(trees.TABLE)
    if table is not None:
      arrays[trees.TABLE] = trees.grow(
        table, shapes[trees.TABLE].shape, str(source.weights)
      )
    trees.check(shapes, arrays, str(source.weights))


def _files(
  path: pathlib.Path,
  source: formats.CheckpointSource | None,
  adapter: str | os.PathLike[str] | bool | None,
) -> tuple[FileRole, ...]:
  """Gives each file its role."""
  if not path.is_dir():
    return (FileRole(path.name, 'read', 'the weights'),)
  passed = dict(_passed_over(source)) if source else {}
  weights = _weights(path, source)
  roles = [
    _role(path, name, weights, passed, adapter)
    for name in sorted(p.name for p in path.iterdir())
  ]
  # Of an adapter elsewhere, by its path.
  beside = source.adapter if source else None
  if beside is not None and beside != path:
    roles += [
      FileRole(str(beside / name), 'read', _MERGED)
      for name in (adapters.CONFIG, adapters.WEIGHTS)
    ]
  return tuple(roles)


def _weights(path, source) -> set[str]:
  """Returns the names of the files from which weights are read."""
  if source is None:
    return set()
  if source.format == 'orbax':
    return set(orbax.TOWERS)
  if source.format == 'npz':
    return {source.weights.name}
  counted = shards.weights_of(path, source.variant)
  if counted is None:
    return {p.name for p in shards.unnamed(path)}
  if counted.suffix != '.json':
    return {counted.name}
  try:
    table = shards.read_json(counted).get('weight_map')
  except CheckpointError:
    table = None
  values = table.values() if isinstance(table, dict) else ()
  return {counted.name, *(v for v in values if isinstance(v, str))}


def _role(path, name, weights, passed, adapter) -> FileRole:
  """Returns the role of a file."""
  if name in weights:
    return FileRole(name, 'read', 'weights')
  if name in passed:
    return FileRole(name, 'passed over', passed[name])
  if name == formats.CONFIG:
    return FileRole(name, 'read', 'dimensions')
  if name in (adapters.CONFIG, adapters.WEIGHTS, 'adapter_model.bin'):
    if adapter is None:
      return FileRole(name, 'refused', 'an adapter, with no adapter= given')
    if adapter is True or (adapter and pathlib.Path(adapter) == path):
      return FileRole(name, 'read', _MERGED)
    return FileRole(name, 'passed over', f'an adapter, with adapter={adapter}')
  if name in _PICTURES:
    return FileRole(name, 'checked', 'pictures are made as it says, or refused')
  if name == _GENERATION:
    return FileRole(name, 'checked', 'special ids; decoding is an argument')
  if name in (*formats.VOCABULARIES, hf_tokenizer.SETTINGS, hf_tokenizer.ADDED):
    return FileRole(name, *_tokens(path, name))
  if name == feature_statistics.FILE:
    return FileRole(name, 'read', 'tells pictures unlike those of the training')
  if name.endswith(('.bin', '.pt', '.pth', '.pkl')) and name not in _UNUSED:
    return FileRole(name, 'passed over', 'pickles are never read')
  if name.endswith('.safetensors') or name.startswith('model.safetensors.'):
    variant = shards.variant_of(path / name)
    reason = f'variant {variant}' if variant else 'no index names it'
    return FileRole(name, 'passed over', reason)
  if name.endswith('.py'):
    return FileRole(name, 'not used', "a folder's code is never run")
  return FileRole(name, 'not used', _UNUSED.get(name, 'no file of a model'))


def _tokens(path: pathlib.Path, name: str) -> tuple[str, str]:
  """Returns role and reason of a file of the tokenizer."""
  has_model = (path / hf_tokenizer.MODEL).is_file()
  has_table = (path / hf_tokenizer.TABLE).is_file()
  if name == hf_tokenizer.MODEL:
    if not has_table:
      return 'read', 'pieces'
    return 'read', f'pieces, unless {hf_tokenizer.TABLE} has other ones'
  if name == hf_tokenizer.TABLE:
    return 'read', 'added tokens' if has_model else 'pieces and added tokens'
  if name in (hf_tokenizer.SETTINGS, hf_tokenizer.ADDED):
    return 'read', 'added tokens that no other file has'
  if has_model or has_table:
    return 'passed over', "Hugging Face's files count before it"
  return 'read', 'pieces'
