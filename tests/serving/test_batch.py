"""Captioning of folders into a file, and resuming."""

import json
import os

import grpc
import numpy as np
from PIL import Image
import pytest

from collab_jax import codecs, masks
from collab_jax.models import mask_decoder, paligemma, zoo
from collab_jax.serving.client import (
  batch,
  retry,
)
from collab_jax.serving.client import client as clients
from tests import standin
from tests.models import test_mask_decoder
from tests.serving import scripted

CODES = grpc.StatusCode


def _codec(quality=50):
  config = paligemma.Config.from_dict(standin.CONFIG)
  model = paligemma.Model(params={}, config=config, tokenizer=None)
  return codecs.ImageCodec(model, 'jpeg', quality)


@pytest.fixture
def photos(tmp_path):
  """Folder of four pictures, one nested and one broken, and another file."""
  root = tmp_path / 'photos'
  (root / 'more').mkdir(parents=True)
  for i, name in enumerate(('a.png', 'c.JPG', 'more/d.webp')):
    picture = np.full((20, 30, 3), 60 * i, np.uint8)
    Image.fromarray(picture).save(root / name)
  (root / 'b.png').write_bytes(b'\x89PNG\r\n\x1a\nbroken')
  (root / 'notes.txt').write_text('no picture')
  return root


@pytest.fixture
def servicer():
  return scripted.ScriptedServer()


@pytest.fixture
def client(servicer):
  with (
    scripted.serving(servicer) as target,
    clients.EdgeClient(target, _codec(), timeout=2.0, window=2) as client,
  ):
    yield client


def _run(client, photos, out, said=None, **settings):
  return batch.caption(
    client,
    batch.list_pictures(photos),
    photos,
    out,
    64,
    progress=False,
    report=(said if said is not None else []).append,
    **settings,
  )


def _lines(out):
  return [json.loads(line) for line in out.read_text().splitlines()]


def test_each_picture_has_a_record(client, photos, tmp_path):
  said, out = [], tmp_path / 'made' / 'captions.jsonl'
  summary = _run(client, photos, out, said)
  assert (summary.captioned, summary.resumed) == (3, 0)
  assert list(summary.failed) == ['b.png']
  assert said == [summary.failed['b.png']]
  assert said[0].startswith(f'{photos / "b.png"} is no picture')
  found = _lines(out)
  assert [line['file'] for line in found] == ['a.png', 'c.JPG', 'more/d.webp']
  line = found[0]
  assert line['caption'] == 'a red ball'
  assert line['codec'] == 'jpeg(quality=50)'
  assert line['bytes'] == len(
    _codec().encode(np.zeros((1, 64, 64, 3), np.uint8))[0]
  )
  assert summary.bytes == sum(line['bytes'] for line in found)
  assert list(line['milliseconds']) == [
    *('read', 'encode', 'network', 'queue', 'unpack', 'rebuild'),
    *('prefill', 'decode'),
  ]


BOX = '<loc0256><loc0000><loc0512><loc1023>'
SEGMENTS = ''.join(f'<seg{i:03d}>' for i in range(16))


def test_boxes_are_recorded_in_pixels_of_the_file(photos, tmp_path):
  texts = iter([f'{BOX} ring ; {BOX}{SEGMENTS} cat', 'none', f'{BOX} ring'])
  servicer = scripted.ScriptedServer(lambda _: scripted.reply(next(texts)))
  weights = test_mask_decoder.write(tmp_path, test_mask_decoder.weights())
  decoder = mask_decoder.load(weights)
  out = tmp_path / 'captions.jsonl'
  with (
    scripted.serving(servicer) as target,
    clients.EdgeClient(target, _codec(), window=1) as client,
  ):
    _run(client, photos, out, prompt='detect ring', decoder=decoder)
  first, without, last = _lines(out)
  # The files have 30 x 20 pixels: left, top, right, bottom.
  assert first['size'] == last['size'] == [30, 20]
  ring, cat = first['boxes']
  assert ring == {'name': 'ring', 'box': [0, 5, 30, 10]}
  assert (cat['name'], cat['box']) == ('cat', [0, 5, 30, 10])
  mask = masks.decode(masks.RunLengths(*cat['mask']))
  assert mask.shape == (20, 30)
  assert mask.any()
  assert not mask[:5].any()
  assert last['boxes'] == [ring]
  assert not {'size', 'boxes'} & {*without}
  assert first['caption'] == f'{BOX} ring ; {BOX}{SEGMENTS} cat'


