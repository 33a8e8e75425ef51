"""Turns pictures into messages, and sends them to a server.

python run.py picture.png
python run.py picture.png --server=localhost:50051
python run.py picture.png --prompt='detect cat' --prompt='answer en how many'
python run.py picture.png --out=messages

Runs the program beside this file. Needs NumPy, Pillow and the program's
runtime: JAX (StableHLO), onnxruntime, or ai-edge-litert; grpcio for a server.
"""

import argparse
import hashlib
import json
import os
import pathlib
import re
import socket
import ssl
import sys
import time
from typing import Any

import numpy as np
from PIL import Image, ImageOps

# Where `collab-jax serve` listens.
SERVER = 'localhost:50051'

# A JPEG's: one axis is resized while the other is as long as in the file.
MAX_SIDE = 65_535


class Edge:
  """Encoder and quantizer of an exported folder.

  edge = run.Edge('.')
  messages = edge(images, ids)
  print(edge.unlike)

  Attributes:
    unlike: Whether each picture of the last batch is unlike those that the
      model was trained on; None where nothing is known of these.
  """

  def __init__(self, folder):
    """Reads the folder; raises ValueError if a file is damaged."""
    self.folder = pathlib.Path(folder)
    self.manifest = _read_json(self.folder / 'manifest.json', _MANIFEST)
    _check_files(self.folder, self.manifest)
    path = self.folder / self.manifest['session']
    self.text = path.read_text('utf-8')
    self.session = _read_json(path, _SESSION)
    path = self.folder / self.manifest['artefact']
    try:
      self.call: Any = _RUNTIMES[self.manifest['format']](path, self.manifest)
    except ImportError:
      raise
    # Each runtime has errors of its own for a program that it cannot read.
    except Exception as error:
      raise ValueError(f'{path}: {type(error).__name__}: {error}') from error
    self.unlike, self.warned = None, False
    self.statistics = self.manifest.get('statistics')
    if self.statistics:
      path = self.folder / self.statistics['file']
      with np.load(path, allow_pickle=False) as arrays:
        self.mean, self.whitening = arrays['mean'], arrays['whitening']

  def __call__(self, images, ids=None):
    """Encodes pictures u8[B size size 3]; ids are 0 to B - 1 by default."""
    ids = range(len(images)) if ids is None else ids
    out = self.quantize(images, ids)
    if self.statistics and np.any(self.unlike) and not self.warned:
      self.warned = True
      print(f'warning: {self.statistics["warning"]}', file=sys.stderr)
    rows = zip(*out.values(), strict=True)
    return [self.pack(dict(zip(out, row, strict=True))) for row in rows]

  def quantize(self, images, ids):
    """Returns the message's arrays, with an axis B in front."""
    out = self._run(images, ids)
    if self.statistics:
      # The Mahalanobis distance of their mean features, over sqrt(D).
      means = out.pop(self.statistics['output']).astype(np.float64)
      squares = np.square((means - self.mean) @ self.whitening)
      distances = np.sqrt(squares.mean(1))
      self.unlike = distances > self.statistics['threshold']
    return out

  def _run(self, images, ids):
    ids = np.asarray([i & 0xFFFFFFFF for i in ids], np.uint32)
    names = [port['name'] for port in self.manifest['outputs']]
    if self.manifest['inputs'][0]['shape'][0] == 'b':
      return dict(zip(names, self.call(images, ids), strict=True))
    outputs = []
    for image, id_ in zip(images, ids, strict=True):
      inputs = {'images': image[None]}
      for port in self.manifest['inputs'][1:]:
        bits = words(self.manifest['seed'], int(id_), port['shape'][-1])
        halves = np.stack([bits >> 16, bits & 0xFFFF])[None]
        inputs[port['name']] = halves.astype(np.int32)
      outputs.append(self.call(inputs))
    columns = map(np.concatenate, zip(*outputs, strict=True))
    return dict(zip(names, columns, strict=True))

  def pack(self, message):
    """Packs a message in the coding 'fixed': docs/wire.md, sections 2 to 5."""
    checked, out = bytes.fromhex(self.session['digest']), b''
    fields = self.session['fields']
    for layer in range(1 + max(field['layer'] for field in fields)):
      head = b'' if layer else b'\x20'
      body = b''.join(
        _pack_field(field, np.asarray(message[field['name']]))
        for field in fields
        if field['layer'] == layer
      )
      checked += head + body
      out += head + crc32c(checked).to_bytes(4, 'little') + body
    return out


