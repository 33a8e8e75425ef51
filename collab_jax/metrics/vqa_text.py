"""Normalization of answers in the evaluation of VQA.

Source: https://visualqa.org/evaluation.html and the code that it leads to,
github.com/GT-Vision-Lab/VQA, whose results these equal (tests/golden), its
surprises among them: one comma between digits takes every punctuation mark
away, and only the first 32 full stops go.
"""

import re

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r'\d,\d')
_STOP = re.compile(r'\.(?!\d)')
_MOST_STOPS = 32
_ARTICLES = frozenset(('a', 'an', 'the'))
_NUMBER_WORDS = """
zero one two three four five six seven eight nine ten
"""
_NUMBERS = {word: str(i) for i, word in enumerate(_NUMBER_WORDS.split())}
_NUMBERS['none'] = '0'
# Contractions; a word that lacks one of their apostrophes becomes them.
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't
hadn't've hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've
it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've
somebody'd've somebody'll somebody's someone'd someone'd've someone'll someone's
something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've
weren't what'll what're what's what've when's where'd where's where've who'd
who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _variants() -> dict[str, str]:
  """Returns contractions by their misspelt forms."""
  table = {
    word[:i] + word[i + 1 :]: word
    for word in _CONTRACTIONS.split()
    for i, letter in enumerate(word)
    if letter == "'"
  }
  # The one that the original turns the other way round.
  return table | {"somebody'd": 'somebodyd'}


_SPELLINGS = _variants()


def on_one_line(text: str) -> str:
  """Returns a text without line breaks, tabs and spaces around it."""
  return text.replace('\n', ' ').replace('\t', ' ').strip()


def normalize(text: str) -> str:
  """Returns an answer without punctuation, articles and number words.

  Args:
    text: a text on one line.

  Returns:
    The same in lower case, contractions with their apostrophes.
  """
  words = _without_punctuation(text).lower().split()
  words = [_NUMBERS.get(word, word) for word in words]
  return ' '.join(
    _SPELLINGS.get(word, word) for word in words if word not in _ARTICLES
  )


def _without_punctuation(text: str) -> str:
  everywhere = _COMMA_IN_NUMBER.search(text) is not None
  result = text
  for mark in _PUNCTUATION:
    beside_space = f'{mark} ' in text or f' {mark}' in text
    result = result.replace(mark, '' if everywhere or beside_space else ' ')
  return _STOP.sub('', result, count=_MOST_STOPS)