def test_killed_run_is_resumed(client, servicer, photos, tmp_path):
  out = tmp_path / 'captions.jsonl'
  _run(client, photos, out)
  whole = out.read_bytes()
  # As a kill leaves it, at any byte of the second line.
  first = whole.index(b'\n') + 1
  second = whole.index(b'\n', first) + 1
  for cut in (first + 1, second - 2):
    out.write_bytes(whole[:cut])
    servicer.requests.clear()
    summary = _run(client, photos, out)
    assert (summary.captioned, summary.resumed) == (2, 1)
    assert len(servicer.requests) == 2
    files = [line['file'] for line in _lines(out)]
    assert files == ['a.png', 'c.JPG', 'more/d.webp']
  servicer.requests.clear()
  assert _run(client, photos, out).resumed == 3
  assert servicer.requests == []


PROMPTS = 'caption en', 'detect ring', 'answer en how many'


def test_several_questions_have_a_record_each(
  client, servicer, photos, tmp_path
):
  servicer._caption = lambda request: scripted.reply(f'to {request.prompt}')
  said, out = [], tmp_path / 'captions.jsonl'
  summary = _run(client, photos, out, said, questions=PROMPTS)
  assert (summary.captioned, summary.answers, summary.resumed) == (3, 9, 0)
  assert [*summary.failed] == ['b.png']
  lines = _lines(out)
  assert [(line['file'], line['settings']['prompt']) for line in lines] == [
    (name, prompt)
    for name in ('a.png', 'c.JPG', 'more/d.webp')
    for prompt in PROMPTS
  ]
  assert all(
    line['caption'] == f'to {line["settings"]["prompt"]}' for line in lines
  )
  # A picture is encoded and sent once.
  messages = [request.message for request in servicer.requests]
  assert len(messages) == 9
  assert sum(map(bool, messages)) == 3
  assert [bool(line['bytes']) for line in lines] == 3 * [True, False, False]
  assert summary.bytes == sum(line['bytes'] for line in lines)
  assert 'encode' not in lines[1]['milliseconds']
  assert lines[1]['milliseconds']['read'] == 0


def test_questions_of_a_killed_run_are_resumed(
  client, servicer, photos, tmp_path
):
  out = tmp_path / 'captions.jsonl'
  _run(client, photos, out, questions=PROMPTS)
  whole = out.read_bytes().splitlines(keepends=True)
  keys = [(r['file'], r['settings']['prompt']) for r in _lines(out)]
  out.write_bytes(b''.join(whole[:4]) + whole[4][:20])  # Torn.
  servicer.requests.clear()
  summary = _run(client, photos, out, questions=PROMPTS)
  assert (summary.captioned, summary.answers, summary.resumed) == (2, 5, 1)
  assert len(servicer.requests) == 5
  lines = _lines(out)
  assert sorted((r['file'], r['settings']['prompt']) for r in lines) == (
    sorted(keys)
  )
  # The rest of the torn picture's questions need its message again.
  assert lines[4]['bytes']


def test_questions_may_be_added_to_a_file(client, servicer, photos, tmp_path):
  out = tmp_path / 'captions.jsonl'
  _run(client, photos, out, prompt=PROMPTS[0])
  before = out.read_bytes()
  summary = _run(client, photos, out, questions=[*PROMPTS, PROMPTS[1]])
  assert (summary.captioned, summary.answers, summary.resumed) == (3, 6, 0)
  assert out.read_bytes().startswith(before)
  servicer.requests.clear()
  assert _run(client, photos, out, questions=PROMPTS).resumed == 3
  assert servicer.requests == []
  # Those of a question that is not asked are not mixed with the others.
  with pytest.raises(ValueError, match="prompt 'detect ring', now it is 'capt"):
    _run(client, photos, out, prompt=PROMPTS[0])
  with pytest.raises(ValueError, match="'caption en', now it is 'a or b'"):
    _run(client, photos, out, questions=('a', 'b'))