# Fields that are read of the two descriptions, with the types of their values.
_MANIFEST = {
  'files': dict,
  'session': str,
  'artefact': str,
  'format': str,
  'encoder': str,
  'preprocessing': dict,
  'inputs': list,
  'outputs': list,
  'seed': int,
}
_SESSION = {'digest': str, 'fields': list}


def _read_json(path, fields):
  """Reads a description; raises ValueError unless it has the fields."""
  try:
    values = json.loads(path.read_text('utf-8'))
  except (ValueError, RecursionError) as error:
    raise ValueError(f'{path}: got no JSON: {error}') from error
  if not isinstance(values, dict):
    raise ValueError(f'{path}: got {type(values).__name__}, expected an object')
  for name, kind in fields.items():
    if not isinstance(values.get(name), kind):
      raise ValueError(
        f'{path}: {name}: got {values.get(name)!r:.60}, expected'
        f' {kind.__name__}; export the edge again'
      )
  return values


def _check_files(folder, manifest):
  """Raises ValueError if a file of a folder is missing or damaged."""
  manifest['weights'] = manifest.get('weights') or None
  used = [manifest[n] for n in ('session', 'artefact', 'weights')]
  used += [(manifest.get('statistics') or {}).get('file')]
  if manifest['format'] not in _RUNTIMES:
    raise ValueError(
      f'manifest.json: format: got {manifest["format"]!r:.60}, expected one of'
      f' {", ".join(_RUNTIMES)}'
    )
  for name in filter(None, used):
    if name not in manifest['files']:
      raise ValueError(
        f'manifest.json: files: got none named {name!r:.60}; export the edge'
        ' again'
      )
  for name, file in manifest['files'].items():
    if pathlib.Path(name).name != name or not isinstance(file, dict):
      raise ValueError(
        f'manifest.json: files: got {name!r:.60}, expected files of the folder'
      )
    with (folder / name).open('rb') as data:
      digest = hashlib.file_digest(data, 'sha256').hexdigest()
    if digest != file.get('sha256'):
      raise ValueError(f'{name} is damaged: its SHA-256 is another one')


def read(path, size):
  """Reads a picture at the model's size: 8-bit RGB on white, upright."""
  try:
    if os.path.exists(path) and not os.path.isfile(path):
      raise ValueError('got a pipe or a folder, expected a picture')
    with Image.open(path) as picture:
      if max(picture.size) > MAX_SIDE:
        raise ValueError(f'got {picture.size}, expected sides of {MAX_SIDE}')
      if picture.mode[0] in 'IF':
        raise ValueError(f'got mode {picture.mode}, expected 8 bits')
      picture = ImageOps.exif_transpose(picture)
      if picture.has_transparency_data:
        white = Image.new('RGBA', picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture.convert('RGBA'))
      square, (width, height) = picture.convert('RGB'), picture.size
      # The order of axes is Pillow 13's; older versions begin with the width.
      tall = height > size and height - size > 2 * (width - size)
      for shape in ((width, size) if tall else (size, height), (size, size)):
        square = square.resize(shape, Image.Resampling.BICUBIC)
      return np.asarray(square)
  # Pillow raises anything for damaged and for too large files.
  except Exception as e:
    raise ValueError(f'{path}: {str(e) or type(e).__name__}') from e


