"""Trials in which processes and links break, or are slow."""

import collections
from concurrent import futures
import statistics
import threading
import time
from typing import Any, cast

import jax
import numpy as np

from benchmarks import edges, names, trials
from collab_jax import captioner as captioning
from collab_jax import codecs
from collab_jax.serving.client import channel
from collab_jax.serving.client import client as clients
from tests.serving import shaper


def memory(world: trials.World, minutes: int, count: int = 32):
  """Load for some minutes; the server's memory at each."""
  made = [codecs.FeatureCodec(world.model, n) for n in trials.QUANTIZERS[:4]]
  caption = captioning.Captioner(world.model)
  sent, want = [], []
  for codec in made:
    packets = codec.encode(world.images[:50], jax.random.key(0))
    sent += [(names.name_of(codec), packet) for packet in packets]
    want += caption(codec.decode(packets))
  to, seen = world.server.address, []
  with futures.ThreadPoolExecutor(1) as pool:
    start = time.monotonic()
    load = pool.submit(edges.run, to, made, sent, count, 60.0 * minutes)
    for minute in range(minutes + 1):
      # The first one once all codecs are ready.
      at = start + max(60 * minute, 10)
      time.sleep(max(at - time.monotonic(), 0))
      seen.append(world.server.megabytes())
    got = load.result()
  wrong = sum(a != b for a, b in zip(got['captions'], want, strict=True))
  compiled = world.server.value('compilations_total', when='serving')
  number = len(got['seconds'])
  rate = number / got['total']
  said = (
    f'MB at each minute: {" ".join(f"{mb:.0f}" for mb in seen)};'
    f' {rate:.0f} captions/s, {compiled:.0f} compilations'
  )
  grown = seen[-1] > 1.05 * seen[min(1, minutes)]
  return trials.Outcome(number, said, wrong + int(grown) + int(compiled))


class _Counting:
  """Passes calls on, and remembers which requests were sent and answered."""

  def __init__(self, stub):
    self._stub = stub
    self.sent: list[bytes] = []
    self.answered: list[bytes] = []

  def Caption(self, request, **settings):
    self.sent.append(request.request_id)
    reply = self._stub.Caption(request, **settings)
    self.answered.append(request.request_id)
    return reply

  def __getattr__(self, name):
    return getattr(self._stub, name)


def _load(world, to, edges_, events):
  """All scenes from each of some edges, while things happen.

  Args:
    world: The world.
    to: Where the edges send to.
    edges_: How many.
    events: What is done, each when an equal share of the pictures is answered.

  Returns:
    Requests, how often they were sent, the longest wait in seconds, and how
    many pictures were lost, or requests answered not exactly once.
  """
  done: list[str] = []
  counts, longest = [], []

  def edge(number):
    link = channel.Connection(to, timeout=180.0)
    counting = _Counting(link.stub)
    link.stub = cast(Any, counting)
    counts.append(counting)
    captions = []
    with clients.EdgeClient(link, world.codec) as client:
      pictures = zip(world.images, range(len(world.images)), strict=True)
      last = time.monotonic()
      for answer in client.captions(pictures):
        failed = isinstance(answer, Exception)
        captions.append('' if failed else answer.caption)
        done.append(captions[-1])
        longest.append(time.monotonic() - last)
        last = time.monotonic()
    link.close()
    return world.wrong(captions)

  whole = edges_ * len(world.images)
  with futures.ThreadPoolExecutor(edges_) as pool:
    started = [pool.submit(edge, i) for i in range(edges_)]
    for number, event in enumerate(events, 1):
      share = whole * number / (len(events) + 1)
      trials.until(lambda share=share: len(done) >= share, 200)
      event()
    lost = sum(one.result() for one in started)
  answered = collections.Counter(i for c in counts for i in c.answered)
  sent = sum(len(c.sent) for c in counts)
  lost += abs(whole - len(answered)) + sum(n != 1 for n in answered.values())
  return whole, sent, max(longest), lost


def killed_server(world: trials.World) -> trials.Outcome:
  """The server is killed twice under load, and started anew."""

  def again():
    world.server.kill()
    world.server.start()

  to = world.server.address
  whole, sent, longest, lost = _load(world, to, 4, [again, again])
  compiled = world.server.value('compilations_total', when='serving')
  said = (
    f'2 kills: {sent - whole} requests sent again, by themselves;'
    f' longest wait {longest:.1f} s; each id answered once'
  )
  return trials.Outcome(whole, said, lost + int(compiled))


def cut_link(world: trials.World) -> trials.Outcome:
  """All connections are cut ten times under load; the server goes on."""
  decoded = {'stage': 'decode'}
  before = world.server.value('stage_seconds_count', **decoded)
  with shaper.Shaper(world.server.address) as link:
    events = [link.cut] * 10
    whole, sent, longest, lost = _load(world, link.address, 4, events)
  made = world.server.value('stage_seconds_count', **decoded) - before
  said = (
    f'10 cuts: {sent - whole} sent again, {made:.0f} captions made for'
    f' {whole} ids; longest wait {longest:.1f} s'
  )
  return trials.Outcome(whole, said, lost + abs(int(made) - whole))


