"""Edges against servers whose replies are made to hurt."""

from concurrent import futures
import contextlib
import json
import random
import subprocess
import sys
import types

import grpc
import numpy as np
from PIL import Image
import pytest

from collab_jax import _terminal, codecs, wire
from collab_jax import message as messages
from collab_jax.exporters import run
from collab_jax.models import paligemma
from collab_jax.serving import collab_pb2
from collab_jax.serving.client import batch, encode, result, retry, rpc
from collab_jax.serving.client import client as clients
from tests import standin

EVIL = '\x1b[2J\x1b]0;title\x07\r\n\u202eevil\x9b31m\x00' * 20
NAN, INFINITE = float('nan'), float('inf')
IMAGES = np.zeros((1, 64, 64, 3), np.uint8)


def _handshake(**fields):
  known = {'session': b'12345678', 'model': 'm', 'max_message_bytes': 1 << 20}
  known |= {'max_tokens': 8, 'encoder': 'e', 'decoder': 'd'}
  return collab_pb2.HandshakeReply(**{**known, **fields}).SerializeToString()


def _reply(stages=None, **fields):
  made = collab_pb2.Stages(**{'queue': 1.0, 'batch': 1, **(stages or {})})
  known = {'caption': 'a red ball', 'tokens': 3, 'stages': made}
  return collab_pb2.CaptionReply(**{**known, **fields}).SerializeToString()


def _chunk(**fields):
  return collab_pb2.CaptionChunk(**fields).SerializeToString()


HANDSHAKES = {
  'empty': b'',
  'no bytes of this protocol': b'\xff' * 50,
  'no session': _handshake(session=b''),
  'a session of 1 MB': _handshake(session=bytes(900_000)),
  'long texts': _handshake(model='m' * 9999),
  'a long fingerprint': _handshake(encoder='e' * 999, decoder='\x1b[2J'),
  'no room': _handshake(max_message_bytes=0),
  'a text that is not UTF-8': b'\x0a\x0812345678\x12\x02\xff\xfe',
  'a length that is cut off': b'\x0a\xff\xff\xff\xff\x0f1',
  'a varint without end': b'\x0a' + b'\xff' * 30,
  'another type': b'\x08\x01\x15\0\0\0\0',
  'too large': _handshake(prompt='p' * (2 << 20)),
}
REPLIES = {
  'empty': b'',
  'noise': b'\xff' * 50,
  'not UTF-8': b'\x0a\x02\xff\xfe',
  'cut off': b'\x0a\xff\xff\xff\xff\x0f1',
  'escapes': _reply(caption=EVIL),
  'a long caption': _reply(caption='x' * 900_000),
  'too large': _reply(caption='x' * (2 << 20)),
  'NaN': _reply(min_entropy=NAN),
  'infinite': _reply(min_entropy=INFINITE),
  'negative': _reply(min_entropy=-INFINITE),
  'NaN stages': _reply({'queue': NAN}),
  'negative stages': _reply({'decode': -1e30}),
  'infinite stages': _reply({'first_token': INFINITE}),
  'huge numbers': _reply({'batch': 2**32 - 1}, tokens=2**32 - 1),
}


class Hostile(grpc.GenericRpcHandler):
  """Answers with given bytes, or with a status and trailers."""

  def __init__(self, handshake=None, reply=None, chunks=(), status=None):
    self.handshake = _handshake() if handshake is None else handshake
    self.reply = _reply() if reply is None else reply
    self.chunks, self.status = chunks, status

  def service(self, details):
    name = details.method.rpartition('/')[2]
    if name == 'CaptionStream':
      return grpc.unary_stream_rpc_method_handler(self._stream)
    return grpc.unary_unary_rpc_method_handler(
      lambda request, context: self._answer(name, context)
    )

  def _answer(self, name, context):
    if name == 'Handshake':
      return self.handshake
    if self.status:
      code, text = self.status
      context.set_trailing_metadata((('x-evil', 'y' * 3000),))
      context.abort(code, text)
    return self.reply

  def _stream(self, request, context):
    del request
    if self.status:
      context.abort(*self.status)
    yield from self.chunks


@contextlib.contextmanager
def serving(handler):
  server = grpc.server(futures.ThreadPoolExecutor(8))
  server.add_generic_rpc_handlers((handler,))
  port = server.add_insecure_port('127.0.0.1:0')
  server.start()
  try:
    yield f'127.0.0.1:{port}'
  finally:
    server.stop(0).wait()


