"""Tokenization of captions as in the COCO caption evaluation."""

from collections.abc import Sequence
import functools
import re

# What coco-caption's PTBTokenizer drops after tokenization. Runs such as '?!'
# are not in its list, and stay.
_PUNCTUATION = frozenset(
  ["''", "'", '``', '`', '.', '?', '!', ',', ':', '-', '--', '...', ';']
)

# Stanford's names, kept because coco-caption lower-cases before it looks for
# '-LRB-' in its list, and so never drops them.
_BRACKETS = {
  '(': '-lrb-',
  ')': '-rrb-',
  '[': '-lsb-',
  ']': '-rsb-',
  '{': '-lcb-',
  '}': '-rcb-',
}

_QUOTES = str.maketrans(
  {
    '\u2018': "'",
    '\u2019': "'",
    '\u201c': '"',
    '\u201d': '"',
    '\u2013': '--',
    '\u2014': '--',
    '\u2026': '...',
  }
)

_CONTRACTIONS = re.compile(r"(?<=\w)(?=n't\b)|(?<=\w)(?='(?:s|m|d|re|ve|ll)\b)")
_JOINED = re.compile(r'\b(can)(not)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b')

_TOKEN = re.compile(
  r"""
  -[lr][rsc]b-                                # a bracket, already named
  | n't\b | '(?:s|m|d|re|ve|ll)\b | 'n'?      # the tail of a contraction
  | (?:[a-z]\.)+(?!\w)                        # initials: p.m., u.s.a., a.
  | (?:mrs?|ms|dr|prof|st|jr|sr|vs|etc|no)\.  # other abbreviations
  | @?\w+(?:[-'./:,](?=\w)\w+)*                 # t-shirt, o'clock, 3:30, 1,000
  | [?!]+ | \.{3,} | -{2,} | `` | ''          # runs
  | \S
  """,
  re.VERBOSE,
)


@functools.lru_cache(maxsize=1 << 18)
def tokenize(caption: str) -> str:
  """Splits a caption into lower-case words without punctuation.

  A regular expression that stands for Stanford's PTBTokenizer followed by
  coco-caption's list of dropped punctuation, without a Java machine. It knows
  what captions hold: punctuation, contractions, abbreviations, hyphens,
  numbers, brackets; not web addresses or smileys.

  Args:
    caption: Any text.

  Returns:
    The words with one space between them, ready for `str.split`. Tokenizing
    the result again changes nothing.

  Source: pycocoevalcap 1.2, with which it is compared on recorded captions.
  """
  text = caption.lower().translate(_QUOTES)
  text = _CONTRACTIONS.sub(' ', text)
  text = _JOINED.sub(lambda match: ' '.join(filter(None, match.groups())), text)
  words = (_BRACKETS.get(word, word) for word in _words(text))
  return ' '.join(word for word in words if word not in _PUNCTUATION)


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
  if len(captions) != len(references):
    raise ValueError(
      f'got {len(captions)} captions and references of {len(references)} '
      'images, expected one list of references per caption'
    )
  if not captions:
    raise ValueError('got no captions, expected at least one to score')
  for index, texts in enumerate(references):
    if isinstance(texts, str) or not texts:
      raise ValueError(
        f'references[{index}] is {texts!r}, expected a list of one or more '
        'captions'
      )
  return (
    [tokenize(caption) for caption in captions],
    [tuple(tokenize(text) for text in texts) for texts in references],
  )


def _words(text: str) -> list[str]:
  """The tokens of a line; a double quote is one, and never kept."""
  return [word for word in _TOKEN.findall(text) if word != '"']
