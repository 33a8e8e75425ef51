"""Fault cases: processes and links that break, or are slow."""

import collections
from concurrent import futures
import statistics
import threading
import time
from typing import Any, cast

import jax
import numpy as np

from benchmarks import edges, harness, session_names
from collab_jax import captioner as captioning
from collab_jax import codecs
from collab_jax.serving.client import channel
from collab_jax.serving.client import client as clients
from tests.serving import shaper


def memory(testbed: harness.Testbed, minutes: int, count: int = 32):
  """Measures the server's memory at each minute of a load."""
  bound = [
    codecs.FeatureCodec(testbed.model, n) for n in harness.QUANTIZERS[:4]
  ]
  caption = captioning.Captioner(testbed.model)
  sent, want = [], []
  for codec in bound:
    packets = codec.encode(testbed.images[:50], jax.random.key(0))
    sent += [(session_names.for_codec(codec), packet) for packet in packets]
    want += caption(codec.decode(packets))
  to, seen = testbed.server.address, []
  with futures.ThreadPoolExecutor(1) as pool:
    start = time.monotonic()
    load = pool.submit(edges.run, to, bound, sent, count, 60.0 * minutes)
    for minute in range(minutes + 1):
      # The first one once all codecs are ready.
      at = start + max(60 * minute, 10)
      time.sleep(max(at - time.monotonic(), 0))
      seen.append(testbed.server.megabytes())
    got = load.result()
  wrong = sum(a != b for a, b in zip(got['captions'], want, strict=True))
  compiled = testbed.server.value('compilations_total', when='serving')
  number = len(got['seconds'])
  rate = number / got['total']
  said = (
    f'MB at each minute: {" ".join(f"{mb:.0f}" for mb in seen)};'
    f' {rate:.0f} captions/s, {compiled:.0f} compilations'
  )
  grown = seen[-1] > 1.05 * seen[min(1, minutes)]
  return harness.CaseResult(number, said, wrong + int(grown) + int(compiled))


class CountingStub:
  """Forwards calls, and records the requests sent and answered."""

  def __init__(self, stub):
    self._stub = stub
    self.sent: list[bytes] = []
    self.answered: list[bytes] = []

  def Caption(self, request, **settings):
    """Forwards a request, and records its id before and after."""
    self.sent.append(request.request_id)
    reply = self._stub.Caption(request, **settings)
    self.answered.append(request.request_id)
    return reply

  def __getattr__(self, name):
    return getattr(self._stub, name)


def _load(testbed, to, edges_, events):
  """Sends all scenes from each of some edges, while faults are injected.

  Args:
    testbed: The testbed.
    to: Address to which the edges send.
    edges_: Number of edges.
    events: Faults, each injected after an equal share of the answers.

  Returns:
    Number of requests, number of times that they were sent, longest wait in
    seconds, and number of pictures lost or not answered exactly once.
  """
  done: list[str] = []
  counts, longest = [], []

  def edge(number):
    link = channel.Connection(to, timeout=180.0)
    counting = CountingStub(link.stub)
    link.stub = cast(Any, counting)
    counts.append(counting)
    captions = []
    with clients.EdgeClient(link, testbed.codec) as client:
      pictures = zip(testbed.images, range(len(testbed.images)), strict=True)
      last = time.monotonic()
      for answer in client.captions(pictures):
        failed = isinstance(answer, Exception)
        captions.append('' if failed else answer.caption)
        done.append(captions[-1])
        longest.append(time.monotonic() - last)
        last = time.monotonic()
    link.close()
    return testbed.wrong(captions)

  whole = edges_ * len(testbed.images)
  with futures.ThreadPoolExecutor(edges_) as pool:
    started = [pool.submit(edge, i) for i in range(edges_)]
    for number, event in enumerate(events, 1):
      share = whole * number / (len(events) + 1)
      harness.until(lambda share=share: len(done) >= share, 200)
      event()
    lost = sum(future.result() for future in started)
  answered = collections.Counter(i for c in counts for i in c.answered)
  sent = sum(len(c.sent) for c in counts)
  lost += abs(whole - len(answered)) + sum(n != 1 for n in answered.values())
  return whole, sent, max(longest), lost


def killed_server(testbed: harness.Testbed) -> harness.CaseResult:
  """The server is killed twice under load, and started anew."""

  def again():
    testbed.server.kill()
    testbed.server.start()

  to = testbed.server.address
  whole, sent, longest, lost = _load(testbed, to, 4, [again, again])
  compiled = testbed.server.value('compilations_total', when='serving')
  said = (
    f'2 kills: {sent - whole} requests sent again, by themselves;'
    f' longest wait {longest:.1f} s; each id answered once'
  )
  return harness.CaseResult(whole, said, lost + int(compiled))


def cut_link(testbed: harness.Testbed) -> harness.CaseResult:
  """Connections are all cut ten times under load; the server goes on."""
  decoded = {'stage': 'decode'}
  before = testbed.server.value('stage_seconds_count', **decoded)
  with shaper.Shaper(testbed.server.address) as link:
    events = [link.cut] * 10
    whole, sent, longest, lost = _load(testbed, link.address, 4, events)
  decoded_count = (
    testbed.server.value('stage_seconds_count', **decoded) - before
  )
  said = (
    f'10 cuts: {sent - whole} sent again, {decoded_count:.0f} captions made for'
    f' {whole} ids; longest wait {longest:.1f} s'
  )
  return harness.CaseResult(whole, said, lost + abs(int(decoded_count) - whole))