def test_a_picture_of_which_a_question_is_refused_has_no_record(
  client, servicer, photos, tmp_path
):
  out = tmp_path / 'captions.jsonl'
  failures = [(CODES.INVALID_ARGUMENT, 'a check fails')]

  def answer(request):
    servicer.failures += [failures.pop() for _ in failures[:]]  # The next.
    return scripted.reply(request.prompt)

  servicer._caption = answer
  summary = _run(client, photos, out, questions=PROMPTS)
  assert summary.captioned == 2
  assert len(summary.failed) == 2
  assert len(_lines(out)) == 6


def test_refused_picture_is_counted(client, servicer, photos, tmp_path):
  servicer.failures = [(CODES.INVALID_ARGUMENT, 'a check fails')]
  summary = _run(client, photos, tmp_path / 'captions.jsonl')
  assert summary.captioned == 2
  assert len(summary.failed) == 2


def test_unusable_server_ends_the_run(client, servicer, photos, tmp_path):
  out = tmp_path / 'captions.jsonl'
  servicer.failures = [(CODES.UNAUTHENTICATED, 'no token')] * 9
  with pytest.raises(retry.RemoteError, match='no token'):
    _run(client, photos, out)
  servicer.failures = []
  assert _run(client, photos, out).captioned == 3


def test_captions_by_another_codec_are_not_mixed(client, photos, tmp_path):
  out = tmp_path / 'captions.jsonl'
  _run(client, photos, out)
  other = client.using(_codec(quality=70))
  with pytest.raises(ValueError, match='now it is jpeg') as raised:
    _run(other, photos, out)
  assert 'captions.jsonl:1' in str(raised.value)


@pytest.mark.parametrize(
  ('client_has', 'asked', 'said'),
  [
    ({}, {'prompt': 'other'}, "prompt '', now it is 'other'"),
    ({}, {'max_tokens': 3}, 'max_tokens 8, now it is 3'),
    ({'seed': 7}, {}, 'seed 0, now it is 7'),
    ({}, {'limit': 'goal_ms=9'}, "limit None, now it is 'goal_ms=9'"),
  ],
)
def test_captions_with_other_settings_are_not_mixed(
  client, photos, tmp_path, client_has, asked, said
):
  out = tmp_path / 'captions.jsonl'
  _run(client, photos, out)
  whole = out.read_bytes()
  other = client.using(_codec(), **client_has)
  with pytest.raises(ValueError, match=said) as raised:
    _run(other, photos, out, **asked)
  assert str(raised.value).count('now it is') == 1
  assert out.read_bytes() == whole
  settings = _lines(out)[0]['settings']
  assert settings['model'] == 'm'
  assert (settings['encoder'], settings['decoder']) == ('e', 'd')
  assert settings['threshold'] is None


def test_captions_of_other_weights_are_not_mixed(
  client, servicer, photos, tmp_path
):
  out = tmp_path / 'captions.jsonl'
  _run(client, photos, out)
  servicer.fingerprints['decoder'] = 'tuned'
  with pytest.raises(ValueError, match="decoder 'd', now it is 'tuned'"):
    _run(client, photos, out)


def test_server_restarted_with_another_model_ends_the_run(
  client, servicer, photos, tmp_path
):
  out = tmp_path / 'captions.jsonl'

  def first():
    if len(servicer.handshakes) > 1:
      servicer.fingerprints['decoder'] = 'tuned'

  servicer.before_handshake = first
  servicer.failures = [(CODES.FAILED_PRECONDITION, 'unknown: handshake first')]
  with pytest.raises(retry.RemoteError, match=r"other weights .* 'tuned'"):
    _run(client, photos, out)
  assert all(line['settings']['decoder'] == 'd' for line in _lines(out))