def upright_size(path):
  """Returns width and height of a picture as it is seen."""
  with Image.open(path) as picture:
    return ImageOps.exif_transpose(picture).size


# PaliGemma's boxes: edges in 1024 steps, top, left, bottom, right; then perhaps
# the codes of a mask, and a name.
_BOX = re.compile(r'((?:<loc\d{4}>){4})\s*((?:<seg\d{3}>){16})?([^;<]*)')
_STEPS = 1023
_MOST_BOXES = 256


def boxes(text, width, height):
  """Returns a line for each whole box of an answer, in pixels of the picture.

  Args:
    text: What the model wrote.
    width: Of the picture in pixels.
    height: Of the picture in pixels.
  """
  lines = []
  for places, codes, name in _BOX.findall(text)[:_MOST_BOXES]:
    top, left, bottom, right = (int(n) for n in re.findall(r'\d{4}', places))
    if max(bottom, right) > _STEPS or top >= bottom or left >= right:
      continue
    edges = [
      round(step / _STEPS * side)
      for step, side in (
        (left, width),
        (top, height),
        (right, width),
        (bottom, height),
      )
    ]
    named = zip(('left', 'top', 'right', 'bottom'), edges, strict=True)
    line = ', '.join(f'{edge} {pixels}' for edge, pixels in named)
    mask = '; mask: take collab-jax caption --mask_weights' if codes else ''
    name = printable(name.strip()) or 'a thing'
    lines.append(f'{name}: {line} of {width} x {height} pixels{mask}')
  return lines


def threefry(key, high, low):
  """Computes Threefry-2x32 with 20 rounds, of arrays of counters."""
  rotations = (13, 15, 26, 6), (17, 29, 16, 24)
  keys = [*map(np.uint32, key)]
  keys.append(keys[0] ^ keys[1] ^ np.uint32(0x1BD11BDA))
  with np.errstate(over='ignore'):
    x, y = high + keys[0], low + keys[1]
    for i in range(5):
      for r in rotations[i % 2]:
        x = x + y
        y = (y << np.uint32(r) | y >> np.uint32(32 - r)) ^ x
      x = x + keys[(i + 1) % 3]
      y = y + keys[(i + 2) % 3] + np.uint32(i + 1)
  return x, y


def words(seed, id_, count):
  """Computes `jax.random.bits(fold_in(key(seed), id_), (count,))`."""
  zero = np.zeros(1, np.uint32)
  key = threefry((seed >> 32, seed & 0xFFFFFFFF), zero, zero + np.uint32(id_))
  counters = np.arange(count, dtype=np.uint32)
  x, y = threefry((key[0][0], key[1][0]), np.zeros_like(counters), counters)
  return x ^ y


def crc32c(data):
  """Computes the CRC-32C of bytes."""
  register = 0xFFFFFFFF
  for byte in data:
    register = _TABLE[(register ^ byte) & 255] ^ register >> 8
  return register ^ 0xFFFFFFFF


def _crc_of_byte(byte):
  for _ in range(8):
    byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
  return byte


_TABLE = [_crc_of_byte(byte) for byte in range(256)]


def _pack_field(field, array):
  if field['kind'] == 'symbols':
    width = (field['alphabet'] - 1).bit_length()
    shifts = np.arange(width)[::-1]
    bits = array.reshape(-1, 1).astype(np.int64) >> shifts & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()
  array = array.astype(np.float32)
  if field['dtype'] == 'float16':
    with np.errstate(over='ignore'):
      array = array.astype('<f2')
  if not np.isfinite(array).all():
    raise ValueError(f'field {field["name"]!r}: a number is not finite')
  if field['dtype'] == 'bfloat16':  # Round to nearest, ties to even.
    bits = array.view(np.uint32)
    bits = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16
    array = bits.astype('<u2')
  return array.tobytes()