def killed_client(
  testbed: harness.Testbed, tries: int = 5
) -> harness.CaseResult:
  """A process with many open streams is killed."""
  freed, lost = [], 0
  cancelled = {'method': 'CaptionStream', 'code': 'CANCELLED'}
  before = testbed.server.value('requests_total', **cancelled)
  for _ in range(tries):
    client = edges.hang(
      testbed.server.address, testbed.codec, testbed.packets[:60]
    )
    client.kill()
    client.wait()
    freed.append(harness.until(lambda: _idle(testbed)))
    lost += testbed.count_dead()
  gone = testbed.server.value('requests_total', **cancelled) - before
  said = (
    f'60 streams each: {gone:.0f} given up, all rows and places free after'
    f' {1000 * max(freed):.0f} ms at most'
  )
  lost += sum(seconds > 5 for seconds in freed) + int(not gone)
  return harness.CaseResult(tries, said, lost)


def _idle(testbed):
  return not (testbed.server.value('rows') or testbed.server.value('queue'))


def slow_client(testbed: harness.Testbed) -> harness.CaseResult:
  """Eight edges take 0.2 s for each piece of their captions."""
  codec, slow = testbed.codec, 8
  start = threading.Event()

  def read(number):
    with harness.Caller(testbed.server.address) as caller:
      asked = harness.request(testbed.packets[number], codec)
      text = ''
      for chunk in caller.stub.CaptionStream(asked, timeout=60):
        start.set()
        text += chunk.text
        time.sleep(0.2)
      return text

  with harness.Caller(testbed.server.address) as other:
    other.handshake(codec)
    alone = _seconds(testbed, other)
    with futures.ThreadPoolExecutor(slow) as pool:
      reading = [pool.submit(read, i) for i in range(slow)]
      start.wait(10)
      beside = _seconds(testbed, other)
      free = harness.until(lambda: _idle(testbed))
      early = not all(f.done() for f in reading)
      captions = [f.result() for f in reading]
  lost = sum(a != b for a, b in zip(captions, testbed.want, strict=False))
  said = (
    f'their rows free after {1000 * free:.0f} ms, while they still read;'
    f" another's p50 {1000 * alone:.0f} ms alone, {1000 * beside:.0f} beside"
  )
  return harness.CaseResult(slow, said, lost + int(not early))


def _seconds(testbed, caller):
  spent = []
  for packet in testbed.packets[:40]:
    start = time.monotonic()
    caller.ask(packet, testbed.codec)
    spent.append(time.monotonic() - start)
  return statistics.median(spent)


def half_open(testbed: harness.Testbed, count: int = 8) -> harness.CaseResult:
  """Connections that carry nothing any more, and stay open."""
  with (
    shaper.Shaper(testbed.server.address) as link,
    clients.EdgeClient(link.address, testbed.codec, timeout=60.0) as client,
  ):
    client.caption(testbed.images[:1])
    link.stall()
    start = time.monotonic()
    answers = client.caption(testbed.images[:count], image_ids=range(count))
    spent = time.monotonic() - start
    connections = link.connections
  same = [a.caption == b for a, b in zip(answers, testbed.want, strict=False)]
  said = (
    f'found out and connected anew after {spent:.1f} s, {connections}'
    f' connections; {max(a.tries for a in answers)} tries'
  )
  return harness.CaseResult(count, said, count - sum(same))


def throttled(testbed: harness.Testbed, count: int = 40) -> harness.CaseResult:
  """1 Mbps and 100 ms each way."""
  spent = []
  with (
    shaper.Shaper(testbed.server.address, 1000, 100) as link,
    clients.EdgeClient(link.address, testbed.codec) as client,
  ):
    start = time.monotonic()
    answers = client.caption(testbed.images[:count])
    many = time.monotonic() - start
    for number in range(10):
      start = time.monotonic()
      answers += client.caption(
        testbed.images[number : number + 1], image_ids=[number]
      )
      spent.append(time.monotonic() - start)
  want = [*testbed.want[:count], *testbed.want[:10]]
  lost = sum(a.caption != b for a, b in zip(answers, want, strict=True))
  said = (
    f'{count} at once in {many:.1f} s; alone p50'
    f' {1000 * statistics.median(spent):.0f} ms with {answers[0].bytes:,} bytes'
  )
  return harness.CaseResult(len(answers), said, lost)


def full_queue(
  testbed: harness.Testbed, count: int = 120
) -> harness.CaseResult:
  """More edges for some seconds than there are rows and places."""
  to = testbed.server.address
  name = session_names.for_codec(testbed.codec)
  sent = [(name, packet) for packet in testbed.packets]
  got = edges.run(to, [testbed.codec], sent, count, 4.0)
  pairs = zip(got['captions'], testbed.want, strict=True)
  lost = sum(a not in (b, None) for a, b in pairs)
  with (
    clients.EdgeClient(to, testbed.codec) as client,
    futures.ThreadPoolExecutor(count) as pool,
  ):
    ready = [
      client.pack(image, i) for i, image in enumerate(testbed.images)
    ] * 3
    answers: list[Any] = [
      said[-1]
      for said in pool.map(lambda one: list(client.stream_packed(one)), ready)
    ]
  again = sum(a.tries > 1 for a in answers)
  full, served = got['refused'], got['seconds']
  lost += sum(not a.caption for a in answers) + int(not full or not again)
  wait = 1000 * statistics.median(served)
  half, most = (1000 * float(np.quantile(full or [0], q)) for q in (0.5, 0.99))
  said = (
    f'{len(full)} RESOURCE_EXHAUSTED after {half:.1f} ms (p50), {most:.1f}'
    f' (p99), {len(served)} captions after {wait:.0f} ms;'
    f' {count} EdgeClients got all {len(answers)}, {again} by trying again'
  )
  return harness.CaseResult(len(full) + len(served) + len(answers), said, lost)
