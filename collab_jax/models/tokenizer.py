"""Text to token ids and back, with SentencePiece."""

from collections.abc import Iterable
import hashlib
import itertools
import os
from pathlib import Path
from typing import SupportsInt

import sentencepiece

from collab_jax import _validate
from collab_jax.models import added_tokens, hf_tokenizer

SPECIALS = {'pad': 0, 'eos': 1, 'bos': 2, 'unk': 3}

# PaliGemma's pieces after Gemma's 256,000: locations on a grid of 1024 steps,
# and codewords of a mask.
LOCATIONS = tuple(f'<loc{i:04d}>' for i in range(1024))
SEGMENTS = tuple(f'<seg{i:03d}>' for i in range(128))
# First words of prompts whose answers have boxes, as PaliGemma was trained.
_PLACING = 'detect ', 'segment '


def asks_for_places(prompt: str) -> bool:
  """Returns whether a prompt is of a form whose answers have boxes."""
  return prompt.startswith(_PLACING)


class Tokenizer:
  r"""SentencePiece tokenizer with Gemma's special ids.

  Prefix, separator and suffix are tokenized separately and concatenated, as
  big_vision does when it trains PaliGemma; a prompt is
  `[bos] + encode(prefix) + encode('\n')`, and a caption ends with `eos_id`.

  Attributes:
    pad_id: Id of the padding, 0.
    eos_id: Id that ends a caption, 1.
    bos_id: Id that begins a prompt, 2.
    unk_id: Id of text that the vocabulary cannot spell, 3.
    newline_id: Id of the piece that ends a prompt (108 in Gemma's vocabulary).
    model_bytes: The serialized model, which `Tokenizer` reads again.
  """

  pad_id = SPECIALS['pad']
  eos_id = SPECIALS['eos']
  bos_id = SPECIALS['bos']
  unk_id = SPECIALS['unk']

  def __init__(self, model: str | os.PathLike[str] | bytes):
    """Reads a SentencePiece model, or a Hugging Face tokenizer.

    Args:
      model: Path of a `.model` file, or its contents; of a `tokenizer.json`
        with such a model's rules; or of a folder with either. There the former
        is read, unless the latter has another vocabulary, and tokens that were
        added to it are added.

    Raises:
      FileNotFoundError: There is no such file, or none in the folder.
      ValueError: The file is neither a SentencePiece model nor a tokenizer
        with such rules; its special ids are not Gemma's (pad 0, eos 1, bos 2,
        unk 3); or a newline is not one piece.
    """
    if isinstance(model, bytes):
      source, folder, data = f'{len(model)} bytes', None, model
    else:
      folder = Path(model)
      source = os.fspath(path := hf_tokenizer.find(folder))
      data = hf_tokenizer.read(path)
    processor = _processor(data, source)
    if folder is not None and folder.is_dir():
      data, source = hf_tokenizer.read_folder(folder, data, source, _pieces)
      processor = _processor(data, source)
    self.model_bytes = data
    self._processor = processor
    self._added = added_tokens.unpack(data)[1]
    self._matcher = added_tokens.Matcher(self._added) if self._added else None

    got = {name: getattr(processor, f'{name}_id')() for name in SPECIALS}
    if got != SPECIALS:
      raise ValueError(
        f'special ids of {source} are {got}, expected {SPECIALS}: it is not a '
        'Gemma vocabulary'
      )
    newline = self.encode('\n')
    if len(newline) != 1 or newline[0] in SPECIALS.values():
      raise ValueError(
        f'{source} encodes a newline as {newline}, expected one piece: train '
        "it with '\\n' as a user-defined symbol"
      )
    self.newline_id = newline[0]

  @property
  def image_id(self) -> int | None:
    """Id of Hugging Face's placeholder of pictures, if it is among the ids."""
    i = self._processor.PieceToId(hf_tokenizer.IMAGE)
    return None if i == self.unk_id else i

  @property
  def vocab_size(self) -> int:
    """Number of ids, specials included."""
    return self._processor.GetPieceSize()

  @property
  def vocabulary(self) -> list[str]:
    """Pieces by id, specials included."""
    return [self._processor.IdToPiece(i) for i in range(self.vocab_size)]

  @property
  def fingerprint(self) -> str:
    """First 16 hexadecimal digits of SHA-256 of `model_bytes`."""
    return hashlib.sha256(self.model_bytes).hexdigest()[:16]

  def encode(self, text: str) -> list[int]:
    """Returns the ids of a text, without bos or eos; '<eos>' is plain text."""
    if self._matcher is None:
      return self._processor.EncodeAsIds(text)
    ids = []
    for part in self._matcher.split(text):
      ids += (
        [part] if isinstance(part, int) else self._processor.EncodeAsIds(part)
      )
    return ids

  def prompt(self, prefix: str) -> list[int]:
    """Returns the ids between the image and the caption."""
    return [self.bos_id, *self.encode(prefix), self.newline_id]

  def decode(self, ids: Iterable[SupportsInt]) -> str:
    """Returns the text of ids up to the first eos, without special ids.

    Args:
      ids: Token ids, a list or a 1-d array of integers. Ids past the
        vocabulary, which a padded embedding table may yield, are left out, and
        so are added tokens that Hugging Face calls special.

    Returns:
      The text.
    """
    kept = []
    for token in map(int, ids):
      if token == self.eos_id:
        break
      if self.unk_id < token < self.vocab_size:
        kept.append(token)
    if not self._added:
      return self._processor.DecodeIds(kept)
    texts = []
    for added, run in itertools.groupby(kept, self._added.get):
      if added is None:
        texts.append(self._processor.DecodeIds([*run]))
      elif not added.special:
        texts += [added.content for _ in run]
    return ''.join(texts)

  def pieces(self, text: str) -> list[str]:
    """Returns the pieces of a text as the vocabulary spells them."""
    return [self._processor.IdToPiece(i) for i in self.encode(text)]

  def describe_unfit(self, prompt: str) -> str:
    """Says that a prompt asks for places which the vocabulary cannot write.

    Args:
      prompt: Any text.

    Returns:
      A sentence; '' for a prompt that does not ask for places, and where there
      are location tokens.
    """
    if not asks_for_places(prompt) or len(self.encode(LOCATIONS[0])) == 1:
      return ''
    return (
      f'prompt: got {prompt[:60]!r}, but the vocabulary has no location tokens:'
      ' the answer will have no boxes'
    )

  def extended(self, pieces: Iterable[str]) -> 'Tokenizer':
    """Returns the tokenizer with more pieces, which are matched first.

    A Gemma vocabulary becomes PaliGemma's with `LOCATIONS + SEGMENTS`, as
    big_vision adds them.

    Args:
      pieces: Texts that become one id each, in this order.

    Returns:
      Another tokenizer.

    Raises:
      ValueError: A piece is empty, or in the vocabulary already.
    """
    pieces = list(pieces)
    known = {*self.vocabulary}
    for piece in pieces:
      if not piece or piece in known:
        raise _validate.error('piece', piece, 'a text that is no piece yet')
      known.add(piece)
    return Tokenizer(hf_tokenizer.extend(self.model_bytes, pieces))

  def __eq__(self, other: object) -> bool:
    """Two tokenizers are equal if their models are."""
    if not isinstance(other, Tokenizer):
      return NotImplemented
    return self.model_bytes == other.model_bytes

  def __hash__(self) -> int:
    """Hashes the model's bytes, for use in frozen dataclasses."""
    return hash(self.model_bytes)

  def __repr__(self) -> str:
    """Shows the size, not the bytes."""
    return f'Tokenizer(vocab_size={self.vocab_size})'

  def __reduce__(self) -> tuple[type['Tokenizer'], tuple[bytes]]:
    """Pickles the model's bytes, since the processor cannot be copied."""
    return Tokenizer, (self.model_bytes,)


def _pieces(data: bytes, source: str) -> list[str]:
  """Returns the pieces of a serialized model."""
  processor = _processor(data, source)
  return [processor.IdToPiece(i) for i in range(processor.GetPieceSize())]


def _processor(
  data: bytes, source: str
) -> sentencepiece.SentencePieceProcessor:
  processor = sentencepiece.SentencePieceProcessor()
  try:
    processor.LoadFromSerializedProto(data)
  except (RuntimeError, TypeError) as error:
    raise ValueError(f'not a SentencePiece model: {source}') from error
  if not processor.GetPieceSize():
    raise ValueError(f'not a SentencePiece model: {source}')
  return processor
