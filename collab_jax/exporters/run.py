"""Pictures to messages by the program beside this file, and to a server.

python run.py picture.png --out=messages
python run.py picture.png --server=localhost:50051

Needs NumPy, Pillow and what runs the program: JAX (StableHLO), onnxruntime, or
ai-edge-litert; grpcio for --server.
"""

import argparse
import hashlib
import json
import os
import pathlib
import ssl
import time
from typing import Any

import numpy as np
from PIL import Image, ImageOps


class Edge:
  """Encoder and quantizer of a folder that was exported."""

  def __init__(self, folder):
    """Reads the folder; ValueError if a file is not as it was written."""
    self.folder = pathlib.Path(folder)
    self.manifest = json.loads((self.folder / 'manifest.json').read_text())
    for name, file in self.manifest['files'].items():
      with (self.folder / name).open('rb') as data:
        if hashlib.file_digest(data, 'sha256').hexdigest() != file['sha256']:
          raise ValueError(f'{name} is damaged: its SHA-256 is another one')
    self.text = (self.folder / self.manifest['session']).read_text()
    self.session = json.loads(self.text)
    path = self.folder / self.manifest['artefact']
    self.call: Any = _RUNTIMES[self.manifest['format']](path, self.manifest)

  def __call__(self, images, ids=None):
    """Messages of pictures u8[B size size 3]; ids are 0 to B - 1 by default."""
    ids = range(len(images)) if ids is None else ids
    out = self.quantize(images, ids)
    rows = zip(*out.values(), strict=True)
    return [self.pack(dict(zip(out, row, strict=True))) for row in rows]

  def quantize(self, images, ids):
    """The message's arrays, with an axis B in front."""
    ids = np.asarray([i & 0xFFFFFFFF for i in ids], np.uint32)
    names = [port['name'] for port in self.manifest['outputs']]
    if self.manifest['inputs'][0]['shape'][0] == 'b':
      return dict(zip(names, self.call(images, ids), strict=True))
    found = []
    for image, id_ in zip(images, ids, strict=True):
      inputs = {'images': image[None]}
      for port in self.manifest['inputs'][1:]:
        bits = words(self.manifest['seed'], int(id_), port['shape'][-1])
        halves = np.stack([bits >> 16, bits & 0xFFFF])[None]
        inputs[port['name']] = halves.astype(np.int32)
      found.append(self.call(inputs))
    columns = map(np.concatenate, zip(*found, strict=True))
    return dict(zip(names, columns, strict=True))

  def pack(self, message):
    """One message in the coding 'fixed': docs/wire.md, sections 2 to 5."""
    seen, out = bytes.fromhex(self.session['digest']), b''
    fields = self.session['fields']
    for layer in range(1 + max(field['layer'] for field in fields)):
      head = b'' if layer else b'\x20'
      mine = [field for field in fields if field['layer'] == layer]
      body = b''.join(_packed(f, np.asarray(message[f['name']])) for f in mine)
      seen += head + body
      out += head + crc32c(seen).to_bytes(4, 'little') + body
    return out


def read(path, size):
  """A picture at the model's size: 8-bit RGB, upright, Pillow's bicubic."""
  try:
    with Image.open(path) as picture:
      if picture.mode[0] in 'IF':
        raise ValueError(f'got mode {picture.mode}, expected 8 bits')
      picture = ImageOps.exif_transpose(picture)
      if picture.has_transparency_data:
        picture = picture.convert('RGBA')
      square = picture.convert('RGB').resize(
        (size, size), Image.Resampling.BICUBIC
      )
      return np.asarray(square)
  # What Pillow raises of damaged files, and of those that are too large.
  except (ValueError, OSError, SyntaxError, Image.DecompressionBombError) as e:
    raise ValueError(f'{path}: {e}') from e


def threefry(key, high, low):
  """Threefry-2x32 with 20 rounds, of arrays of counts."""
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
  """`jax.random.bits(fold_in(key(seed), id_), (count,))`, u32[count]."""
  zero = np.zeros(1, np.uint32)
  key = threefry((seed >> 32, seed & 0xFFFFFFFF), zero, zero + np.uint32(id_))
  at = np.arange(count, dtype=np.uint32)
  x, y = threefry((key[0][0], key[1][0]), np.zeros_like(at), at)
  return x ^ y


def crc32c(data):
  """CRC-32C of bytes."""
  register = 0xFFFFFFFF
  for byte in data:
    register = _TABLE[(register ^ byte) & 255] ^ register >> 8
  return register ^ 0xFFFFFFFF


def _entry(byte):
  for _ in range(8):
    byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
  return byte


_TABLE = [_entry(byte) for byte in range(256)]


def _packed(field, array):
  if field['kind'] == 'symbols':
    wide = (field['alphabet'] - 1).bit_length()
    shifts = np.arange(wide)[::-1]
    bits = array.reshape(-1, 1).astype(np.int64) >> shifts & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()
  array = array.astype(np.float32)
  if field['dtype'] == 'float16':
    with np.errstate(over='ignore'):
      array = array.astype('<f2')
  if not np.isfinite(array).all():
    raise ValueError(f'field {field["name"]!r}: a number is not finite')
  if field['dtype'] == 'bfloat16':  # To the nearest, of two to the even one.
    bits = array.view(np.uint32)
    bits = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16
    array = bits.astype('<u2')
  return array.tobytes()


