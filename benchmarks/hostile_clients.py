"""Fault cases: clients that send what a server must refuse."""

import collections
import json
from pathlib import Path
import socket
import tempfile
import time
from typing import Any

import grpc
import jax
import numpy as np

from benchmarks import harness, processes
from collab_jax import codecs
from collab_jax.models import paligemma
from collab_jax.serving import (
  collab_pb2,
)
from collab_jax.serving.client import client as clients
from collab_jax.serving.client import retry
from tests.serving import certificates

_TOKEN = 'correct-horse-battery-staple'


def _refused(testbed, messages, expected='INVALID_ARGUMENT'):
  """Sends messages that all must be refused."""
  with harness.Caller(testbed.server.address) as caller:
    caller.handshake(testbed.codec)
  requests = [harness.request(message, testbed.codec) for message in messages]
  outcomes = harness.flood(testbed.server.address, requests)
  counts = collections.Counter(o.code for o in outcomes)
  text = max(collections.Counter(o.text for o in outcomes).items(), key=_last)
  summary = f'{harness.format_counts(counts)}: "{text[0][:52]}"'
  lost = len(outcomes) - counts[expected] + testbed.count_dead()
  return harness.CaseResult(len(outcomes), summary, lost)


def _last(pair):
  return pair[1]


def corrupted(
  testbed: harness.Testbed, count: int = 2000
) -> harness.CaseResult:
  """Flips one to eight bits of a message."""
  draws, messages = np.random.default_rng(0), []
  for number in range(count):
    data = bytearray(testbed.packets[number % len(testbed.packets)])
    places = draws.choice(8 * len(data), draws.integers(1, 9), replace=False)
    for place in places.tolist():
      data[place // 8] ^= 1 << place % 8
    messages.append(bytes(data))
  return _refused(testbed, messages)


def truncated(testbed: harness.Testbed, count: int = 500) -> harness.CaseResult:
  """Messages that end too early, or too late."""
  draws, messages = np.random.default_rng(0), []
  for number in range(count):
    data = testbed.packets[number % len(testbed.packets)]
    cut = int(draws.integers(0, len(data)))
    messages.append(data + data[: cut + 1] if number % 5 == 0 else data[:cut])
  return _refused(testbed, messages)


def version(testbed: harness.Testbed) -> harness.CaseResult:
  """A message or a session of another version than 1."""
  messages = []
  for other in (0, 2, 3, 4, 5, 6, 7):
    for packet in testbed.packets[:20]:
      first = packet[0] & 0x1F | other << 5
      messages.append(bytes([first]) + packet[1:])
  result = _refused(testbed, messages)
  text = json.loads(testbed.codec.to_json())
  with harness.Caller(testbed.server.address) as caller:
    codes = [
      harness.call(
        lambda n=n: caller.handshake(json.dumps({**text, 'version': n}))
      ).code
      for n in (0, 2, '1')
    ]
  lost = result.lost + sum(code != 'INVALID_ARGUMENT' for code in codes)
  summary = f'{result.saw}; handshakes: {", ".join(sorted(set(codes)))}'
  return harness.CaseResult(result.tries + len(codes), summary, lost)


def codebook(testbed: harness.Testbed, count: int = 10) -> harness.CaseResult:
  """Edges with another codebook, or another model's projection."""
  other, lost, texts = [], 0, []
  for seed in range(1, count + 1):
    key = jax.random.key(seed)
    other.append(codecs.FeatureCodec(testbed.model, harness.BOOK, key=key))
  img = testbed.model.params['img']
  head = jax.tree.map(lambda x: np.asarray(x) * 1.5, img['head'])
  params = {**testbed.model.params, 'img': {**img, 'head': head}}
  config, tokenizer = testbed.model.config, testbed.model.tokenizer
  turned = paligemma.Model(params, config, tokenizer)
  other.append(codecs.FeatureCodec(turned, harness.QUANTIZERS[0]))
  with harness.Caller(testbed.server.address) as caller:
    for codec in other:
      code, text, _ = harness.call(lambda codec=codec: caller.handshake(codec))
      lost += code != 'FAILED_PRECONDITION'
      texts.append(text)
    # Bytes of one session under the name of another.
    sent_as = codecs.FeatureCodec(testbed.model, harness.BOOK)
    caller.handshake(sent_as)
    foreign = other[0].encode(testbed.images[:1], jax.random.key(0))[0]
    code, *_ = harness.call(lambda: caller.ask(foreign, sent_as))
    lost += code != 'INVALID_ARGUMENT'
  summary = f'FAILED_PRECONDITION: "{texts[0][:60]}"; its message: {code}'
  return harness.CaseResult(
    len(other) + 1, summary, lost + testbed.count_dead()
  )


def strangers(testbed: harness.Testbed) -> harness.CaseResult:
  """Expired certificates of the server and of an edge, and wrong tokens."""
  lost, summary = 0, []
  with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    ca = certificates.Authority(folder, 'ca')
    cert, key = ca.issue('server')
    old_cert, old_key = ca.issue('old', days=-1)
    edge = ca.issue('edge')
    (folder / 'tokens').write_text(_TOKEN)
    flags = {'client_ca': ca.path, 'token_file': folder / 'tokens'}
    flags |= {'quantizers': harness.QUANTIZERS[0], 'rows': 1, 'batch': 1}
    calls = {
      'right': (edge, _TOKEN),
      'no token': (edge, None),
      'wrong token': (edge, _TOKEN[:-1] + 'f'),
      'expired certificate of the edge': ((old_cert, old_key), _TOKEN),
      'no certificate of the edge': ((None, None), _TOKEN),
    }
    good = processes.ServerProcess(tls_cert=cert, tls_key=key, **flags)
    bad = processes.ServerProcess(tls_cert=old_cert, tls_key=old_key, **flags)
    with good:
      outcomes = {
        name: _knock(testbed, good.address, ca.path, *call)
        for name, call in calls.items()
      }
    bad.start(wait=False)
    outcomes['expired certificate of the server'] = _knock(
      testbed, bad.address, ca.path, edge, _TOKEN
    )
    bad.kill()
  for name, (code, seconds) in outcomes.items():
    lost += (code == 'OK') != (name == 'right')
    summary.append(f'{name}: {code} after {seconds:.2f} s')
  return harness.CaseResult(len(outcomes), '; '.join(summary), lost)


def _knock(testbed, to, ca, pair, token):
  cert, key = pair
  start = time.monotonic()
  client = clients.EdgeClient(
    to, testbed.codec, ca=ca, cert=cert, key=key, token=token, timeout=5.0
  )
  with client:
    try:
      client.handshake()
      code = 'OK'
    except retry.RemoteError as error:
      code = error.code
  return code, time.monotonic() - start


def oversized(testbed: harness.Testbed) -> harness.CaseResult:
  """Messages longer than any codec makes, also compressed."""
  with harness.Caller(testbed.server.address) as caller:
    limit = caller.handshake(testbed.codec).max_message_bytes
  sizes = [limit + 1, limit + 10_000, limit + 1_000_000, 64_000_000]
  requests = [harness.request(bytes(size), testbed.codec) for size in sizes]
  before = testbed.server.megabytes()
  to = testbed.server.address
  outcomes = harness.flood(to, requests, 1)
  gzip: dict[str, Any] = {'compression': grpc.Compression.Gzip}
  outcomes += harness.flood(to, requests[-1:], 1, **gzip)
  grown = testbed.server.megabytes() - before
  counts = collections.Counter(o.code for o in outcomes)
  lost = len(outcomes) - counts['RESOURCE_EXHAUSTED'] + testbed.count_dead()
  summary = (
    f'{harness.format_counts(counts)}: {limit + 1:,} to 64,000,000 bytes, the'
    f' last also gzipped; memory {grown:+.0f} MB'
  )
  return harness.CaseResult(len(outcomes), summary, lost)


def fuzzed(testbed: harness.Testbed, count: int = 10_000) -> harness.CaseResult:
  """Random requests, damaged ones, and noise on the port."""
  draws = np.random.default_rng(0)
  to, before = testbed.server.address, testbed.server.megabytes()
  with harness.Caller(to) as caller:
    caller.handshake(testbed.codec)
  share = count // 5
  noise: list[Any] = [
    draws.bytes(int(draws.integers(0, 300))) for _ in range(2 * share)
  ]
  text = testbed.codec.to_json().encode()
  whole = [
    harness.request(testbed.packets[i % len(testbed.packets)], testbed.codec)
    for i in range(share)
  ]
  captions = noise[:share]
  captions += [_drawn(draws) for _ in range(share)]
  captions += [_damaged(draws, r.SerializeToString()) for r in whole]
  handshakes = noise[share:]
  for _ in range(share):
    broken = _damaged(draws, text).decode('utf-8', 'replace')
    handshakes.append(collab_pb2.HandshakeRequest(session=broken))
  start = time.monotonic()
  outcomes = harness.flood(to, captions, 32)
  outcomes += harness.flood(to, handshakes, 32, 'Handshake')
  spent = time.monotonic() - start
  for number in range(100):
    _poke(to, draws.bytes(int(draws.integers(1, 2000))) if number else b'')
  counts = collections.Counter(o.code for o in outcomes)
  # Damage in an unused place leaves the caption as it was.
  odd = [o for o in outcomes if o.code == 'OK' and o.text]
  wrong = sum(o.text not in testbed.want for o in odd)
  lost = wrong + sum(counts[name] for name in ('UNAVAILABLE', 'CANCELLED'))
  grown = testbed.server.megabytes() - before
  summary = (
    f'{harness.format_counts(counts)}; {spent:.0f} s, memory {grown:+.0f} MB;'
    ' 100 connections of noise'
  )
  return harness.CaseResult(
    len(outcomes) + 100, summary, lost + testbed.count_dead()
  )


def _drawn(draws):
  size = lambda most: int(draws.integers(0, most))  # noqa: E731
  return collab_pb2.CaptionRequest(
    session=draws.bytes(size(12)),
    message=draws.bytes(size(3000)),
    prompt=draws.bytes(size(40)).decode('latin-1'),
    request_id=draws.bytes(int(draws.choice([0, 7, 16]))),
    max_tokens=size(100),
  )


def _damaged(draws, data):
  data = bytearray(data)
  for _ in range(int(draws.integers(1, 9))):
    at = int(draws.integers(0, len(data)))
    match draws.integers(3):
      case 0:
        data[at] = int(draws.integers(256))
      case 1:
        del data[at : at + int(draws.integers(1, 9))]
        data = data or bytearray(1)
      case _:
        data[at:at] = draws.bytes(3)
  return bytes(data)


def _poke(to, data):
  host, _, port = to.rpartition(':')
  with socket.create_connection((host, int(port)), 5) as end:
    end.sendall(data)
