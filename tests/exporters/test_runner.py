"""The runner's own code, without a program: bytes, words, pictures, gRPC."""

import ast
from concurrent import futures
import hashlib
import json
import os
from pathlib import Path
import socket
import types

import jax
import numpy as np
from PIL import Image
import pytest

from collab_jax import _terminal, data, tasks, wire
from collab_jax import message as messages
from collab_jax.exporters import run
from tests.data import photos
from tests.serving import certificates
from tests.wire import drawing

grpc = pytest.importorskip('grpc')


def _edge(session):
  """Makes an edge without its program."""
  edge = object.__new__(run.Edge)
  edge.text = session.to_json()
  edge.session = json.loads(edge.text)
  edge.manifest = {'encoder': 'e' * 16}
  return edge


def test_it_imports_nothing_of_ours():
  names = set()
  for node in ast.walk(ast.parse(Path(run.__file__).read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names.add(node.module)
  outside = {'numpy', 'PIL', 'jax', 'ml_dtypes', 'onnxruntime', 'grpc'}
  standard = {
    'argparse',
    'hashlib',
    'json',
    'os',
    'pathlib',
    're',
    'socket',
    'ssl',
    'sys',
    'time',
    'typing',
  }
  assert names == outside | standard | {'ai_edge_litert'}


@pytest.mark.parametrize('seed', range(40))
def test_messages_are_those_of_the_wire(seed):
  rng = np.random.default_rng(seed)
  session = drawing.session(rng, 'fixed', layers=1 + seed % 3)
  message = drawing.message(rng, session)
  assert _edge(session).pack(message) == session.pack(message)


def test_what_is_not_finite_is_refused():
  session = wire.Session(
    {'x': messages.Values('float16', (2,))}, coding='fixed'
  )
  with pytest.raises(ValueError, match='a number is not finite'):
    _edge(session).pack({'x': np.array([1, 1e6])})


@pytest.mark.parametrize(
  ('seed', 'id_'), [(0, 0), (7, 3), (2**31 - 1, 2**32 - 1)]
)
def test_words_are_those_of_jax(seed, id_):
  key = jax.random.fold_in(jax.random.key(seed), np.uint32(id_))
  want = np.asarray(jax.random.bits(key, (301,)))
  np.testing.assert_array_equal(run.words(seed, id_, 301), want)


def _pictures(folder):
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (40, 50, 4), np.uint8)
  made = {
    'rgb.png': Image.fromarray(pixels[..., :3]),
    'alpha.png': Image.fromarray(pixels),
    'grey.png': Image.fromarray(pixels[..., 0]),
    'palette.gif': Image.fromarray(pixels[..., :3]).quantize(16),
    'turned.jpg': Image.fromarray(pixels[..., :3]),
    'cmyk.jpg': Image.fromarray(pixels[..., :3]).convert('CMYK'),
  }
  for name, picture in made.items():
    exif = Image.Exif()
    exif[274] = 6 if name == 'turned.jpg' else 1
    picture.save(folder / name, exif=exif)
    yield folder / name


def test_pictures_are_read_alike(tmp_path):
  for path in _pictures(tmp_path):
    want = data.read_image(path, 32)
    np.testing.assert_array_equal(run.read(path, 32), want, err_msg=path.name)


def test_a_picture_of_16_bits_is_refused(tmp_path):
  path = tmp_path / 'deep.png'
  Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(path)
  with pytest.raises(ValueError, match=r'deep\.png: got mode I;16, expected 8'):
    run.read(path, 32)


def test_bad_pictures_are_value_errors(tmp_path, monkeypatch):
  path = tmp_path / 'a.png'
  path.write_bytes(photos.grey_png(1, 70_000))
  with pytest.raises(ValueError, match=r'a\.png: got \(1, 70000\), expected'):
    run.read(path, 32)
  os.mkfifo(tmp_path / 'pipe.png')
  with pytest.raises(ValueError, match=r'pipe\.png: got a pipe'):
    run.read(tmp_path / 'pipe.png', 32)

  def load(picture):
    raise AssertionError

  photos.write(path)
  monkeypatch.setattr('PIL.ImageFile.ImageFile.load', load)
  with pytest.raises(ValueError, match=r'a\.png: AssertionError'):
    run.read(path, 32)


def test_a_server_gets_what_the_proto_says(monkeypatch):
  from collab_jax.serving import collab_pb2, collab_pb2_grpc

  seen = []
  monkeypatch.setattr(run.time, 'sleep', lambda seconds: None)

  class Server(collab_pb2_grpc.CaptionerServicer):
    def Handshake(self, request, context):
      if not seen:
        seen.append(None)
        context.abort(grpc.StatusCode.UNAVAILABLE, 'warming up')
      seen.append((request, dict(context.invocation_metadata())))
      return collab_pb2.HandshakeReply(session=b'x', model='m')

    def Caption(self, request, context):
      del context
      seen.append(request)
      return collab_pb2.CaptionReply(caption='é' * 100, tokens=3)

  session = wire.Session({'x': messages.Symbols(4, (600,))}, coding='fixed')
  edge = _edge(session)
  message = edge.pack({'x': np.arange(600) % 4})
  server = grpc.server(futures.ThreadPoolExecutor(2))
  collab_pb2_grpc.add_CaptionerServicer_to_server(Server(), server)
  port = server.add_insecure_port('localhost:0')
  server.start()
  try:
    sent = [message, message]
    said = list(run.captions(f'localhost:{port}', edge, sent, token='abc'))
  finally:
    server.stop(None)
  assert said == ['é' * 100] * 2
  _, (first, metadata), *requests = seen
  assert first.session == session.to_json()
  assert first.encoder == 'e' * 16
  assert metadata['authorization'] == 'Bearer abc'
  for request in requests:
    assert request.session == b'x'
    assert request.message == message
  assert len({request.request_id for request in requests}) == 2
  assert all(len(request.request_id) == 16 for request in requests)


def _serve(servicer):
  """Starts a server of answers; returns it with its address."""
  from collab_jax.serving import collab_pb2_grpc

  server = grpc.server(futures.ThreadPoolExecutor(1))
  collab_pb2_grpc.add_CaptionerServicer_to_server(servicer, server)
  port = server.add_insecure_port('localhost:0')
  server.start()
  return server, f'localhost:{port}'


@pytest.mark.parametrize('is_kept', [True, False])
def test_several_prompts_send_a_message_once(is_kept):
  from collab_jax.serving import collab_pb2, collab_pb2_grpc

  handshakes, requests = [], []

  class Server(collab_pb2_grpc.CaptionerServicer):
    def Handshake(self, request, context):
      handshakes.append(request)
      return collab_pb2.HandshakeReply(session=b'x')

    def Caption(self, request, context):
      requests.append(request)
      if not (request.message or is_kept):
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, 'it was dropped')
      return collab_pb2.CaptionReply(caption=f'to {request.prompt}')

  edge = _edge(wire.Session({'x': messages.Symbols(4, (6,))}, coding='fixed'))
  server, address = _serve(Server())
  prompts = ('caption en', 'detect cat', 'é')
  sent = [b'first', b'second']
  try:
    said = list(run.captions(address, edge, sent, prompts=prompts))
  finally:
    server.stop(None)
  assert said == [f'to {prompt}' for _ in sent for prompt in prompts]
  assert [request.prompt for request in handshakes] == [*prompts]
  for message in sent:
    digest = hashlib.sha256(message).digest()
    of_message = [request for request in requests if request.picture == digest]
    got = [request.message for request in of_message]
    if is_kept:
      assert got == [message, b'', b'']
    else:
      assert got == [message, b'', message, b'', message]