def _client(address):
  config = paligemma.Config.from_dict(standin.CONFIG)
  model = paligemma.Model(params={}, config=config, tokenizer=None)
  codec = codecs.ImageCodec(model, 'jpeg', 50)
  backoff = retry.Backoff(first=0.01, most=0.02)
  return clients.EdgeClient(address, codec, timeout=0.7, backoff=backoff)


def _is_plain(text):
  return all(c.isprintable() for c in text) and len(text) < 6000


def _or_error(work, kinds=(retry.RemoteError, encode.TooLargeError)):
  """Returns what a call returns, or its error of these kinds."""
  try:
    return work()
  except kinds as error:
    return error


def _try(handler):
  """Returns the caption of a picture, or its error."""
  with serving(handler) as address, _client(address) as client:
    return _check(_or_error(lambda: client.caption(IMAGES)[0]))


def _check(answer):
  """Checks that an error is plain, and that a result's numbers are finite."""
  if isinstance(answer, Exception):
    assert _is_plain(str(answer))
    return answer
  assert isinstance(answer, result.CaptionResult)
  numbers = [answer.min_entropy, answer.first_token]
  numbers += answer.milliseconds.values()
  assert np.isfinite(numbers).all()
  return answer


@pytest.mark.parametrize('name', HANDSHAKES)
def test_handshakes(name, caplog):
  answer = _try(Hostile(handshake=HANDSHAKES[name]))
  assert isinstance(answer, OSError | ValueError)
  # gRPC logs what it cannot parse, by itself with a traceback.
  assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize('name', REPLIES)
def test_replies(name):
  answer = _try(Hostile(reply=REPLIES[name]))
  is_read = name in ('empty', 'escapes', 'a long caption', 'huge numbers')
  assert isinstance(answer, result.CaptionResult) == is_read


@pytest.mark.parametrize('code', [c for c in grpc.StatusCode if c.value[0]])
@pytest.mark.parametrize('text', ['', EVIL, 'x' * 5000, 'handshake first'])
def test_statuses(code, text):
  error = _try(Hostile(status=(code, text)))
  assert isinstance(error, retry.RemoteError)


@pytest.mark.parametrize(
  'chunks',
  [
    [],
    [b''],
    [b'\xff'],
    [_chunk(text='a')],
    [_chunk(text=EVIL)] * 3,
    [_chunk(text='x' * 500_000)] * 4,
    [_chunk(reply=collab_pb2.CaptionReply(min_entropy=NAN))],
    [_chunk(reply=collab_pb2.CaptionReply(caption='a')), _chunk(text='b')],
  ],
)
def test_streams(chunks):
  with serving(Hostile(chunks=chunks)) as address, _client(address) as client:
    pieces = _or_error(lambda: list(client.stream(IMAGES[0])))
  _check(pieces[-1] if isinstance(pieces, list) else pieces)


def test_mutated_replies():
  """Bits of whole replies, at random."""
  draw, handler = random.Random(0), Hostile()
  with serving(handler) as address:
    for _ in range(300):
      parts = [bytearray(_handshake()), bytearray(_reply(min_entropy=0.5))]
      for _ in range(draw.randint(1, 4)):
        part = draw.choice(parts)
        part[draw.randrange(len(part))] ^= 1 << draw.randrange(8)
      handler.handshake, handler.reply = map(bytes, parts)
      with _client(address) as client:
        _check(_or_error(lambda client=client: client.caption(IMAGES)[0]))


@pytest.mark.parametrize('reply', [REPLIES['NaN'], REPLIES['escapes']])
def test_a_folder_of_captions_stays_json(tmp_path, reply):
  """Letters that a terminal would obey are escaped; captions stay the same."""
  for number in range(2):
    Image.fromarray(IMAGES[0]).save(tmp_path / f'{number}.png')
  out = tmp_path / 'captions.jsonl'
  with serving(Hostile(reply=reply)) as address, _client(address) as client:
    files = batch.list_pictures(tmp_path)
    said = []
    summary = batch.caption(
      client, files, tmp_path, out, 64, progress=False, report=said.append
    )
  text = out.read_text()
  assert _is_plain(text.replace('\n', ''))
  records = [
    json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()
  ]
  assert len(records) + len(summary.failed) == 2
  assert all(r['caption'] == EVIL for r in records)
  assert all('min_entropy nan' in line for line in said)


