"""Hugging Face tokenizer folders: the ids that Hugging Face gives."""

import json
from pathlib import Path
import shutil

import pytest

from collab_jax.models import tokenizer
from collab_jax.training import vocabulary

GOLDEN = Path(__file__).parents[1] / 'golden'


@pytest.fixture(scope='module')
def recorded():
  return json.loads((GOLDEN / 'ids.json').read_text())['ids']


@pytest.mark.parametrize('name', ['tokenizer.model', 'tokenizer.json'])
def test_recorded_ids(name, recorded):
  tok = tokenizer.Tokenizer(GOLDEN / name)
  assert recorded
  for text, ids in recorded.items():
    assert tok.encode(text) == ids, text
    assert tok.decode(ids) == text.replace('\u2581', ' '), text


def test_prompt_parts_stand_alone():
  tok = tokenizer.Tokenizer(GOLDEN / 'tokenizer.json')
  ids = tok.encode('caption en')
  assert tok.prompt('caption en') == [2, *ids, tok.newline_id]
  assert tok.encode('<eos>')[0] > 3


def test_prompt_parts_do_not_merge():
  """Gemma's vocabulary has a piece for two newlines in a row."""
  tok = tokenizer.Tokenizer(GOLDEN / 'tokenizer.model').extended(['\n\n'])
  ids, double = tok.encode('caption en'), tok.vocab_size - 1
  assert tok.encode('caption en\n\n') == [*ids, double]
  assert tok.prompt('caption en\n') == [2, *ids, *[tok.newline_id] * 2]
  assert tok.prompt('') == [2, tok.newline_id]


def test_places_are_read_and_written():
  tok = tokenizer.Tokenizer(GOLDEN / 'tokenizer.json')
  ids = tok.encode('<loc0001><seg000> star')
  assert ids[:2] == [421, 422]
  assert tok.decode(ids) == '<loc0001><seg000> star'


def folder(path, *names):
  path.mkdir(exist_ok=True)
  for name in names:
    shutil.copy(GOLDEN / name, path / name)
  return path


def test_folders(tmp_path):
  table = folder(tmp_path / 'a', 'tokenizer.json')
  model = folder(tmp_path / 'b', 'tokenizer.model')
  both = folder(tmp_path / 'c', 'tokenizer.model', 'tokenizer.json')
  whole = tokenizer.Tokenizer(GOLDEN / 'tokenizer.model')
  assert tokenizer.Tokenizer(model) == whole
  # Hugging Face adds a token of its own behind the pieces.
  masked, extended = tokenizer.Tokenizer(both), whole.extended(['<mask>'])
  text = 'a <mask> star'
  assert masked.encode(text) == extended.encode(text)
  assert masked.vocab_size == extended.vocab_size
  # It is a special token, which captions leave out.
  assert masked.decode(masked.encode(text)) == 'a  star'
  assert tokenizer.Tokenizer(table) == tokenizer.Tokenizer(
    GOLDEN / 'tokenizer.json'
  )
  assert tokenizer.Tokenizer(table).vocab_size == whole.vocab_size + 1


@pytest.fixture
def gemma(tmp_path):
  """A model without what PaliGemma adds, and the number of its pieces."""
  path = tmp_path / 'gemma' / 'tokenizer.model'
  path.parent.mkdir()
  texts = ['a red star', 'caption en'] * 9
  path.write_bytes(vocabulary.train_tokenizer(texts, 300))
  return path.parent, tokenizer.Tokenizer(path).vocab_size


def test_added_tokens_are_added(gemma):
  path, size = gemma
  ids = {'<image>': size + 2, '<seg000>': size + 1, '<loc0000>': size, 'a': 9}
  (path / 'added_tokens.json').write_text(json.dumps(ids))
  tok = tokenizer.Tokenizer(path)
  assert tok.vocab_size == size + 2
  assert tok.encode('<loc0000><seg000>') == [size, size + 1]
  assert tok == tokenizer.Tokenizer(path / 'tokenizer.model').extended(
    ['<loc0000>', '<seg000>']
  )
  del ids['<loc0000>']
  (path / 'added_tokens.json').write_text(json.dumps(ids))
  with pytest.raises(ValueError, match=rf'no token has the id {size}$'):
    tokenizer.Tokenizer(path)


