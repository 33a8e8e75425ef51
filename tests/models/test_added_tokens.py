"""Tokens that a folder adds to its vocabulary, with Hugging Face's rules."""

import json
from pathlib import Path
import shutil

import pytest

from collab_jax.models import added_tokens, tokenizer

GOLDEN = Path(__file__).parents[1] / 'golden'
SIZE = 423  # pieces of the recorded model


def folder(path, tokens, name='tokenizer_config.json'):
  """A folder whose tokenizer has these tokens, each a dict of flags."""
  shutil.copy(GOLDEN / 'tokenizer.model', path)
  table = {
    str(SIZE + i): {'content': text, **flags}
    for i, (text, flags) in enumerate(tokens.items())
  }
  fields = {'added_tokens_decoder': table}
  (path / name).write_text(json.dumps(fields))
  return tokenizer.Tokenizer(path)


def test_token_with_a_space(tmp_path):
  for normalized in (False, True):
    tok = folder(tmp_path, {'red cat': {'normalized': normalized}})
    ids = tok.encode('a red cat')
    assert ids[-1] == SIZE
    assert tok.decode(ids) == 'a red cat'


def test_single_word(tmp_path):
  tok = folder(tmp_path, {'cat': {'single_word': True}})
  assert SIZE in tok.encode('a cat, here')
  assert SIZE not in tok.encode('concatenate')
  assert tok.decode(tok.encode('concatenate a cat')) == 'concatenate a cat'


@pytest.mark.parametrize('side', ['lstrip', 'rstrip'])
def test_spaces_beside_a_token(tmp_path, side):
  tok = folder(tmp_path, {'<c>': {side: True}})
  plain = tokenizer.Tokenizer(GOLDEN / 'tokenizer.model')
  left, right = ('a', '  b') if side == 'lstrip' else ('a  ', 'b')
  want = [*plain.encode(left), SIZE, *plain.encode(right)]
  assert tok.encode('a  <c>  b') == want


def test_special_tokens_are_no_part_of_captions(tmp_path):
  tok = folder(tmp_path, {'<c>': {'special': True}, '<d>': {}})
  ids = tok.encode('a<c>b<d>')
  assert SIZE in ids
  assert tok.decode(ids) == 'ab<d>'


def test_copies_keep_the_rules(tmp_path):
  tok = folder(tmp_path, {'<c>': {'lstrip': True}})
  again = tokenizer.Tokenizer(tok.model_bytes)
  assert again == tok
  assert again.encode('a <c>') == tok.encode('a <c>')
  longer = tok.extended(['<e>'])
  assert longer.encode('a <c><e>') == [*tok.encode('a <c>'), SIZE + 1]
  assert added_tokens.unpack(b'abc') == (b'abc', {})


def test_placeholder_of_pictures_between_tokens(tmp_path):
  tok = folder(tmp_path, {'<image>': {'special': True}, '<cat>': {}})
  assert tok.vocab_size == SIZE + 2
  assert tok.encode('<cat>') == [SIZE + 1]
  assert tok.image_id == SIZE
  assert SIZE not in tok.encode('<image>')


def test_files_that_disagree(tmp_path):
  folder(tmp_path, {'<c>': {}})
  (tmp_path / 'added_tokens.json').write_text(json.dumps({'<d>': SIZE}))
  with pytest.raises(ValueError, match='remove the stale file'):
    tokenizer.Tokenizer(tmp_path)


def test_tokenizer_json_counts_before_another_model(tmp_path):
  """transformers reads tokenizer.json where there are both."""
  table = json.loads((GOLDEN / 'tokenizer.json').read_text())
  shutil.copy(GOLDEN / 'tokenizer.model', tmp_path)
  ids = table['model']['vocab']
  a, b = (next(k for k, v in ids.items() if v == i) for i in (300, 301))
  ids[a], ids[b] = ids[b], ids[a]
  (tmp_path / 'tokenizer.json').write_text(json.dumps(table))
  tok = tokenizer.Tokenizer(tmp_path)
  assert tok == tokenizer.Tokenizer(tmp_path / 'tokenizer.json')
  assert tok.encode(a) != tokenizer.Tokenizer(
    GOLDEN / 'tokenizer.model'
  ).encode(a)


@pytest.mark.parametrize('i', [10**30, -1, True, 1.5, None])
def test_ids_beyond_any_integer(tmp_path, i):
  shutil.copy(GOLDEN / 'tokenizer.model', tmp_path)
  (tmp_path / 'added_tokens.json').write_text(json.dumps({'<c>': i}))
  with pytest.raises(ValueError, match=r'added_tokens\.json: got the id'):
    tokenizer.Tokenizer(tmp_path)


RECORDED = json.loads((GOLDEN / 'added_tokens.json').read_text())


@pytest.mark.parametrize('alone', [True, False])
def test_recorded_ids(tmp_path, alone):
  table = json.loads((GOLDEN / 'tokenizer.json').read_text())
  table['added_tokens'] = RECORDED['added_tokens']
  (tmp_path / 'tokenizer.json').write_text(json.dumps(table))
  if not alone:
    shutil.copy(GOLDEN / 'tokenizer.model', tmp_path)
  tok = tokenizer.Tokenizer(tmp_path)
  for text, ids in RECORDED['ids'].items():
    assert tok.encode(text) == ids, text
    assert tok.decode(ids) == RECORDED['decoded'][text], text
