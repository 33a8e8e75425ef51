"""A decoder written from docs/wire.md alone: no NumPy, no constriction."""

import base64
import hashlib
import itertools
import json
import math
import zlib

WIDTH = {'float16': 2, 'bfloat16': 2, 'float32': 4}
INFINITY = {'float16': 0x7C00, 'bfloat16': 0x7F80, 'float32': 0x7F800000}
LEFT = {0: (32, 12), 1: (16, 24), 2: (32, 12), 4: (32, 24), 7: (8, 32)}
LEFT |= {8: (32, 16), 10: (32, 12), 12: (32, 32), 16: (8, 32), 18: (16, 32)}
LEFT |= {20: (8, 32), 25: (2, 32), 31: (3, 32)}
UP = {32: (32, 24), 34: (12, 24), 36: (24, 32), 40: (32, 32), 42: (6, 32)}
UP |= {44: (8, 24), 48: (32, 16), 50: (16, 32), 52: (32, 32)}
REST = [(8, 12), (12, 8), (1, 32), (8, 24), (16, 24), (24, 32), (24, 32)]
REST += [(1, 32), (6, 32), (6, 32), (2, 32)]
START = LEFT | UP | dict(enumerate(REST, 64))


def crc32c(data):
  register = 0xFFFFFFFF
  for byte in data:
    register ^= byte
    for _ in range(8):
      register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
  return register ^ 0xFFFFFFFF


