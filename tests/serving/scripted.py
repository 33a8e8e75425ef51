"""Server with scripted failures, for tests of the client."""

from concurrent import futures
import contextlib
import re
import threading

import grpc

from collab_jax.serving import collab_pb2, collab_pb2_grpc

OK = grpc.StatusCode.OK


def reply(caption, **fields):
  """Returns a reply with a caption."""
  stages = collab_pb2.Stages(
    queue=2**-6, decode=2**-5, first_token=0.2, batch=3
  )
  return collab_pb2.CaptionReply(
    caption=caption, tokens=len(caption.split()), stages=stages, **fields
  )


class ScriptedServer(collab_pb2_grpc.CaptionerServicer):
  """Fails as `failures` say, one per request, then captions.

  Attributes:
    failures: Codes and texts of failures to come.
    requests: Requests received.
    handshakes: Session descriptions received.
    max_in_flight: Largest number of requests answered at a time.
    options: Prompt and longest caption of each handshake.
    before_handshake: Called before each handshake is answered.
    answers: Texts of streams by their prompt.
    kept: Names of the pictures that were sent to be kept.
    after_piece: Called with the context after each piece of a stream.
  """

  def __init__(self, caption=None):
    self.failures = []
    self.requests = []
    self.handshakes = []
    self.options = []
    self.before_handshake = None
    self.model = 'm'
    self.fingerprints = {'encoder': 'e', 'decoder': 'd'}
    self.metadata = []
    self.lists = None  # Quantizers and images of Metadata, if it is there.
    self.max_in_flight = 0
    self.after_piece = None
    self.answers = {}  # Texts by prompt, instead of 'a red ball'.
    self.kept = set()  # Names of pictures.
    self._in_flight = 0
    self._lock = threading.Lock()
    self._caption = caption or (lambda request: reply('a red ball'))

  def Metadata(self, request, context):
    if self.lists is None:
      context.abort(grpc.StatusCode.UNIMPLEMENTED, 'an older server')
    return collab_pb2.MetadataReply(
      model=self.model, quantizers=self.lists[0], images=self.lists[1]
    )

  def Handshake(self, request, context):
    self.handshakes.append(request.session)
    self.options.append((request.prompt, request.max_tokens))
    if self.before_handshake:
      self.before_handshake()
    self.metadata.append(dict(context.invocation_metadata()))
    self._fail(context, 'handshake ')
    return collab_pb2.HandshakeReply(
      session=b'12345678',
      model=self.model,
      max_message_bytes=1 << 20,
      max_tokens=8,
      **self.fingerprints,
    )

  def Caption(self, request, context):
    with self._lock:
      self.requests.append(request)
      self._in_flight += 1
      self.max_in_flight = max(self.max_in_flight, self._in_flight)
    try:
      self._fail(context)
      return self._caption(request)
    finally:
      with self._lock:
        self._in_flight -= 1

  def CaptionStream(self, request, context):
    self.requests.append(request)
    words = self.answers.get(request.prompt, 'a red ball')
    pieces = re.findall(r' ?[^ ]+', words)
    if not self._keep(request):
      context.abort(grpc.StatusCode.FAILED_PRECONDITION, 'send its message')
    if self.failures and self.failures[0][0] == OK:
      self.failures.pop(0)
      pieces = pieces[:2]
      for piece in pieces:
        yield collab_pb2.CaptionChunk(text=piece)
      context.abort(grpc.StatusCode.UNAVAILABLE, 'broken off')
    self._fail(context)
    for piece in pieces:
      yield collab_pb2.CaptionChunk(text=piece)
      if self.after_piece:
        self.after_piece(context)
    yield collab_pb2.CaptionChunk(reply=reply(words))

  def _keep(self, request):
    """Keeps a picture; returns whether it is known."""
    if request.message and request.picture:
      self.kept.add(request.picture)
    return bool(request.message) or request.picture in self.kept

  def _fail(self, context, prefix=''):
    with self._lock:
      failure = None
      if self.failures and self.failures[0][1].startswith(prefix):
        failure = self.failures.pop(0)
    if failure:
      context.abort(*failure)


@contextlib.contextmanager
def serving(servicer, credentials=None, port=0):
  """Serves on a free port, or on this one; yields the address."""
  server = grpc.server(futures.ThreadPoolExecutor(16))
  collab_pb2_grpc.add_CaptionerServicer_to_server(servicer, server)
  if credentials is None:
    port = server.add_insecure_port(f'127.0.0.1:{port}')
  else:
    port = server.add_secure_port('127.0.0.1:0', credentials)
  server.start()
  try:
    yield f'127.0.0.1:{port}'
  finally:
    server.stop(0).wait()
