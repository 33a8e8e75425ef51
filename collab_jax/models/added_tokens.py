"""Tokens that are added to a vocabulary, with Hugging Face's rules.

SentencePiece matches its user-defined pieces wherever they stand. A token of
Hugging Face's may ask for more: to be a word of its own (single_word), to take
the spaces beside it (lstrip, rstrip), to be found before spaces are replaced
(normalized is false), or to be left out of captions (special). A model with
such tokens carries them in a field of its own, which SentencePiece skips.

Source: `AddedVocabulary` of Hugging Face's tokenizers; checked against ids that
it gave (tests/models/test_added_tokens.py).
"""

from collections.abc import Iterator, Mapping
import json
import re
from typing import Any, NamedTuple

SPACE = '\u2581'

# Tag of an extension field of sentencepiece_model.proto, number 1000, bytes.
_TAG = bytes([0xC2, 0x3E])
_MAGIC = b'{"collab_jax_added_tokens": '


class AddedToken(NamedTuple):
  """Token that is matched before the vocabulary's pieces.

  Attributes:
    content: Its text.
    single_word: Whether no letter or digit may stand beside it.
    lstrip: Whether it takes the spaces before it.
    rstrip: Whether it takes the spaces behind it.
    normalized: Whether it is looked for after spaces have become U+2581.
    special: Whether captions leave it out.
  """

  content: str
  single_word: bool = False
  lstrip: bool = False
  rstrip: bool = False
  normalized: bool = False
  special: bool = False

  @property
  def is_plain(self) -> bool:
    """Whether a user-defined piece of SentencePiece does all of it."""
    flags = self.single_word, self.lstrip, self.rstrip, self.special
    # Pictures' placeholder is no text: `Tokenizer` never writes it.
    return not any(flags) or self.content == '<image>'


def from_fields(fields: Any, source: str) -> AddedToken:
  """Reads a token as Hugging Face's files have it.

  Raises:
    KeyError: It has no content.
    TypeError: It is no object.
    ValueError: A field is of another kind.
  """
  flags = {
    name: fields.get(name, False) if isinstance(fields, dict) else False
    for name in AddedToken._fields[1:]
  }
  content = fields['content']
  wrong = [k for k, v in flags.items() if not isinstance(v, bool)]
  if not isinstance(content, str) or not content or wrong:
    raise ValueError(
      f'{source}: got the token {fields!r:.80}, expected a text as content and'
      ' true or false as flags'
    )
  return AddedToken(content, **flags)


def pack(model: bytes, tokens: Mapping[int, AddedToken]) -> bytes:
  """Puts tokens behind a serialized model, in a field that others skip."""
  text = json.dumps({str(i): [*tokens[i]] for i in sorted(tokens)})
  data = _MAGIC + text.encode() + b'}'
  return model + _TAG + varint(len(data)) + data


def unpack(model: bytes) -> tuple[bytes, dict[int, AddedToken]]:
  """Returns a serialized model without the tokens, and the tokens by id."""
  start = model.rfind(_MAGIC)
  head = _TAG + varint(len(model) - start)
  if start < 0 or not model[:start].endswith(head):
    return model, {}
  try:
    (table,) = json.loads(model[start:]).values()
    tokens = {int(i): AddedToken(*fields) for i, fields in table.items()}
  except (ValueError, TypeError, AttributeError, RecursionError):
    return model, {}
  return model[: start - len(head)], tokens


def varint(value: int) -> bytes:
  """Returns a number in the variable length of protocol buffers."""
  output = bytearray()
  while value > 127:
    output.append(value & 127 | 128)
    value >>= 7
  output.append(value)
  return bytes(output)


class Matcher:
  """Finds added tokens in a text, as Hugging Face's tokenizers do."""

  def __init__(self, tokens: Mapping[int, AddedToken]):
    """Compiles the tokens, by id."""
    self._early = _Pattern(
      {i: (t.content, t) for i, t in tokens.items() if not t.normalized}
    )
    self._late = _Pattern(
      {
        i: (t.content.replace(' ', SPACE), t)
        for i, t in tokens.items()
        if t.normalized
      }
    )

  def split(self, text: str) -> Iterator[str | int]:
    """Yields ids of tokens, and the texts between, spaces as U+2581."""
    for part in self._early.split(text):
      if isinstance(part, int):
        yield part
      else:
        yield from self._late.split(part.replace(' ', SPACE))


class _Pattern:
  """Tokens that are looked for in one pass."""

  def __init__(self, tokens: Mapping[int, tuple[str, AddedToken]]):
    # Of alternatives the first counts, and the longest is to.
    self._ids = {content: i for i, (content, _) in tokens.items()}
    self._tokens = {i: token for i, (_, token) in tokens.items()}
    texts = sorted(self._ids, key=len, reverse=True)
    self._pattern = re.compile('|'.join(map(re.escape, texts)) or '(?!)')

  def split(self, text: str) -> Iterator[str | int]:
    position = 0
    for match in self._pattern.finditer(text):
      i = self._ids[match[0]]
      token, start, stop = self._tokens[i], match.start(), match.end()
      beside = text[max(0, start - 1) : start] + text[stop : stop + 1]
      if token.single_word and re.search(r'\w', beside):
        continue
      if token.lstrip:
        start = max(len(text[:start].rstrip()), position)
      if token.rstrip:
        stop += len(text[stop:]) - len(text[stop:].lstrip())
      if position < start:
        yield text[position:start]
      yield i
      position = stop
    if position < len(text):
      yield text[position:]
