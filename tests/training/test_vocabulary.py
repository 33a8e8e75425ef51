"""Vocabularies trained on captions."""

import itertools

import pytest

from collab_jax.models import tokenizer as tokenizer_lib
from collab_jax.training import vocabulary

COLOURS = ('red', 'green', 'blue', 'yellow')
SHAPES = ('circle', 'triangle', 'square', 'star')
TEXTS = [
  f'a {one} {shape} and a striped {two} {other}'
  for one, two in itertools.product(COLOURS, repeat=2)
  for shape, other in itertools.product(SHAPES, repeat=2)
]


@pytest.fixture(scope='module')
def model():
  return vocabulary.train_tokenizer(TEXTS, vocab_size=512)


def test_deterministic_and_independent_of_the_container(model):
  assert vocabulary.train_tokenizer(iter(TEXTS), vocab_size=512) == model


def test_words_are_whole(model):
  tok = tokenizer_lib.Tokenizer(model)
  for text in TEXTS:
    assert len(tok.encode(text)) == len(text.split())
  assert tok.pieces('a red star') == ['a', '▁red', '▁star']


def test_small_vocabulary_is_kept_to_its_size():
  tok = tokenizer_lib.Tokenizer(vocabulary.train_tokenizer(TEXTS, 300))
  assert tok.vocab_size == 300
  assert tok.decode(tok.encode(TEXTS[0])) == TEXTS[0]


def test_few_texts_give_fewer_pieces():
  tok = tokenizer_lib.Tokenizer(vocabulary.train_tokenizer(['ab ab'], 2000))
  assert tok.vocab_size < 300


def test_unigram():
  data = vocabulary.train_tokenizer(TEXTS, 320, model_type='unigram')
  tok = tokenizer_lib.Tokenizer(data)
  assert tok.decode(tok.encode(TEXTS[0])) == TEXTS[0]


def test_too_small_a_vocabulary():
  with pytest.raises(ValueError, match='expected at least'):
    vocabulary.train_tokenizer(TEXTS, 256)


@pytest.mark.parametrize('texts', [[], ['', '']])
def test_no_texts(texts):
  with pytest.raises(ValueError, match='no texts'):
    vocabulary.train_tokenizer(texts, 512)