def killed_client(world: trials.World, tries: int = 5) -> trials.Outcome:
  """A process with many open streams is killed."""
  freed, lost = [], 0
  cancelled = {'method': 'CaptionStream', 'code': 'CANCELLED'}
  before = world.server.value('requests_total', **cancelled)
  for _ in range(tries):
    client = edges.hang(world.server.address, world.codec, world.packets[:60])
    client.kill()
    client.wait()
    freed.append(trials.until(lambda: _idle(world)))
    lost += world.still_serves()
  gone = world.server.value('requests_total', **cancelled) - before
  said = (
    f'60 streams each: {gone:.0f} given up, all rows and places free after'
    f' {1000 * max(freed):.0f} ms at most'
  )
  lost += sum(seconds > 5 for seconds in freed) + int(not gone)
  return trials.Outcome(tries, said, lost)


def _idle(world):
  return not (world.server.value('rows') or world.server.value('queue'))


def slow_client(world: trials.World) -> trials.Outcome:
  """Eight edges take 0.2 s for each piece of their captions."""
  codec, slow = world.codec, 8
  start = threading.Event()

  def read(number):
    with trials.Caller(world.server.address) as caller:
      asked = trials.request(world.packets[number], codec)
      text = ''
      for chunk in caller.stub.CaptionStream(asked, timeout=60):
        start.set()
        text += chunk.text
        time.sleep(0.2)
      return text

  with trials.Caller(world.server.address) as other:
    other.handshake(codec)
    alone = _seconds(world, other)
    with futures.ThreadPoolExecutor(slow) as pool:
      reading = [pool.submit(read, i) for i in range(slow)]
      start.wait(10)
      beside = _seconds(world, other)
      free = trials.until(lambda: _idle(world))
      early = not all(one.done() for one in reading)
      captions = [one.result() for one in reading]
  lost = sum(a != b for a, b in zip(captions, world.want, strict=False))
  said = (
    f'their rows free after {1000 * free:.0f} ms, while they still read;'
    f" another's p50 {1000 * alone:.0f} ms alone, {1000 * beside:.0f} beside"
  )
  return trials.Outcome(slow, said, lost + int(not early))


def _seconds(world, caller):
  spent = []
  for packet in world.packets[:40]:
    start = time.monotonic()
    caller.ask(packet, world.codec)
    spent.append(time.monotonic() - start)
  return statistics.median(spent)


def half_open(world: trials.World, count: int = 8) -> trials.Outcome:
  """Connections that carry nothing any more, and stay open."""
  with (
    shaper.Shaper(world.server.address) as link,
    clients.EdgeClient(link.address, world.codec, timeout=60.0) as client,
  ):
    client.caption(world.images[:1])
    link.stall()
    start = time.monotonic()
    answers = client.caption(world.images[:count], image_ids=range(count))
    spent = time.monotonic() - start
    connections = link.connections
  same = [a.caption == b for a, b in zip(answers, world.want, strict=False)]
  said = (
    f'found out and connected anew after {spent:.1f} s, {connections}'
    f' connections; {max(a.tries for a in answers)} tries'
  )
  return trials.Outcome(count, said, count - sum(same))


def throttled(world: trials.World, count: int = 40) -> trials.Outcome:
  """1 Mbps and 100 ms each way."""
  spent = []
  with (
    shaper.Shaper(world.server.address, 1000, 100) as link,
    clients.EdgeClient(link.address, world.codec) as client,
  ):
    start = time.monotonic()
    answers = client.caption(world.images[:count])
    many = time.monotonic() - start
    for number in range(10):
      start = time.monotonic()
      answers += client.caption(
        world.images[number : number + 1], image_ids=[number]
      )
      spent.append(time.monotonic() - start)
  want = [*world.want[:count], *world.want[:10]]
  lost = sum(a.caption != b for a, b in zip(answers, want, strict=True))
  said = (
    f'{count} at once in {many:.1f} s; alone p50'
    f' {1000 * statistics.median(spent):.0f} ms with {answers[0].bytes:,} bytes'
  )
  return trials.Outcome(len(answers), said, lost)


def full_queue(world: trials.World, count: int = 120) -> trials.Outcome:
  """More edges for some seconds than there are rows and places."""
  to = world.server.address
  name = names.name_of(world.codec)
  sent = [(name, packet) for packet in world.packets]
  got = edges.run(to, [world.codec], sent, count, 4.0)
  pairs = zip(got['captions'], world.want, strict=True)
  lost = sum(a not in (b, None) for a, b in pairs)
  with (
    clients.EdgeClient(to, world.codec) as client,
    futures.ThreadPoolExecutor(count) as pool,
  ):
    ready = [client.pack(image, i) for i, image in enumerate(world.images)] * 3
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
  return trials.Outcome(len(full) + len(served) + len(answers), said, lost)