def test_gemma_becomes_paligemma(gemma):
  path, size = gemma
  tok = tokenizer.Tokenizer(path).extended(
    tokenizer.LOCATIONS + tokenizer.SEGMENTS
  )
  assert tok.vocab_size == size + 1152
  text = '<loc0000><loc1023> a <seg000><seg127>'
  ids = tok.encode(text)
  assert ids[:2] == [size, size + 1023]
  assert ids[-2:] == [size + 1024, size + 1151]
  assert tok.decode(ids) == text
  for piece in ('', '<loc0000>', '<eos>'):
    with pytest.raises(
      ValueError, match='expected a text that is no piece yet'
    ):
      tok.extended([piece])


def test_nothing_to_read(tmp_path):
  (tmp_path / 'config.json').touch()
  with pytest.raises(FileNotFoundError, match=r'neither.*config\.json'):
    tokenizer.Tokenizer(tmp_path)


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (lambda t: t['model'].update(type='Unigram'), "model.type: got 'Unigram'"),
    (lambda t: t['model'].update(byte_fallback=False), 'byte_fallback: got Fa'),
    (lambda t: t.update(normalizer={'type': 'NFC'}), r'normalizer: got \['),
    (lambda t: t.update(pre_tokenizer={'type': 'ByteLevel'}), 'pre_tokenizer'),
    (lambda t: t['model'].update(vocab=[]), 'model.vocab: got'),
    (lambda t: t['model']['vocab'].update(zz=3), 'tokens have'),
    (lambda t: t['model']['vocab'].update(zz='x'), 'expected ids'),
    (lambda t: t['model']['vocab'].update(zz=9999), 'no token has the id'),
    (lambda t: t['added_tokens'][0].pop('content'), 'expected ids'),
    (lambda t: t.pop('added_tokens'), 'added_tokens: got'),
    (lambda t: t.pop('model'), 'model.type: got None'),
    (lambda t: t.update(model=[1]), r'model: got \[1\], expected an object'),
    (lambda t: t.update(normalizer=[1]), 'normalizer: got'),
    (lambda t: t.update(pre_tokenizer='x'), 'pre_tokenizer: got'),
    (lambda t: t['model'].update(merges=[5]), 'model.merges: got 5'),
  ],
)
def test_other_tokenizers_are_refused(tmp_path, change, said):
  table = json.loads((GOLDEN / 'tokenizer.json').read_text())
  change(table)
  path = tmp_path / 'tokenizer.json'
  path.write_text(json.dumps(table))
  for source in (path, tmp_path):
    with pytest.raises(ValueError, match=said):
      tokenizer.Tokenizer(source)


@pytest.mark.parametrize('tokens', [None, 5, [1], [{'id': 4}]])
def test_added_tokens_that_are_none(gemma, tokens):
  path, _ = gemma
  text = json.dumps({'added_tokens': tokens})
  (path / 'tokenizer.json').write_text(text)
  with pytest.raises(ValueError, match=r'tokenizer\.json: expected objects'):
    tokenizer.Tokenizer(path)


@pytest.mark.parametrize('text', ['', '{"model"', '[]'])
def test_no_json(tmp_path, text):
  (tmp_path / 'tokenizer.json').write_text(text)
  with pytest.raises(ValueError, match=r'tokenizer\.json (is no|holds)'):
    tokenizer.Tokenizer(tmp_path)


def test_a_tab_may_stand_for_its_byte(tmp_path):
  """Gemma's vocabulary has such a tab."""
  table = json.loads((GOLDEN / 'tokenizer.json').read_text())
  ids = table['model']['vocab']
  ids['\t'] = ids.pop('<0x09>')
  path = tmp_path / 'tokenizer.json'
  path.write_text(json.dumps(table))
  tok = tokenizer.Tokenizer(path)
  assert tok == tokenizer.Tokenizer(GOLDEN / 'tokenizer.json')
  assert tok.encode('\t') == [ids['\t']]
