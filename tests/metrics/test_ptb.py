"""Words equal to the Java tokenizer's, on captions of every kind."""

import gzip
import json
import pathlib

import numpy as np
import pytest

from collab_jax import metrics
from collab_jax.metrics import ptb
from collab_jax.metrics.tokenize import tokenize

_GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'ptb_words.json.gz'


@pytest.fixture(scope='module')
def recorded():
  return json.loads(gzip.decompress(_GOLDEN.read_bytes()))


def test_words_are_those_of_the_java_tokenizer(recorded):
  assert len(recorded['captions']) >= 5000
  wrong = [
    (caption, words, tokenize(caption))
    for caption, words in zip(
      recorded['captions'], recorded['words'], strict=True
    )
    if tokenize(caption) != words
  ]
  assert not wrong, wrong[:5]


def test_bleu_and_cider_are_those_of_coco_caption(recorded):
  captions = recorded['captions']
  # As `pairs` of make_ptb_words.py puts them together.
  scored = captions[0 : len(captions) - 2 : 3]
  references = [
    [f'{caption} {captions[3 * i + 1]}', captions[3 * i + 2]]
    for i, caption in enumerate(scored)
  ]
  bleu = list(metrics.bleu(scored, references).values())
  # sacrebleu leaves out the 1e-15 that coco-caption adds to its counts.
  np.testing.assert_allclose(bleu, recorded['bleu'], rtol=1e-12)
  ciders = metrics.cider_scores(scored, references)
  np.testing.assert_allclose(ciders, recorded['cider_scores'], atol=1e-9)
  assert metrics.cider(scored, references) == pytest.approx(
    recorded['cider'], abs=1e-9
  )


@pytest.mark.parametrize(
  ('caption', 'words'),
  [
    # A letter and a full stop, before a sentence and elsewhere.
    ('plan B. The dog', 'plan b the dog'),
    ('plan B. the dog', 'plan b. the dog'),
    # Abbreviations of states only with a capital.
    ('in Wash. today', 'in wash. today'),
    ('to wash. today', 'to wash today'),
    # Numbers before which, and only there, a word is shortened.
    ('no. 5 says no.', 'no. 5 says no'),
    # The longest match, not the first.
    ("can''em", 'can em'),
    ('A&amp;P and A&AMP;P', 'a&p and a&p'),
    # Telephone numbers and fractions keep their spaces, as hard ones.
    ('(212) 555-1234 5 1/2', '-lrb-212-rrb-\xa0555-1234 5\xa01/2'),
    # An emoji is two unknown characters, a letter of a new alphabet one.
    ('a dog\U0001f436 x\U0001f600y \ua796b', 'a dog x y b'),
    ('me@\U0001f600.com', 'me@\U0001f600.com'),
    # Old coin and quotation marks of Windows.
    ('\x93two\x94 \x80 \xa3 5\xa2', 'two $ # 5 cents'),
    ('so:) (^_^) <3', 'so :-rrb- -lrb-^_^-rrb- < 3'),
    (
      '\u03a3\u0391\u03a3 \u03a3\u0391\u03a3-x',
      '\u03c3\u03b1\u03c2 \u03c3\u03b1\u03c3-x',
    ),
  ],
)
def test_rules(caption, words):
  assert tokenize(caption) == words


@pytest.mark.parametrize(
  'caption',
  [
    'A man, a dog and a cat.',
    'two dogs cannot go.',
    'It is on St.',
    'letter B.',
    'gonna',
    'A',
    'dogs, cats and Inc.\n',
    'no.',
  ],
)
def test_plain_captions_need_no_rules(caption):
  tokens = [token.lower() for token in ptb.split(caption)]
  dropped = {'.', ','}
  assert tokenize(caption).split() == [t for t in tokens if t not in dropped]


def test_lines_break_words_and_nothing_else():
  for end in '\r', '\x0b', '\x0c', '\u2028', '\u2029', '\r\n', '\n':
    assert tokenize(f'one{end}two') == 'one two'


@pytest.mark.parametrize(
  'caption', ['a' * 50_000, 'a,' * 5_000, '-' * 50_000, "n't" * 5_000]
)
def test_long_texts_take_seconds_at_most(caption):
  assert isinstance(tokenize(caption), str)
