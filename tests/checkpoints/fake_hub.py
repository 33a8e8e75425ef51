"""A Hugging Face Hub on loopback, with folders for repositories."""

from collections.abc import Iterator
import contextlib
import hashlib
from http import server
import json
import pathlib
import re
import threading
from urllib import parse

_COMMIT = 'c0ffee' + '0' * 34


class FakeHub:
  """Repositories of a hub that runs here.

  Attributes:
    url: Address.
    folders: Folder of each repository.
    gated: Repositories whose files nobody may read.
    down: Whether it answers 500.
    fetched: Names of the files that were sent.
  """

  def __init__(self):
    self.url = ''
    self.folders: dict[str, pathlib.Path] = {}
    self.gated: set[str] = set()
    self.down = False
    self.fetched: list[str] = []


def _handler(hub: FakeHub) -> type[server.BaseHTTPRequestHandler]:
  class Handler(server.BaseHTTPRequestHandler):
    """Answers what snapshot_download asks."""

    protocol_version = 'HTTP/1.1'

    def log_message(self, *args):
      """Says nothing."""

    def do_HEAD(self):
      """Answers without a body."""
      self._answer(with_body=False)

    def do_GET(self):
      """Answers with the body."""
      self._answer(with_body=True)

    def _answer(self, with_body):
      path = parse.unquote(parse.urlsplit(self.path).path)
      api = re.fullmatch(
        r'/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?', path
      )
      file = re.fullmatch(r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', path)
      repository = (api or file or [None, None])[1]
      folder = hub.folders.get(repository)
      if hub.down:
        return self._send(500, b'{}', {}, with_body)
      if folder is None:
        code = {'X-Error-Code': 'RepoNotFound'}
        return self._send(404, b'{}', code, with_body)
      revision = api[3] if api else file[2]
      if revision not in (None, 'main', 'bfloat16', _COMMIT):
        code = {'X-Error-Code': 'RevisionNotFound'}
        return self._send(404, b'{}', code, with_body)
      if api:
        body = json.dumps(_info(repository, folder, api[2])).encode()
        return self._send(200, body, {}, with_body)
      if repository in hub.gated:
        code = {'X-Error-Code': 'GatedRepo'}
        return self._send(403, b'{}', code, with_body)
      if not (folder / file[3]).is_file():
        code = {'X-Error-Code': 'EntryNotFound'}
        return self._send(404, b'{}', code, with_body)
      body = (folder / file[3]).read_bytes()
      headers = {
        'ETag': f'"{hashlib.sha1(body).hexdigest()}"',
        'X-Repo-Commit': _COMMIT,
        'X-Linked-Size': str(len(body)),
      }
      if with_body:
        hub.fetched.append(file[3])
      return self._send(200, body, headers, with_body)

    def _send(self, status, body, headers, with_body):
      self.send_response(status)
      for name, value in headers.items():
        self.send_header(name, value)
      self.send_header('Content-Length', str(len(body)))
      self.send_header('Content-Type', 'application/json')
      self.end_headers()
      if with_body:
        self.wfile.write(body)

  return Handler


def _info(repository, folder, kind):
  """Returns what the API says of a repository."""
  names = sorted(
    path.relative_to(folder).as_posix()
    for path in folder.rglob('*')
    if path.is_file()
  )
  if kind == 'tree':
    return [
      {
        'type': 'file',
        'path': name,
        'size': (folder / name).stat().st_size,
        'oid': hashlib.sha1((folder / name).read_bytes()).hexdigest(),
      }
      for name in names
    ]
  return {
    'id': repository,
    'modelId': repository,
    'sha': _COMMIT,
    'private': False,
    'downloads': 0,
    'likes': 0,
    'tags': [],
    'siblings': [{'rfilename': name} for name in names],
  }


@contextlib.contextmanager
def serving() -> Iterator[FakeHub]:
  """Runs an empty hub."""
  hub = FakeHub()
  http = server.ThreadingHTTPServer(('127.0.0.1', 0), _handler(hub))
  hub.url = f'http://127.0.0.1:{http.server_port}'
  thread = threading.Thread(target=http.serve_forever, args=(0.05,))
  thread.start()
  try:
    yield hub
  finally:
    http.shutdown()
    thread.join()
    http.server_close()
