"""Conversion of Hugging Face tokenizers to SentencePiece models.

`tokenizer.json` of Gemma and PaliGemma was made from a SentencePiece model:
byte-pair encoding with byte fallback, no space put in front, U+2581 for a
space. Converting it back needs no other library and leaves one kind of
tokenizer in the package. A merge list orders the pairs to join; SentencePiece
joins the pair whose union has the best score, so the order in which pieces
first appear in the list becomes their score.

Source: sentencepiece_model.proto; checked against ids recorded from Hugging
Face's tokenizers (tests/models/test_pieces.py).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
import json
from pathlib import Path
import re
import struct
from typing import Any

from collab_jax import _validate
from collab_jax.models import added_tokens
from collab_jax.models.added_tokens import AddedToken

MODEL, TABLE = 'tokenizer.model', 'tokenizer.json'
SETTINGS, ADDED = 'tokenizer_config.json', 'added_tokens.json'

_SPACE = '\u2581'
IMAGE = '<image>'  # Hugging Face's placeholder of a picture's vectors.
_BYTE = re.compile('<0x[0-9A-F]{2}>')
_TAB = '<0x09>'
_NORMAL, _UNKNOWN, _CONTROL, _USER, _RAW = 1, 2, 3, 4, 6
_BPE = 2
_MOST = 2**24  # ids; hundreds of times the largest vocabulary
_NAMES = ('<pad>', '<eos>', '<bos>', '<unk>')


def find(path: Path) -> Path:
  """Finds the file with a tokenizer's pieces.

  Args:
    path: A `.model` file, a `tokenizer.json`, or a folder with one of them.

  Returns:
    The file; in a folder with both, the former.

  Raises:
    FileNotFoundError: Neither is in the folder.
  """
  if not path.is_dir():
    return path
  for name in (MODEL, TABLE):
    if is_there(path / name):
      return path / name
  names = ', '.join(sorted(p.name for p in path.iterdir())[:12])
  raise FileNotFoundError(
    f'{path} has neither {MODEL} nor {TABLE}, there is {names or "nothing"}'
  )


def is_there(path: Path) -> bool:
  """Whether a folder has a file of a tokenizer.

  Raises:
    ValueError: Something else than a file has its name.
  """
  if path.exists() and not path.is_file():
    kind = 'a folder' if path.is_dir() else 'a device or pipe'
    raise ValueError(f'{path}: got {kind}, expected a file; remove it')
  return path.is_file()


def read(path: Path) -> bytes:
  """Reads a SentencePiece model from a file.

  Args:
    path: A `.model` file or a `tokenizer.json`.

  Returns:
    The serialized model.

  Raises:
    FileNotFoundError: There is no such file.
    ValueError: A tokenizer.json with other rules.
  """
  if path.suffix == '.json':
    return _convert(_load(path), str(path))
  return path.read_bytes()


def read_folder(
  folder: Path,
  data: bytes,
  source: str,
  pieces: Callable[[bytes, str], list[str]],
) -> tuple[bytes, str]:
  """Reads a folder's tokenizer with the tokens that were added to it.

  Args:
    folder: The folder.
    data: The serialized model of its tokenizer.model or tokenizer.json.
    source: Path of that file.
    pieces: (model, source) -> pieces of a serialized model.

  Returns:
    The serialized model, and the path of the file that counts.

  Raises:
    ValueError: As `added` and `read`.
  """
  known = pieces(data, source)
  if source.endswith(MODEL) and overridden(folder, known):
    source = str(folder / TABLE)
    data = read(folder / TABLE)
    known = pieces(data, source)
  tokens = added(folder, len(known))
  # A token among the pieces keeps the model's rules unless it is that piece.
  tokens = {
    i: token
    for i, token in tokens.items()
    if i >= len(known) or known[i] == token.content.replace(' ', _SPACE)
  }
  return with_added(data, len(known), tokens), source


def overridden(folder: Path, pieces: Sequence[str]) -> bool:
  """Whether a folder's tokenizer.json has another vocabulary than its model.

  transformers reads tokenizer.json where there are both.

  Args:
    folder: The folder.
    pieces: The pieces of tokenizer.model, by id.

  Raises:
    ValueError: tokenizer.json is damaged.
  """
  path = folder / TABLE
  if not is_there(path):
    return False
  table = _load(path)
  vocabulary = _object(table, 'model', str(path)).get('vocab')
  if not vocabulary or not isinstance(vocabulary, dict):
    return False
  tokens = {token.content: i for i, token in _table_tokens(path, table).items()}
  ids = {**vocabulary, **tokens}
  if '\t' in ids and _TAB not in ids:
    ids[_TAB] = ids['\t']
  return any(ids.get(piece, i) != i for i, piece in enumerate(pieces)) or any(
    isinstance(i, int) and i < len(pieces) and token != pieces[i]
    for token, i in vocabulary.items()
    if token != '\t'
  )


def added(folder: Path, size: int) -> dict[int, AddedToken]:
  """Reads the tokens that a folder adds to a model's pieces.

  They are those of tokenizer.json, of `added_tokens_decoder` in
  tokenizer_config.json, and of added_tokens.json; where two of the files have
  a token, the flags of the former count, as in transformers.

  Args:
    folder: Holds some of the files, or none.
    size: Number of pieces of the model.

  Returns:
    The tokens by id, those among the pieces too, without the placeholder of
    pictures where that is the last.

  Raises:
    ValueError: A file holds no tokens with ids, the ids leave a gap, or two
      files name different tokens.
  """
  tokens: dict[int, AddedToken] = {}
  sources: dict[int, Path] = {}
  for path, read_tokens in _ADDED.items():
    source = folder / path
    if not is_there(source):
      continue
    for i, token in read_tokens(source, _load(source)).items():
      if path == ADDED and i < size:
        continue
      known = tokens.setdefault(i, token)
      if known.content != token.content and i >= size:
        raise ValueError(
          f'{source}: id {i}: got {token.content!r}, expected'
          f' {known.content!r} as in {sources[i].name}; remove the stale file'
        )
      sources.setdefault(i, source)
  last = max(tokens, default=-1)
  if last >= size and tokens[last].content == IMAGE:
    del tokens[last]
  new = {i: token.content for i, token in tokens.items() if i >= size}
  if new:
    _in_order(new, size, str(sources[max(new)]))
  return tokens


def count(folder: Path) -> int:
  """Counts the ids up to the last token that a folder adds.

  The first file that adds tokens is asked, the smallest first.

  Args:
    folder: The folder.

  Returns:
    The last id and one; 0 if no file adds tokens. The placeholder of pictures
    counts only if others are behind it.

  Raises:
    ValueError: A file holds no tokens with ids.
  """
  for name in reversed(_ADDED):
    path = folder / name
    tokens = _ADDED[name](path, _load(path)) if is_there(path) else {}
    if tokens:
      last = max(tokens)
      return last + (tokens[last].content != IMAGE)
  return 0


def _table_tokens(path: Path, table: dict[str, Any]) -> dict[int, AddedToken]:
  tokens = table.get('added_tokens', [])
  try:
    return {
      _id(t['id'], path): added_tokens.from_fields(t, str(path)) for t in tokens
    }
  except (KeyError, TypeError) as error:
    raise ValueError(
      f"{path}: expected objects with 'content' and 'id' in added_tokens, "
      f'got {error!r}'
    ) from error


def _config_tokens(path: Path, table: dict[str, Any]) -> dict[int, AddedToken]:
  tokens = table.get('added_tokens_decoder') or {}
  try:
    return {
      _id(int(i), path): added_tokens.from_fields(t, str(path))
      for i, t in tokens.items()
    }
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise ValueError(
      f"{path}: expected ids with objects with 'content' in"
      f' added_tokens_decoder, got {error!r}'
    ) from error


def _legacy_tokens(path: Path, ids: dict[str, Any]) -> dict[int, AddedToken]:
  return {_id(i, path): AddedToken(token) for token, i in ids.items()}


def _id(value: Any, path: Path) -> int:
  """Refuses what is no id of a row that could be."""
  if not _validate.is_integer(value) or not 0 <= value < _MOST:
    raise ValueError(
      f'{path}: got the id {value!r:.60}, expected an integer from 0 to'
      f' {_MOST - 1}'
    )
  return int(value)


# Files that add tokens, the one whose flags count first.
_ADDED = {
  TABLE: _table_tokens,
  SETTINGS: _config_tokens,
  ADDED: _legacy_tokens,
}


def with_added(
  model: bytes, size: int, tokens: Mapping[int, AddedToken]
) -> bytes:
  """Adds tokens to a serialized model, with rules if they need them.

  Args:
    model: The model.
    size: Number of its pieces.
    tokens: Tokens by id; those from `size` on are added.
  """
  model, _ = added_tokens.unpack(model)
  rules = any(not t.is_plain for i, t in tokens.items() if i >= len(_NAMES))
  for i in sorted(i for i in tokens if i >= size):
    token = tokens[i]
    plain = token.is_plain and token.content != IMAGE
    piece = token.content.replace(' ', _SPACE)
    model += _piece(piece, 0.0, _USER if plain else _CONTROL)
  if not rules:
    return model
  return added_tokens.pack(
    model,
    {
      i: token
      for i, token in tokens.items()
      if i >= len(_NAMES) and token.content != IMAGE
    },
  )


def extend(model: bytes, pieces: Iterable[str]) -> bytes:
  """Adds user-defined pieces behind those of a serialized model."""
  model, rules = added_tokens.unpack(model)
  # Protocol buffers in a row are one whose lists are in a row.
  model += b''.join(
    _piece(piece.replace(' ', _SPACE), 0.0, _USER) for piece in pieces
  )
  return added_tokens.pack(model, rules) if rules else model


def _load(path: Path) -> dict[str, Any]:
  try:
    table = json.loads(path.read_bytes())
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path} is no valid JSON: {error}') from error
  if not isinstance(table, dict):
    raise ValueError(f'{path} holds {type(table).__name__}, expected an object')
  return table


def _in_order(pieces: Mapping[int, str], first: int, source: str) -> list[str]:
  if sorted(pieces) != [*range(first, first + len(pieces))]:
    gaps = (i for i in range(first, max(pieces)) if i not in pieces)
    wrong = next(gaps, first)
    raise ValueError(f'{source}: no token has the id {wrong}')
  return [pieces[i] for i in sorted(pieces)]


def _convert(table: dict[str, Any], source: str) -> bytes:
  """Makes the serialized SentencePiece model of a tokenizer.json."""
  model = _object(table, 'model', source)
  _refuse_others(table, model, source)
  vocabulary, merges = model['vocab'], model['merges']
  try:
    tokens = {token['content']: token['id'] for token in table['added_tokens']}
    ids = {**vocabulary, **tokens}
    pieces = {int(i): str(piece) for piece, i in ids.items()}
    flags = {
      t['id']: added_tokens.from_fields(t, source)
      for t in table['added_tokens']
    }
  except (KeyError, TypeError, ValueError, OverflowError) as error:
    raise ValueError(
      f"{source}: expected ids in model.vocab, 'content' and 'id' in "
      f'added_tokens, got {error!r}'
    ) from error
  if len(pieces) < max(len(ids), len(_NAMES)):
    raise ValueError(
      f'{source}: {len(ids)} tokens have {len(pieces)} ids, expected one each '
      f'and at least {", ".join(_NAMES)}'
    )
  if pieces[max(pieces)] == IMAGE:
    del pieces[max(pieces)]
  if '\t' in ids and _TAB not in ids:
    # Gemma's file has the tab itself where the model has its byte.
    pieces[ids['\t']] = _TAB
  rank = _ranks(merges, source)
  output = []
  for i, piece in enumerate(_in_order(pieces, 0, source)):
    if i == _NAMES.index('<unk>'):
      kind = _UNKNOWN
    elif i < len(_NAMES) or piece == IMAGE:
      kind = _CONTROL
    elif piece in tokens:
      kind = _USER if flags[i].is_plain else _CONTROL
    elif _BYTE.fullmatch(piece):
      kind = _RAW
    else:
      kind = _NORMAL
    score = -float(rank[piece]) if piece in rank else 0.0
    if piece in tokens:
      piece = piece.replace(' ', _SPACE)
    output.append(_piece(piece, score, kind))
  trainer = [
    _number(3, _BPE),
    _number(4, len(output)),
    _number(35, 1),  # Byte fallback.
    *(_number(43 - i, (0, 1, 2, 3)[i]) for i in range(4)),
    *(_text(48 - i, pieces[i].encode()) for i in range(4)),
  ]
  # No space put in front, none removed, U+2581 for each.
  normalizer = [
    _text(1, b'identity'),
    _number(3, 0),
    _number(4, 0),
    _number(5, 1),
  ]
  output += [_text(2, b''.join(trainer)), _text(3, b''.join(normalizer))]
  model = b''.join(output)
  tokens = {
    i: token
    for i, token in flags.items()
    if i >= len(_NAMES) and token.content != IMAGE
  }
  if all(token.is_plain for token in tokens.values()):
    return model
  return added_tokens.pack(model, tokens)


def _ranks(merges: Iterable[Any], source: str) -> dict[str, int]:
  """Numbers the unions of merged pairs in their order."""
  rank: dict[str, int] = {}
  for merge in merges:
    pair = merge.split(' ') if isinstance(merge, str) else merge
    try:
      rank.setdefault(''.join(pair), len(rank))
    except TypeError as error:
      raise ValueError(
        f'{source}: model.merges: got {merge!r:.60}, expected pairs of pieces'
      ) from error
  return rank


def _object(table, name, source):
  """Returns a field that must be an object or null, which is an empty one."""
  value = table.get(name)
  if not isinstance(value, dict | None):
    raise ValueError(
      f'{source}: {name}: got {value!r:.60}, expected an object: it is not a '
      "tokenizer of Gemma's kind"
    )
  return value or {}


def _refuse_others(table, model, source):
  """Raises ValueError where the rules are not Gemma's."""
  normalizer = _object(table, 'normalizer', source)
  before = _object(table, 'pre_tokenizer', source)
  spaces = {'String': ' '}
  rules = {
    'model.type': (model.get('type'), 'BPE'),
    'model.byte_fallback': (model.get('byte_fallback'), True),
    'model.dropout': (model.get('dropout') or None, None),
    'model.continuing_subword_prefix': (
      model.get('continuing_subword_prefix') or None,
      None,
    ),
    'model.end_of_word_suffix': (model.get('end_of_word_suffix') or None, None),
    'normalizer': (
      [normalizer.get(n) for n in ('type', 'pattern', 'content')],
      ['Replace', spaces, _SPACE],
    ),
    # Splitting at spaces does nothing, since none are left.
    'pre_tokenizer': (
      [before.get('type'), before.get('pattern')] if before else None,
      ['Split', spaces] if before else None,
    ),
    'model.vocab': (type(model.get('vocab')), dict),
    'model.merges': (type(model.get('merges')), list),
    'added_tokens': (type(table.get('added_tokens')), list),
  }
  for name, (got, expected) in rules.items():
    if got != expected:
      raise ValueError(
        f'{source}: {name}: got {got!r}, expected {expected!r}: it is not a'
        " tokenizer of Gemma's kind"
      )


def _number(field: int, value: int) -> bytes:
  return added_tokens.varint(field << 3) + added_tokens.varint(value)


def _text(field: int, value: bytes) -> bytes:
  return (
    added_tokens.varint(field << 3 | 2)
    + added_tokens.varint(len(value))
    + value
  )


def _piece(piece: str, score: float, kind: int) -> bytes:
  rank = added_tokens.varint(2 << 3 | 5) + struct.pack('<f', score)
  return _text(1, _text(1, piece.encode()) + rank + _number(3, kind))