class Range:
  def __init__(self, data):
    self.data, self.at = data + bytes(12), 8
    self.low, self.range = 0, 2**64 - 1
    self.point = int.from_bytes(self.data[:8], 'big')

  def part(self, row):
    scale = self.range >> 24
    q = (self.point - self.low) % 2**64 // scale
    assert q < 2**24
    s = start = 0
    while q >= start + row[s]:
      start += row[s]
      s += 1
    self.low = (self.low + scale * start) % 2**64
    self.range = scale * row[s]
    if self.range < 2**32:
      self.low, self.range = self.low * 2**32 % 2**64, self.range * 2**32
      more = self.data[self.at : self.at + 4].ljust(4, b'\0')
      self.point = self.point * 2**32 % 2**64 + int.from_bytes(more, 'big')
      self.at += 4
    return s

  def by(self, f):
    sums = itertools.accumulate(f, initial=0)
    total = sum(f)
    ends = [c * 2**24 // total for c in sums]
    return self.part([b - a for a, b in itertools.pairwise(ends)])

  def one_of(self, m):
    return self.part([2**24 // m] * (m - 1) + [2**24 - 2**24 // m * (m - 1)])

  def even(self, size, alphabet):
    if alphabet <= 2**16:
      return [self.one_of(alphabet) for _ in range(size)]
    high = [self.one_of((alphabet + 65535) // 65536) for _ in range(size)]
    return [h * 65536 + self.one_of(65536) for h in high]

  def adaptive(self, size, alphabet):
    out = []
    while len(out) < size:
      f = [1] * alphabet
      for s in out:
        f[s] += 2
      block = max(1, alphabet // 16, len(out) // 16)
      block = min(block, size - len(out))
      out += [self.by(f) for _ in range(block)]
    return out

  def spatial(self, size, alphabet):
    counts = {t: list(START.get(t, (2, 2))) for t in range(75)}

    def decide(t):
      hit = self.by(counts[t])
      counts[t][hit] += 2
      if sum(counts[t]) >= 256:
        counts[t] = [(c + 1) // 2 for c in counts[t]]
      return hit

    side, out = math.isqrt(size), []
    for i in range(size):
      r, c = divmod(i, side)
      left = out[-1] if c else -1
      up = out[i - side] if r else -1
      upleft = out[i - side - 1] if r and c else -1
      upright = out[i - side + 1] if r and c < side - 1 else -1
      p = (left == up) + 2 * (left == upleft) + 4 * (up == upleft)
      p += 8 * (up == upright) + 16 * (left == upright)
      around = ((0, -2), (-1, -2), (-1, 2), (-2, 0), (-2, -1), (-2, 1))
      near = [
        out[(r + y) * side + c + x]
        for y, x in around
        if r + y >= 0 and 0 <= c + x < side
      ]
      turns = (
        (p if r else 72, left),
        (32 + p if c else 73 + (up == upright), up),
        (64, upright),
        (65, upleft),
      )
      out.append(self.symbol(turns, near, alphabet, out, decide))
    return out

  def symbol(self, turns, near, alphabet, out, decide):
    tried = []
    for t, s in turns:
      if s >= 0 and s not in tried and len(tried) < alphabet - 1:
        if decide(t):
          return s
        tried.append(s)
    new = max(out, default=-1) + 1
    if new < alphabet and alphabet - len(tried) >= 2:
      if decide(66 + len(tried)):
        return new
      tried.append(new)
    open_ = [s for s in range(alphabet) if s not in tried]
    if len(open_) == 1:
      return open_[0]
    used = [s for s in open_ if s in out]
    unused = [s for s in open_ if s not in out]
    if used and (not unused or decide(71)):
      f = [2 * out.count(s) + 1 + 64 * near.count(s) for s in used]
      return used[self.by(f) if len(f) > 1 else 0]
    return unused[self.one_of(len(unused)) if len(unused) > 1 else 0]


def finite(field, numbers):
  top = INFINITY[field['dtype']]
  assert all(n & (1 << top.bit_length()) - 1 < top for n in numbers)
  return numbers


def numbers(data, width):
  every = range(0, len(data), width)
  return [int.from_bytes(data[i : i + width], 'little') for i in every]


def fixed(fields, body):
  out, at = {}, 0
  for f in fields:
    size = math.prod(f['shape'])
    if f['kind'] == 'values':
      end = at + size * WIDTH[f['dtype']]
      out[f['name']] = finite(f, numbers(body[at:end], WIDTH[f['dtype']]))
    else:
      w = (f['alphabet'] - 1).bit_length()
      end = at + (size * w + 7) // 8
      bits = int.from_bytes(body[at:end], 'big')
      spare = 8 * (end - at) - size * w
      assert not bits & (1 << spare) - 1
      bits >>= spare
      out[f['name']] = [bits >> w * i & (1 << w) - 1 for i in range(size)][::-1]
      assert all(s < f['alphabet'] for s in out[f['name']])
      if f.get('rows'):
        sent = (max(out[f['rows']]) + 1) * size // f['shape'][0]
        assert not any(out[f['name']][sent:])
    at = end
  return out


def varying(f):
  return math.prod(f['shape']) and f.get('alphabet') != 1


def possible(f, model, size):
  """Checks that a field of symbols may have a model: docs/wire.md, 6."""
  if model == 1:
    assert f['alphabet'] <= 4096
    assert size <= 2**22
  if model == 2:
    assert not f.get('rows')
    assert len(f['shape']) == 1
    assert math.isqrt(size) ** 2 == size
    assert f['alphabet'] <= 2**16
    assert size <= (4096 if f['alphabet'] <= 256 else 1024)


def best(session, fields, models, body):
  raws = {
    f['name']: math.prod(f['shape']) * (WIDTH[f['dtype']] - models[f['name']])
    for f in fields
    if f['kind'] == 'values' and varying(f)
  }
  at = len(body) - sum(raws.values())
  assert at >= 0
  assert not body[:at].endswith(b'\0')
  assert any(map(varying, fields)) or not at
  coder, out = Range(body[:at]), {}
  for f in fields:
    name, whole, size = f['name'], math.prod(f['shape']), math.prod(f['shape'])
    if f.get('rows'):
      size = (max(out[f['rows']]) + 1) * whole // f['shape'][0]
    if not varying(f):
      out[name] = [0] * size
    elif f['kind'] == 'values':
      raw, width = body[at : at + raws[name]], WIDTH[f['dtype']]
      out[name] = numbers(raw, width - models[name])
      if models[name]:
        assert size <= 2**22
        tops = coder.adaptive(size, 256)
        low = 8 * (width - 1)
        out[name] = [t << low | n for t, n in zip(tops, out[name], strict=True)]
      finite(f, out[name])
      at += raws[name]
    elif models[name] == 3:
      prior = session['priors'][name]
      table = numbers(zlib.decompress(base64.b64decode(prior['table'])), 2)
      rows, alphabet = prior['rows'], f['alphabet']
      rows = rows if rows == 1 or len(f['shape']) > 1 else size
      out[name] = [0] * size
      for j in range(rows):
        row = [n + 1 for n in table[j * alphabet : (j + 1) * alphabet]]
        out[name][j::rows] = [coder.by(row) for _ in range(size // rows)]
    else:
      possible(f, models[name], size)
      read = (coder.even, coder.adaptive, coder.spatial)[models[name]]
      out[name] = read(size, f['alphabet'])
      assert all(s < f['alphabet'] for s in out[name])
    out[name] += [0] * (whole - len(out[name]))
  return out


def decode(text, data):
  """Decodes a message, given the JSON of its session with the tables."""
  session = json.loads(text)
  keys = ('format', 'version', 'coding', 'fields', 'spec')
  agreed = {key: session[key] for key in keys}
  agreed['priors'] = {
    name: {key: prior[key] for key in ('rows', 'sha256')}
    for name, prior in session['priors'].items()
  }
  canonical = json.dumps(agreed, sort_keys=True, separators=(',', ':'))
  seen = hashlib.sha256(canonical.encode()).digest()
  last = max(f['layer'] for f in session['fields'])
  best_ = session['coding'] == 'best'
  out, at, layer = {}, 0, 0
  while at < len(data) or layer == 0:
    fields = [f for f in session['fields'] if f['layer'] == layer]
    flags = {
      f['name']: 2 if f['kind'] == 'symbols' else 1
      for f in fields
      if best_ and varying(f)
    }
    left = 3 * (layer == 0) + sum(flags.values())
    start, head = at, (left + 7) // 8
    if best_ and layer < last:
      size = shift = 0
      while True:
        byte, start = data[start], start + 1
        size, shift = size | (byte & 127) << shift, shift + 7
        if byte < 128:
          break
    elif best_:
      size = len(data) - start
    else:
      size = (
        head
        + 4
        + sum(
          math.prod(f['shape']) * WIDTH[f['dtype']]
          if f['kind'] == 'values'
          else (math.prod(f['shape']) * (f['alphabet'] - 1).bit_length() + 7)
          // 8
          for f in fields
        )
      )
    end = start + size
    body = data[start + head + 4 : end]
    seen += data[at : start + head] + body
    check = data[start + head : start + head + 4]
    assert end <= len(data)
    assert crc32c(seen) == int.from_bytes(check, 'little')
    bits = int.from_bytes(data[start : start + head], 'big')
    assert not bits & (1 << 8 * head - left) - 1
    bits >>= 8 * head - left
    left = sum(flags.values())
    assert layer or bits >> left == 1
    models = {}
    for name, count in flags.items():
      left -= count
      models[name] = bits >> left & (1 << count) - 1
    read = best(session, fields, models, body) if best_ else fixed(fields, body)
    out |= read
    at, layer = end, layer + 1
  return out