_LOC = '<loc0256><loc0144><loc0623><loc0527>'
_ANSWERS = (
  'a red ball',
  f'{_LOC} cat',
  f'{_LOC} cat ; <loc0000><loc0000><loc1023><loc1023>',
  f'x {_LOC} \x1b[31mcat\n; {_LOC[:-9]} dog ; {_LOC}{"<seg001>" * 16} ring',
  f'{_LOC}{"<seg001>" * 15} ring',
  '<loc1024><loc0000><loc1023><loc1023> far',
  '<loc0512><loc0000><loc0512><loc1023> flat',
  f'{_LOC}<loc0001> five',
  _LOC * 300,
)


@pytest.mark.parametrize('answer', _ANSWERS)
def test_boxes_are_those_of_the_package(answer):
  expected = [
    _terminal.escape(detection.describe())
    for detection in tasks.parse_answer(answer, 480, 639).detections
  ]
  lines = run.boxes(answer, 639, 480)
  assert [line.partition(' of 639 x 480 pixels')[0] for line in lines] == (
    expected
  )
  has_mask = [line.endswith('--mask_weights') for line in lines]
  assert any(has_mask) == ('<seg001>' * 16 in answer)


def test_boxes_are_printed(monkeypatch, tmp_path, capsys):
  from collab_jax.serving import collab_pb2, collab_pb2_grpc

  answers = {'detect cat': _ANSWERS[1], 'detect dog': 'dog', '': _ANSWERS[1]}

  class Server(collab_pb2_grpc.CaptionerServicer):
    def Handshake(self, request, context):
      return collab_pb2.HandshakeReply(session=b'x')

    def Caption(self, request, context):
      return collab_pb2.CaptionReply(caption=answers[request.prompt])

  edge = _edge(wire.Session({'x': messages.Symbols(4, (6,))}, coding='fixed'))
  edge.manifest['preprocessing'] = {'size': 32}
  monkeypatch.setattr(run.Edge, '__call__', lambda self, images, ids: [b'm'])
  monkeypatch.setattr(run, 'Edge', lambda folder: edge)
  turned = Image.Exif()
  turned[274] = 6
  path = tmp_path / 'a.jpg'
  Image.new('RGB', (480, 640)).save(path, exif=turned)
  server, address = _serve(Server())
  try:
    asked = ('--prompt=detect cat', '--prompt=detect dog')
    for prompts in (asked, ()):
      flags = ['run.py', str(path), f'--server={address}', *prompts]
      monkeypatch.setattr('sys.argv', flags)
      run.main()
  finally:
    server.stop(None)
  out, err = capsys.readouterr()
  box = 'cat: left 90, top 120, right 330, bottom 292 of 640 x 480 pixels'
  assert out.splitlines() == [
    f'{path}: 1 bytes',
    f'detect cat: {_ANSWERS[1]}',
    f'  {box}',
    'detect dog: dog',
    f'{path}: 1 bytes',
    _ANSWERS[1],
    f'  {box}',
  ]
  assert err.count('no whole box') == 1


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (('x.png', '--out=o', '--prompt=a'), '--prompt: is for a server'),
    (('a/x.png', 'b/x.png', '--out=o'), 'two pictures have one name'),
    (('x.png', '--server=example.org:1'), 'give its authority with --ca'),
    (('x.png', '--cert=c', '--ca=a'), 'give both, and --ca'),
    (('x.png', '--server=http://localhost:1'), 'expected HOST:PORT'),
    (('x.png', '--server=localhost'), 'expected HOST:PORT'),
    (('x.png', '--server=localhost.org:1'), 'give its authority with --ca'),
  ],
)
def test_what_the_runner_refuses(monkeypatch, capsys, flags, said):
  monkeypatch.setattr('sys.argv', ['run.py', *flags])
  with pytest.raises(SystemExit):
    run.main()
  assert said in capsys.readouterr().err


