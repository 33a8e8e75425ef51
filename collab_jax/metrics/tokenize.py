"""Tokenization of captions as in the COCO caption evaluation."""

from collections.abc import Sequence
import functools
import re
from typing import Any

from collab_jax.metrics import ptb

# What coco-caption drops after tokenization. It looks for '-LRB-' too, but has
# lower-cased the words by then, so that brackets stay. Runs such as '?!' are
# not in its list, and stay as well.
_PUNCTUATION = frozenset(
  ["''", "'", '``', '`', '.', '?', '!', ',', ':', '-', '--', '...', ';', '']
)

# Words and commas: nearly every caption, which needs none of the rules.
_PLAIN = re.compile('[A-Za-z]+(?:,? [A-Za-z]+)*')


@functools.lru_cache(maxsize=1 << 18)
def tokenize(caption: str) -> str:
  """Splits a caption into lower-case words without punctuation.

  The words of coco-caption, to the letter: those of Stanford's PTBTokenizer
  3.4.1 (`ptb`), in lower case and without its list of punctuation. A caption
  is taken by itself. The original reads all captions as one file, in which
  the beginning of the next decides about an ending such as 'plan B.', and in
  which a carriage return inside a caption shifts all that follow.

  Args:
    caption: Any text.

  Returns:
    The words with one space between them, ready for `str.split`.

  Source: pycocoevalcap 1.2, with whose output 6,000 captions are compared.
  """
  words = _plain_words(caption)
  if words is None:
    tokens = ' '.join(ptb.split(caption.replace('\n', ' ')))
    words = ptb.lower(tokens).rstrip().split(' ')
  return ' '.join(word for word in words if word not in _PUNCTUATION)


def _plain_words(caption: str) -> list[str] | None:
  """Words of a caption of plain words, where no rule has a say; else None."""
  sentence = caption.rstrip(' \n').removesuffix('.')
  if not _PLAIN.fullmatch(sentence):
    return None
  words = sentence.lower().replace(',', '').split(' ')
  last = sentence[sentence.rfind(' ') + 1 :]
  if any(map(ptb.is_contracted, words)) or ptb.keeps_full_stop(last):
    return None
  return words


def tokenize_all(
  captions: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[str], list[tuple[str, ...]]]:
  """Tokenizes captions and their references, and checks that they match.

  Args:
    captions: One caption per image; may be empty strings.
    references: The references of each image, at least one.

  Returns:
    Both, tokenized.

  Raises:
    ValueError: There is nothing to score, the lengths differ, or an image has
      no reference.
  """
  check_texts('captions', captions)
  if len(captions) != len(references):
    raise ValueError(
      f'got {len(captions)} captions and references of {len(references)} '
      'images, expected one list of references per caption'
    )
  if not len(captions):  # An array has no truth value.
    raise ValueError('got no captions, expected at least one to score')
  for index, texts in enumerate(references):
    if isinstance(texts, str) or not len(texts):
      raise ValueError(
        f'references[{index}] is {texts!r}, expected a list of one or more '
        'captions'
      )
    check_texts(f'references[{index}]', texts)
  return (
    [tokenize(caption) for caption in captions],
    [tuple(tokenize(text) for text in texts) for texts in references],
  )


def check_texts(name: str, texts: Any) -> None:
  """Refuses one text in place of several, and what is no text.

  Args:
    name: Name of the argument.
    texts: Expected to be a sequence of texts.

  Raises:
    ValueError: It is not.
  """
  if isinstance(texts, str):
    raise ValueError(f'{name}: got {texts!r}, expected a list of captions')
  for index, text in enumerate(texts):
    if not isinstance(text, str):
      raise ValueError(f'{name}[{index}]: got {text!r}, expected a caption')
