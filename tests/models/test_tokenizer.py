"""Text to ids and back, on a vocabulary trained here."""

import copy
import pickle

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest
import sentencepiece

from collab_jax.models import tokenizer as tokenizer_lib
from collab_jax.training import vocabulary

TEXTS = ['a red ball on the grass', 'two blue cats left of a dog', 'caption en']


@pytest.fixture(scope='module')
def tok():
  return tokenizer_lib.Tokenizer(
    vocabulary.train_tokenizer(TEXTS * 20, vocab_size=340)
  )


def spm(tmp_path, **options):
  """A model with SentencePiece's own defaults, unless told otherwise."""
  sentencepiece.SentencePieceTrainer.Train(
    sentence_iterator=iter(TEXTS * 20),
    model_prefix=str(tmp_path / 'words'),
    vocab_size=40,
    hard_vocab_limit=False,
    minloglevel=2,
    **options,
  )
  return tmp_path / 'words.model'


GEMMA_IDS = {'pad_id': 0, 'eos_id': 1, 'bos_id': 2, 'unk_id': 3}


def test_special_ids(tok):
  assert (tok.pad_id, tok.eos_id, tok.bos_id, tok.unk_id) == (0, 1, 2, 3)
  assert tok.encode('\n') == [tok.newline_id]
  assert tok.newline_id > 3


def test_prompt_is_tokenized_in_parts(tok):
  ids = tok.encode('caption en')
  assert tok.prompt('caption en') == [tok.bos_id, *ids, tok.newline_id]
  assert tok.prompt('') == [tok.bos_id, tok.newline_id]
  # The separator stays one piece of its own even after another newline.
  assert tok.prompt('a\n')[-2:] == [tok.newline_id] * 2


@hypothesis.given(st.text(st.characters(exclude_categories=['Cs'])))
@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.example('  two  spaces ')
@hypothesis.example('\x00\r\n\t')
@hypothesis.example('<eos><bos><pad><unk><0x41>')
@hypothesis.example('größer 猫 🎉 \ufb01 e\u0301')
def test_decode_inverts_encode(tok, text):
  ids = tok.encode(text)
  assert all(3 < i < tok.vocab_size for i in ids)
  # SentencePiece's own sign for a space is the one that is not told apart.
  assert tok.decode(ids) == text.replace('\u2581', ' ')


def test_parts_concatenate(tok):
  parts = ['a red', ' ball', '\n', 'on the', ' grass']
  ids = [i for part in parts for i in tok.encode(part)]
  assert tok.decode(ids) == ''.join(parts)


def test_decode_stops_at_eos_and_skips_specials(tok):
  red, ball = tok.encode('a red'), tok.encode(' ball')
  ids = [tok.bos_id, *red, tok.pad_id, tok.unk_id, *ball, tok.eos_id, *red]
  assert tok.decode(ids) == 'a red ball'
  assert tok.decode([tok.eos_id, *red]) == ''
  assert tok.decode([]) == ''
  assert tok.decode([tok.vocab_size, *red, -1]) == 'a red'
  assert tok.decode(np.array(ids, np.int32)) == 'a red ball'


def test_file_bytes_and_copies_are_equal(tok, tmp_path):
  path = tmp_path / 'words.model'
  path.write_bytes(tok.model_bytes)
  twins = [
    tokenizer_lib.Tokenizer(path),
    tokenizer_lib.Tokenizer(str(path)),
    tokenizer_lib.Tokenizer(tok.model_bytes),
    copy.deepcopy(tok),
    pickle.loads(pickle.dumps(tok)),
  ]
  assert all(twin == tok and hash(twin) == hash(tok) for twin in twins)
  other = vocabulary.train_tokenizer(TEXTS, 300)
  assert tokenizer_lib.Tokenizer(other) != tok


def test_other_special_ids_are_refused(tmp_path):
  path = spm(tmp_path)
  with pytest.raises(ValueError, match=r"'pad': -1.*expected.*'pad': 0"):
    tokenizer_lib.Tokenizer(path)


def test_newline_that_is_no_piece_is_refused(tmp_path):
  path = spm(tmp_path, **GEMMA_IDS)
  with pytest.raises(ValueError, match='newline'):
    tokenizer_lib.Tokenizer(path)


@pytest.mark.parametrize('data', [b'', b'text', bytes(100)])
def test_not_a_model(tmp_path, data):
  path = tmp_path / 'words.model'
  path.write_bytes(data)
  for source in (path, data):
    with pytest.raises(ValueError, match='not a SentencePiece model'):
      tokenizer_lib.Tokenizer(source)


def test_missing_file(tmp_path):
  with pytest.raises(FileNotFoundError):
    tokenizer_lib.Tokenizer(tmp_path / 'none.model')


def test_prompts_for_boxes_need_location_tokens(tok):
  said = tok.describe_unfit('detect ring')
  assert said.startswith("prompt: got 'detect ring', but the vocabulary has no")
  assert tok.describe_unfit('answer en can you detect rings') == ''
  wider = tok.extended(tokenizer_lib.LOCATIONS)
  assert wider.describe_unfit('detect ring') == ''