def _main(monkeypatch, *flags):
  """Runs the runner as if an edge for 32 pixels were beside it."""
  edge = types.SimpleNamespace(manifest={'preprocessing': {'size': 32}})
  monkeypatch.setattr(run, 'Edge', lambda folder: edge)
  monkeypatch.setattr('sys.argv', ['run.py', *map(str, flags)])
  run.main()


def test_a_bad_picture_is_one_line(monkeypatch, tmp_path):
  whole = next(_pictures(tmp_path)).read_bytes()
  for name, content in (('text.png', b'no picture'), ('cut.png', whole[:99])):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SystemExit, match=f'^error: .*{name}: '):
      _main(monkeypatch, tmp_path / name)
  with pytest.raises(SystemExit, match=r'^error: .*nowhere\.png'):
    _main(monkeypatch, tmp_path / 'nowhere.png')


def test_a_refusal_is_one_line():
  from collab_jax.serving import collab_pb2_grpc

  class Server(collab_pb2_grpc.CaptionerServicer):
    def Handshake(self, request, context):
      context.abort(grpc.StatusCode.FAILED_PRECONDITION, 'it differs')

  edge = _edge(wire.Session({'x': messages.Symbols(4, (6,))}, coding='fixed'))
  server = grpc.server(futures.ThreadPoolExecutor(1))
  collab_pb2_grpc.add_CaptionerServicer_to_server(Server(), server)
  port = server.add_insecure_port('localhost:0')
  server.start()
  try:
    with pytest.raises(OSError, match=r'it differs \(FAILED_PRECONDITION\)'):
      next(run.captions(f'localhost:{port}', edge, [b'']))
  finally:
    server.stop(None)