def test_refused_handshake_after_a_restart_ends_the_run(
  client, servicer, photos, tmp_path
):
  def other():
    if len(servicer.handshakes) == 2:
      servicer.failures = [(CODES.FAILED_PRECONDITION, 'handshake differs')]

  servicer.before_handshake = other
  servicer.failures = [(CODES.FAILED_PRECONDITION, 'unknown: handshake first')]
  with pytest.raises(retry.RemoteError, match='handshake differs'):
    _run(client, photos, tmp_path / 'captions.jsonl')
  # Once more each by the two requests in flight.
  assert len(servicer.handshakes) <= 4


def test_changed_pictures_are_refused(client, photos, tmp_path):
  out = tmp_path / 'out.jsonl'
  _run(client, photos, out)
  before = out.read_bytes()
  moved = photos.rename(tmp_path / 'moved')  # The same pictures elsewhere.
  assert _run(client, moved, out).captioned == 0
  picture = np.full((20, 30, 3), 200, np.uint8)
  Image.fromarray(picture).save(moved / 'a.png')
  with pytest.raises(ValueError, match=r"1: is of another picture .*'a\.png'"):
    _run(client, moved, out)
  assert out.read_bytes() == before


def test_resumed_run_may_use_another_codec_of_its_limit(
  client, photos, tmp_path
):
  out = tmp_path / 'captions.jsonl'
  _run(client, photos, out, limit='goal_ms=200')
  (photos / 'later.png').write_bytes((photos / 'a.png').read_bytes())
  other = client.using(_codec(quality=70))
  summary = _run(other, photos, out, limit='goal_ms=200')
  assert (summary.captioned, summary.resumed) == (1, 3)
  assert _lines(out)[-1]['codec'] == 'jpeg(quality=70)'
  with pytest.raises(ValueError, match=r'now it is .goal_ms=90'):
    _run(other, photos, out, limit='goal_ms=90')


def test_too_long_prompt_ends_the_run_at_once(
  client, servicer, photos, tmp_path
):
  servicer.failures = [(CODES.INVALID_ARGUMENT, 'handshake prompt: too long')]
  with pytest.raises(retry.RemoteError, match='prompt: too long'):
    _run(client, photos, tmp_path / 'x.jsonl', prompt='a b c', max_tokens=7)
  assert servicer.options == [('a b c', 7)]
  assert servicer.requests == []


@pytest.mark.skipif(os.name != 'posix', reason='names are text elsewhere')
def test_a_name_need_not_be_utf8(client, servicer, photos, tmp_path):
  odd = os.fsdecode(b'caf\xe9.png')
  try:
    (photos / odd).write_bytes((photos / 'a.png').read_bytes())
    (photos / os.fsdecode(b'bad\xff.png')).write_bytes(b'no picture')
  except OSError:
    pytest.skip('this file system takes UTF-8 only')
  said, out = [], tmp_path / 'captions.jsonl'
  summary = _run(client, photos, out, said)
  assert (summary.captioned, len(summary.failed)) == (4, 2)
  assert odd in [line['file'] for line in _lines(out)]
  servicer.requests.clear()
  assert _run(client, photos, out).resumed == 4
  assert servicer.requests == []


@pytest.mark.parametrize('text', ['{"a": 1}\n', 'a,b\n', '[1]\n'])
def test_other_files_are_not_overwritten(client, photos, tmp_path, text):
  out = tmp_path / 'table.csv'
  out.write_text(text)
  with pytest.raises(ValueError, match='file of captions'):
    _run(client, photos, out)
  assert out.read_text() == text


def test_folder_without_pictures_is_an_error(tmp_path):
  with pytest.raises(FileNotFoundError, match=r'no pictures: expected .*\.png'):
    batch.list_pictures(tmp_path)


def test_hidden_files_and_folders_are_left_out(tmp_path):
  folder = tmp_path / '.hidden' / 'photos'  # Dots above do not matter.
  for name in ('a.png', '._a.png', '.thumbs/b.png', 'c/d.png', 'c/.e/f.png'):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'x')
  os.mkfifo(folder / 'pipe.png')
  names = [str(p.relative_to(folder)) for p in batch.list_pictures(folder)]
  assert names == ['a.png', 'c/d.png']