def _stablehlo(path, manifest):
  import jax

  program = jax.export.deserialize(bytearray(path.read_bytes()))
  run, weights = jax.jit(program.call), ()
  if manifest['weights']:
    arrays = _weights(path.parent / manifest['weights'])
    weights = ([*map(jax.device_put, arrays)],)
  names = [port['name'] for port in manifest['outputs']]

  def call(images, ids):
    out = run(*weights, images, ids)
    return [np.asarray(out[name]) for name in names]

  return call


def _weights(path):
  """Yields the arrays of a safetensors file, in the order of their names."""
  import ml_dtypes  # Comes with JAX.

  kinds = {'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16}
  start = 8 + int.from_bytes(path.open('rb').read(8), 'little')
  data = np.memmap(path, np.uint8, 'r')
  header = json.loads(data[8:start].tobytes())
  header.pop('__metadata__', None)
  for name in sorted(header):
    entry = header[name]
    low, high = (start + at for at in entry['data_offsets'])
    yield data[low:high].view(kinds[entry['dtype']]).reshape(entry['shape'])


def _onnx(path, manifest):
  del manifest
  import onnxruntime  # pyright: ignore[reportMissingImports]

  settings = onnxruntime.SessionOptions()
  settings.log_severity_level = 3
  session = onnxruntime.InferenceSession(path, settings)
  return lambda inputs: session.run(None, inputs)


def _litert(path, manifest):
  from ai_edge_litert import (  # pyright: ignore[reportMissingImports]
    interpreter,
  )

  run = interpreter.Interpreter(str(path)).get_signature_runner()
  names = [f'output_{i}' for i in range(len(manifest['outputs']))]

  def call(inputs):
    out = run(**inputs)
    return [out[name] for name in names]

  return call


_RUNTIMES = {'stablehlo': _stablehlo, 'onnx': _onnx, 'litert': _litert}


def _encode_field(number, data):
  """Encodes a field of bytes of a protocol buffer."""
  size, out = len(data), bytearray([number << 3 | 2])
  while size > 127:
    out.append(size & 127 | 128)
    size >>= 7
  return bytes([*out, size]) + data


def _encode(parts):
  """Encodes fields of bytes by number; empty ones are left out."""
  return b''.join(_encode_field(n, part) for n, part in parts.items() if part)


def _first_field(data):
  """Returns the bytes of field 1, where a protocol buffer begins with it.

  Raises ValueError where they are cut off.
  """
  if not data.startswith(b'\n'):
    return b''
  size = 0
  for position, byte in enumerate(data[1:6], 1):
    size |= (byte & 127) << 7 * (position - 1)
    if byte < 128:
      start = position + 1
      if start + size <= len(data):
        return data[start : start + size]
      break
  raise ValueError(f"the server's reply of {len(data)} bytes is cut off")


def printable(text):
  """Returns a text on one line, without letters that a terminal obeys."""
  return ''.join(
    letter
    if letter.isprintable() or letter in '\u200c\u200d'
    else letter.encode('unicode_escape').decode()
    for letter in text
  )


def captions(
  server,
  edge,
  messages,
  ca=None,
  token=None,
  cert=None,
  key=None,
  prompts=('',),
):
  """Yields a server's answers: of each message, those to all prompts in turn.

  A message is sent once: the server keeps it for further prompts.

  Args:
    server: HOST:PORT.
    edge: Edge that made the messages.
    messages: The messages.
    ca: File with the server's authority; None for no TLS.
    token: The token that it asks for.
    cert: This edge's certificate.
    key: Its private key.
    prompts: Prompts, '' for the server's.

  Raises:
    OSError: The server fails, or refuses.
  """
  try:
    import grpc
  except ImportError as error:
    raise ImportError(
      f'{error}; a server needs pip install grpcio, --out=FOLDER does not'
    ) from error

  if ca:
    channel = grpc.secure_channel(server, _credentials(ca, cert, key))
  else:
    channel = grpc.insecure_channel(server)
  with channel:

    def call_server(method, request, again=None):
      call = channel.unary_unary(f'/collab_jax.v1.Captioner/{method}')
      metadata = (('authorization', f'Bearer {token}'),) if token else ()
      for wait in (1, 2, 4, 8, 0):  # The server may be warming up.
        try:
          reply = call(request, timeout=60, metadata=metadata)
          return _first_field(reply or b'')
        except grpc.RpcError as error:
          code = error.code()  # pyright: ignore[reportAttributeAccessIssue]
          if again and code == grpc.StatusCode.FAILED_PRECONDITION:
            return call_server(method, again)  # It has dropped the picture.
          if code != grpc.StatusCode.UNAVAILABLE or not wait:
            text = f'{error.details()}'[:4096]  # pyright: ignore[reportAttributeAccessIssue]
            text = _in_words(server, text)
            raise OSError(f'{server}: {text} ({code.name})') from error
          time.sleep(wait)
      return b''

    encoder = edge.manifest['encoder'].encode()
    session = b''
    for prompt in prompts:  # One that is too long is refused now.
      parts = {1: edge.text.encode(), 2: prompt.encode(), 4: encoder}
      session = call_server('Handshake', _encode(parts))
    for message in messages:
      digest = hashlib.sha256(message).digest() if len(prompts) > 1 else b''
      for number, prompt in enumerate(prompts):
        parts = {1: session, 3: prompt.encode(), 4: os.urandom(16), 7: digest}
        again = _encode({**parts, 2: message})
        request, again = (_encode(parts), again) if number else (again, None)
        answer = call_server('Caption', request, again)
        yield answer.decode('utf-8', 'replace')


# gRPC's words for connections that were not made, and ours.
_CONNECTIONS = {
  'WRONG_VERSION_NUMBER': 'it speaks no TLS; leave --ca out',
  'CERTIFICATE_VERIFY_FAILED': (
    'its certificate has expired, or is not of the authority in --ca'
  ),
  'verification check failed': 'its certificate is of another name',
  'errors resolving': 'there is no machine of that name; check --server',
  'DNS resolution failed': 'there is no machine of that name; check --server',
}
_CLOSED = (
  'it closes connections; does it ask for TLS (--ca), or for a certificate of'
  ' another authority (--cert)?'
)


def _in_words(server, text):
  """Returns why a call failed; of connections in plain words.

  gRPC's text is that of the address it tried last, and `localhost` has two.
  """
  for words, plain in _CONNECTIONS.items():
    if words in text:
      return plain
  if 'failed to connect' not in text and 'Socket closed' not in text:
    return text
  if server.startswith('unix'):
    return f'no server is there, or {_CLOSED}'
  host, _, port = server.removeprefix('dns:').lstrip('/').rpartition(':')
  try:
    socket.create_connection((host.strip('[]'), int(port)), 2).close()
  except OSError as error:
    reason = error.strerror or error
    return (
      f'no server is there ({reason}); start collab-jax serve, or give another'
      ' --server'
    )
  return _CLOSED


def _credentials(ca, cert, key):
  """Reads certificates; raises ValueError for files that are none.

  gRPC would report these as an unavailable server.
  """
  import grpc

  paths = ca, key, cert
  files = [path and pathlib.Path(path).read_bytes() for path in paths]
  context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
  try:
    context.load_verify_locations(ca)
    if cert:
      context.load_cert_chain(cert, key, password=str)
  except ssl.SSLError as error:
    raise ValueError(
      f'{ca}, {cert}, {key}: no certificates and their key in PEM: {error}'
    ) from error
  return grpc.ssl_channel_credentials(*files)


def _is_local(server):
  """Returns whether a server is on this machine."""
  host = server.removeprefix('dns:').lstrip('/').rpartition(':')[0]
  loopback = 'localhost', '127.0.0.1', '[::1]'
  return server.startswith('unix:') or host in loopback


def main():
  """Encodes pictures, and writes or sends their messages."""
  parser = argparse.ArgumentParser(description='Pictures to messages.')
  parser.add_argument('pictures', nargs='+')
  parser.add_argument('--out', help='Folder for a .msg file a picture.')
  parser.add_argument(
    '--server',
    help=f'host:port of a captioning server; {SERVER} unless --out is given.',
  )
  parser.add_argument(
    '--prompt',
    action='append',
    help="Instead of the server's; given several times, questions about each"
    ' picture, which is sent once.',
  )
  parser.add_argument('--ca', help="File with the server's authority, for TLS.")
  parser.add_argument('--cert', help="This edge's certificate, for mTLS.")
  parser.add_argument('--key', help='Its private key.')
  parser.add_argument(
    '--token_file', '--token-file', help='File with the token it asks for.'
  )
  parser.add_argument('--id', type=int, default=0, help='Of the first picture.')
  flags = parser.parse_args()
  if not flags.out and flags.server is None:
    flags.server = SERVER
  if flags.prompt and not flags.server:
    parser.error('--prompt: is for a server; give --server, or leave --out out')
  names = [f'{pathlib.Path(path).name}.msg' for path in flags.pictures]
  if flags.out and len(set(names)) < len(names):
    parser.error('--out: two pictures have one name, and would have one file')
  host, _, port = (flags.server or 'localhost:1').rpartition(':')
  unix = host.startswith('unix') or port.startswith('/')
  if not unix and ('/' in host or not (host and port.isdecimal())):
    parser.error(f'--server: got {flags.server!r}, expected HOST:PORT')
  # Without TLS, anybody on the way could read token and messages.
  if flags.server and not (flags.ca or _is_local(flags.server)):
    parser.error('--server is another machine: give its authority with --ca')
  if bool(flags.cert) != bool(flags.key) or (flags.cert and not flags.ca):
    parser.error('--cert, --key: give both, and --ca')
  try:
    _send(flags, names)
  except (ValueError, OSError, ImportError) as error:
    raise SystemExit(f'error: {printable(str(error))}') from error
  # Whatever else a description or a reply made to hurt leads to.
  except Exception as error:
    text = printable(f'{type(error).__name__}: {error}'[:4096])
    raise SystemExit(f'error: {text}') from error


def _send(flags, names):
  edge = Edge(pathlib.Path(__file__).parent)
  size = edge.manifest['preprocessing']['size']
  messages = [
    edge(read(path, size)[None], [flags.id + i])[0]
    for i, path in enumerate(flags.pictures)
  ]
  for path, name, message in zip(flags.pictures, names, messages, strict=True):
    print(f'{path}: {len(message)} bytes')
    if flags.out:
      folder = pathlib.Path(flags.out)
      folder.mkdir(parents=True, exist_ok=True)
      (folder / name).write_bytes(message)
  if flags.server:
    token = flags.token_file and pathlib.Path(flags.token_file).read_text()
    token = token.strip() if token else None
    security = flags.ca, token, flags.cert, flags.key
    prompts = flags.prompt or ['']
    answers = captions(flags.server, edge, messages, *security, prompts=prompts)
    asked = [(path, prompt) for path in flags.pictures for prompt in prompts]
    for (path, prompt), answer in zip(asked, answers, strict=True):
      text = printable(answer)
      print(f'{printable(prompt)}: {text}' if len(prompts) > 1 else text)
      _print_boxes(path, prompt, answer)


def _print_boxes(path, prompt, answer):
  """Prints the boxes of an answer, in pixels of the picture's file."""
  lines = []
  if _BOX.search(answer):
    lines = boxes(answer, *upright_size(path))
  for line in lines:
    print(f'  {line}')
  if not lines and prompt.startswith(('detect ', 'segment ')):
    print(
      '  the answer has no whole box; not every model was trained to find'
      ' things',
      file=sys.stderr,
    )


if __name__ == '__main__':
  main()