def test_mtls_of_the_runner(tmp_path, monkeypatch):
  from collab_jax.serving import collab_pb2, collab_pb2_grpc

  class Server(collab_pb2_grpc.CaptionerServicer):
    def Handshake(self, request, context):
      return collab_pb2.HandshakeReply()

    def Caption(self, request, context):
      return collab_pb2.CaptionReply(caption='a red ball')

  ca = certificates.Authority(tmp_path, 'ca')
  cert, key = ca.issue('server')
  root, both = ca.path.read_bytes(), (key.read_bytes(), cert.read_bytes())
  edge = _edge(wire.Session({'x': messages.Symbols(4, (6,))}, coding='fixed'))
  server = grpc.server(futures.ThreadPoolExecutor(1))
  collab_pb2_grpc.add_CaptionerServicer_to_server(Server(), server)
  safe = grpc.ssl_server_credentials([both], root, True)
  port = server.add_secure_port('localhost:0', safe)
  server.start()
  pair = dict(zip(('cert', 'key'), ca.issue('edge'), strict=True))
  try:
    where = f'localhost:{port}'
    said = list(run.captions(where, edge, [b''], ca.path, **pair))
    pair['key'] = key
    with pytest.raises(
      ValueError, match='no certificates and their key in PEM'
    ):
      next(run.captions(where, edge, [b''], ca.path, **pair))
    monkeypatch.setattr(run.time, 'sleep', lambda seconds: None)
    with pytest.raises(OSError, match='does it ask for TLS'):
      next(run.captions(where, edge, [b'']))
  finally:
    server.stop(None)
  assert said == ['a red ball']


def test_connections_that_fail_are_told_in_plain_words():
  refused = (
    'failed to connect to all addresses; last error: UNKNOWN:'
    ' ipv6:%5B::1%5D:{}: Failed to connect to remote host: connect: Connection'
    ' refused (111)'
  )
  with socket.create_server(('127.0.0.1', 0)) as listening:
    port = listening.getsockname()[1]
    # It is the other address of `localhost` that refuses.
    text = run._in_words(f'localhost:{port}', refused.format(port))
  assert text.endswith('a certificate of another authority (--cert)?')
  text = run._in_words(f'localhost:{port}', refused.format(port))
  assert text == (
    'no server is there (Connection refused); start collab-jax serve, or give'
    ' another --server'
  )
  for server in ('unix:/tmp/nowhere', 'dns:///localhost:1', '[::1]:1'):
    text = run._in_words(server, refused.format(port))
    assert text.startswith('no server is there')
  for words, said in run._CONNECTIONS.items():
    assert run._in_words('x:1', f'failed to connect: {words}') == said
  assert run._in_words('x:1', 'warming up') == 'warming up'
