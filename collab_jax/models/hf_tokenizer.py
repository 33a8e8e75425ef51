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

from collections.abc import Iterable, Mapping
import json
from pathlib import Path
import re
import struct
from typing import Any

MODEL, TABLE, ADDED = 'tokenizer.model', 'tokenizer.json', 'added_tokens.json'

_SPACE = '\u2581'
_IMAGE = '<image>'  # Hugging Face's placeholder of a picture's vectors.
_BYTE = re.compile('<0x[0-9A-F]{2}>')
_TAB = '<0x09>'
_NORMAL, _UNKNOWN, _CONTROL, _USER, _RAW = 1, 2, 3, 4, 6
_BPE = 2
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
    if (path / name).is_file():
      return path / name
  names = ', '.join(sorted(p.name for p in path.iterdir())[:12])
  raise FileNotFoundError(
    f'{path} has neither {MODEL} nor {TABLE}, there is {names or "nothing"}'
  )


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


def added(folder: Path, size: int) -> list[str]:
  """Reads the tokens that a folder adds behind a model's pieces.

  Args:
    folder: Holds added_tokens.json or tokenizer.json, or neither.
    size: Number of pieces of the model.

  Returns:
    The tokens from id `size` on, without the placeholder of pictures.

  Raises:
    ValueError: The file holds no tokens with ids, or the ids leave a gap.
  """
  if (folder / ADDED).is_file():
    path = folder / ADDED
    ids = _load(path)
  elif (folder / TABLE).is_file():
    path = folder / TABLE
    tokens = _load(path).get('added_tokens', [])
    try:
      ids = {token['content']: token['id'] for token in tokens}
    except (KeyError, TypeError) as error:
      raise ValueError(
        f"{path}: expected objects with 'content' and 'id' in added_tokens, "
        f'got {error!r}'
      ) from error
  else:
    return []
  for token, i in ids.items():
    if not isinstance(i, int) or not isinstance(token, str):
      raise ValueError(f'{path}: got {token!r}: {i!r}, expected token: id')
  new = {i: token for token, i in ids.items() if i >= size}
  if new and new[max(new)] == _IMAGE:
    del new[max(new)]
  return _in_order(new, size, str(path))


def extend(model: bytes, pieces: Iterable[str]) -> bytes:
  """Adds user-defined pieces behind those of a serialized model."""
  # Protocol buffers in a row are one whose lists are in a row.
  return model + b''.join(_piece(piece, 0.0, _USER) for piece in pieces)


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
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{source}: expected ids in model.vocab, 'content' and 'id' in "
      f'added_tokens, got {error!r}'
    ) from error
  if len(pieces) < max(len(ids), len(_NAMES)):
    raise ValueError(
      f'{source}: {len(ids)} tokens have {len(pieces)} ids, expected one each '
      f'and at least {", ".join(_NAMES)}'
    )
  if pieces[max(pieces)] == _IMAGE:
    del pieces[max(pieces)]
  if '\t' in ids and _TAB not in ids:
    # Gemma's file has the tab itself where the model has its byte.
    pieces[ids['\t']] = _TAB
  rank = _ranks(merges, source)
  output = []
  for i, piece in enumerate(_in_order(pieces, 0, source)):
    if i == _NAMES.index('<unk>'):
      kind = _UNKNOWN
    elif i < len(_NAMES) or piece == _IMAGE:
      kind = _CONTROL
    elif piece in tokens:
      kind = _USER
    elif _BYTE.fullmatch(piece):
      kind = _RAW
    else:
      kind = _NORMAL
    score = -float(rank[piece]) if piece in rank else 0.0
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
  return b''.join(output)


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


def _varint(value: int) -> bytes:
  output = bytearray()
  while value > 127:
    output.append(value & 127 | 128)
    value >>= 7
  output.append(value)
  return bytes(output)


def _number(field: int, value: int) -> bytes:
  return _varint(field << 3) + _varint(value)


def _text(field: int, value: bytes) -> bytes:
  return _varint(field << 3 | 2) + _varint(len(value)) + value


def _piece(piece: str, score: float, kind: int) -> bytes:
  rank = _varint(2 << 3 | 5) + struct.pack('<f', score)
  return _text(1, _text(1, piece.encode()) + rank + _number(3, kind))