@pytest.mark.parametrize('stream', ['--stream', '--nostream'])
def test_a_caption_is_printed_escaped(tmp_path, stream):
  """The command runs apart: its flags stay out of this process."""
  Image.fromarray(IMAGES[0]).save(tmp_path / 'a.png')
  reply = collab_pb2.CaptionReply(caption=EVIL)
  handler = Hostile(
    handshake=_handshake(max_message_bytes=1 << 20),
    reply=REPLIES['escapes'],
    chunks=[_chunk(text=EVIL), _chunk(reply=reply)],
  )
  command = [sys.executable, '-m', 'collab_jax', 'caption', stream]
  command += ['--codec=jpeg(quality=50)', str(tmp_path / 'a.png')]
  with serving(handler) as address:
    done = subprocess.run(
      [*command, f'--server={address}'], capture_output=True, text=True
    )
  assert done.stdout == _terminal.escape(EVIL) + '\n'
  assert done.returncode == 0


@pytest.mark.parametrize(
  ('text', 'shown'),
  [
    ('a red ball', 'a red ball'),
    ('ein Bär 熊 👩\u200d🚀', 'ein Bär 熊 👩\u200d🚀'),
    ('a\nb\tc\\', 'a\\nb\\tc\\'),
    ('\x1b[2J\x9b\x7f\u202e\u2066', '\\x1b[2J\\x9b\\x7f\\u202e\\u2066'),
    ('\ud800', '\\ud800'),
  ],
)
def test_escape(text, shown):
  assert _terminal.escape(text) == shown == run.printable(text)


def test_long_texts_are_cut():
  assert _terminal.escape('abcdef', 4) == 'abcd... (2 more letters)'


def _edge():
  session = wire.Session({'x': messages.Symbols(4, (6,))}, coding='fixed')
  manifest = {'encoder': 'e' * 16}
  return types.SimpleNamespace(text=session.to_json(), manifest=manifest)


@pytest.mark.parametrize('name', [*HANDSHAKES, *REPLIES])
def test_the_runner(name, monkeypatch):
  """Ends with an error of one line, or gives the caption."""
  monkeypatch.setattr(run.time, 'sleep', lambda seconds: None)
  handler = Hostile(HANDSHAKES.get(name), REPLIES.get(name))
  with serving(handler) as address:
    said = _or_error(
      lambda: list(run.captions(address, _edge(), [b'x'])),
      (OSError, ValueError),
    )
  text = str(said) if isinstance(said, Exception) else said[0]
  assert _is_plain(run.printable(text)[:5000])


def test_mutated_manifests(tmp_path):
  """Every field missing, and of another type: one line each."""
  session = {'digest': '00', 'fields': []}
  (tmp_path / 'session.json').write_text(json.dumps(session))
  manifest = {
    **{'files': {}, 'session': 'session.json', 'artefact': 'a', 'seed': 0},
    **{'format': 'onnx', 'encoder': 'e', 'weights': None},
    **{'preprocessing': {'size': 64}, 'inputs': [], 'outputs': []},
  }
  values = None, 1, -1, NAN, 'x', '../x', [], {}, [{}], {'a': 1}, 'x' * 9999
  for name in manifest:
    for value in values:
      text = json.dumps({**manifest, name: value})
      (tmp_path / 'manifest.json').write_text(text)
      with pytest.raises((ValueError, OSError)):
        run.Edge(tmp_path)
  for text in ('', '[]', '[' * 99_999, '{"files"', '\ud800', 'null'):
    data = text.encode('utf-8', 'surrogatepass')
    (tmp_path / 'manifest.json').write_bytes(data)
    with pytest.raises(ValueError, match=r'manifest\.json'):
      run.Edge(tmp_path)


def test_whatever_else_is_one_line(monkeypatch):
  def fail(flags, names):
    raise KeyError('\x1b[2J')

  monkeypatch.setattr(run, '_send', fail)
  monkeypatch.setattr('sys.argv', ['run.py', 'a.png'])
  with pytest.raises(SystemExit) as ended:
    run.main()
  assert str(ended.value).startswith('error: KeyError: ')
  assert _is_plain(str(ended.value))


def test_the_bounds_of_replies():
  assert rpc._reply_faults(collab_pb2.CaptionReply()) == []
  assert rpc._handshake_faults(collab_pb2.HandshakeReply(session=b'x')) == []