def test_picture_id_depends_on_the_name():
  assert batch.picture_id('a.png') == batch.picture_id('a.png')
  assert batch.picture_id('a.png') != batch.picture_id('b.png')
  assert 0 <= batch.picture_id('ä/b.png') < 2**32


_SETTINGS = ('tokenizer', 'compute_dtype', 'precision', 'jax_enable_x64')


@pytest.mark.parametrize('name', _SETTINGS)
def test_what_a_server_computes_with_decides(
  client, servicer, photos, tmp_path, name
):
  servicer.fingerprints['computation'] = dict.fromkeys(_SETTINGS, 'one')
  out = tmp_path / 'captions.jsonl'
  _run(client, photos, out)
  before = out.read_bytes()
  servicer.fingerprints['computation'][name] = 'other'
  said = rf"with server\.{name} 'one', now it is 'other';"
  with pytest.raises(ValueError, match=said):
    _run(client.using(_codec()), photos, out)
  assert out.read_bytes() == before


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    *(('encoder', 'x'), ('decoder', 'x'), ('prompt', 'x'), ('seed', 9)),
    *(('max_tokens', 3), ('split', 'head'), ('limit', 'max_bytes=9')),
    *(('threshold', 2.0), ('coarse', 1), ('preprocess', 'bv_bilinear')),
  ],
)
def test_each_recorded_setting_is_compared(
  client, photos, tmp_path, field, value
):
  out = tmp_path / 'captions.jsonl'
  _run(client, photos, out)
  lines = _lines(out)
  lines[0]['settings'][field] = value
  out.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  before = out.read_bytes()
  with pytest.raises(ValueError, match=rf':1: was made with {field} '):
    _run(client, photos, out)
  assert out.read_bytes() == before


def test_names_and_places_decide_nothing(
  client, servicer, photos, tmp_path, monkeypatch
):
  out = tmp_path / 'captions.jsonl'
  _run(client, photos, out)
  lines = _lines(out)
  assert lines[0]['session'] == _codec().digest.hex()[:16]
  for line in lines:
    # Books that have moved, and a model in another folder.
    line['codec'] = 'pca(dims=2,book=elsewhere/book.safetensors)'
    line['settings']['model'] = '0123abcd'
  out.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  moved = photos.rename(tmp_path / 'moved')
  for path in batch.list_pictures(moved):
    os.utime(path, (1, 1))
  assert _run(client, moved, out.rename(tmp_path / 'x')).resumed == 3
  # Another book of the name.
  for line in lines:
    line['codec'], line['session'] = 'jpeg(quality=50)', '0' * 16
  (tmp_path / 'x').write_text(''.join(json.dumps(x) + '\n' for x in lines))
  with pytest.raises(ValueError, match=r'session 0{16} of jpeg.* now it is'):
    _run(client, moved, tmp_path / 'x')


def test_captions_of_an_earlier_version_go_on(
  client, servicer, photos, tmp_path
):
  out = tmp_path / 'captions.jsonl'
  _run(client, photos, out)
  lines = _lines(out)
  for line in lines:
    del line['session']
    for name in ('preprocess', 'edge', 'server'):
      del line['settings'][name]
  out.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  servicer.fingerprints['computation'] = {'tokenizer': 'one'}
  assert _run(client.using(_codec()), photos, out).resumed == 3


def test_pictures_for_another_released_model_are_refused(servicer, photos):
  config = zoo.card('paligemma-3b-mix-224').config
  model = paligemma.Model(params={}, config=config, tokenizer=None)
  codec = codecs.ImageCodec(model, 'jpeg', 50)
  with scripted.serving(servicer) as target:
    for name, refused in (
      *(('paligemma-3b-pt-224', True), ('paligemma-3b-mix-224', False)),
      ('0123abcd', False),
    ):
      servicer.model = name
      with clients.EdgeClient(target, codec, timeout=0.5) as client:
        if not refused:
          client.handshake()
          continue
        with pytest.raises(retry.RemoteError, match=f"model: got '{name}'"):
          client.handshake()