def _stablehlo(path, manifest):
  import jax

  program = jax.export.deserialize(bytearray(path.read_bytes()))
  run, before = jax.jit(program.call), ()
  if manifest['weights']:
    before = (
      [*map(jax.device_put, _weights(path.parent / manifest['weights']))],
    )
  names = [port['name'] for port in manifest['outputs']]

  def call(images, ids):
    out = run(*before, images, ids)
    return [np.asarray(out[name]) for name in names]

  return call


def _weights(path):
  """The arrays of a safetensors file, in the order of their names."""
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


def _bytes(number, data):
  """A field of bytes of a protocol buffer."""
  size, out = len(data), bytearray([number << 3 | 2])
  while size > 127:
    out.append(size & 127 | 128)
    size >>= 7
  return bytes([*out, size]) + data


def _first(data):
  """The bytes of field 1, where a protocol buffer begins with it."""
  if not data.startswith(b'\n'):
    return b''
  at = size = 0
  while True:
    at += 1
    size |= (data[at] & 127) << 7 * (at - 1)
    if data[at] < 128:
      return data[at + 1 : at + 1 + size]


def captions(server, edge, messages, ca=None, token=None, cert=None, key=None):
  """What a server writes of messages, one after the other; OSError if not."""
  import grpc

  if ca:
    channel = grpc.secure_channel(server, _credentials(ca, cert, key))
  else:
    channel = grpc.insecure_channel(server)
  with channel:

    def ask(method, request):
      call = channel.unary_unary(f'/collab_jax.v1.Captioner/{method}')
      metadata = (('authorization', f'Bearer {token}'),) if token else ()
      for wait in (1, 2, 4, 8, 0):  # It may be warming up.
        try:
          return _first(call(request, timeout=60, metadata=metadata))
        except grpc.RpcError as error:
          code = error.code()  # pyright: ignore[reportAttributeAccessIssue]
          if code != grpc.StatusCode.UNAVAILABLE or not wait:
            text = f'{error.details()}'  # pyright: ignore[reportAttributeAccessIssue]
            text += _HINT if 'Socket closed' in text else ''
            raise OSError(f'{server}: {text} ({code.name})') from error
          time.sleep(wait)
      return b''

    encoder = edge.manifest['encoder'].encode()
    request = _bytes(1, edge.text.encode()) + _bytes(4, encoder)
    agreed = ask('Handshake', request)
    for message in messages:
      parts = {1: agreed, 2: message, 4: os.urandom(16)}
      request = b''.join(_bytes(n, part) for n, part in parts.items())
      yield ask('Caption', request).decode()


_HINT = '; does it ask for TLS (--ca), or for a certificate (--cert)?'


def _credentials(ca, cert, key):
  """ValueError for files that gRPC would take for a server that is away."""
  import grpc

  paths = ca, key, cert
  files = [path and pathlib.Path(path).read_bytes() for path in paths]
  context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
  try:
    context.load_verify_locations(ca)
    if cert:
      context.load_cert_chain(cert, key, password=str)
  except ssl.SSLError as error:
    why = f'{ca}, {cert}, {key}: no certificates and their key in PEM: {error}'
    raise ValueError(why) from error
  return grpc.ssl_channel_credentials(*files)


def _is_here(server):
  """Whether a server is on this machine."""
  host = server.removeprefix('dns:').lstrip('/').rpartition(':')[0]
  here = 'localhost', '127.0.0.1', '[::1]'
  return server.startswith('unix:') or host in here


def main():
  """Reads pictures, and writes or sends their messages."""
  parser = argparse.ArgumentParser(description='Pictures to messages.')
  parser.add_argument('pictures', nargs='+')
  parser.add_argument('--out', help='Folder for a .msg file a picture.')
  parser.add_argument('--server', help='host:port of a captioning server.')
  parser.add_argument('--ca', help="File with the server's authority, for TLS.")
  parser.add_argument('--cert', help="This edge's certificate, for mTLS.")
  parser.add_argument('--key', help='Its private key.')
  parser.add_argument('--token-file', help='File with the token it asks for.')
  parser.add_argument('--id', type=int, default=0, help='Of the first picture.')
  flags = parser.parse_args()
  names = [f'{pathlib.Path(path).name}.msg' for path in flags.pictures]
  if flags.out and len(set(names)) < len(names):
    parser.error('--out: two pictures have one name, and would have one file')
  host, _, port = (flags.server or 'localhost:1').rpartition(':')
  unix = host.startswith('unix') or port.startswith('/')
  if not unix and ('/' in host or not (host and port.isdecimal())):
    parser.error(f'--server: got {flags.server!r}, expected HOST:PORT')
  # As everybody on the way could read the token, and the messages.
  if flags.server and not (flags.ca or _is_here(flags.server)):
    parser.error('--server is another machine: give its authority with --ca')
  if bool(flags.cert) != bool(flags.key) or (flags.cert and not flags.ca):
    parser.error('--cert, --key: give both, and --ca')
  try:
    _send(flags, names)
  except (ValueError, OSError, ImportError) as error:
    raise SystemExit(f'error: {error}') from error


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
    safe = flags.ca, token, flags.cert, flags.key
    for caption in captions(flags.server, edge, messages, *safe):
      print(caption)


if __name__ == '__main__':
  main()
