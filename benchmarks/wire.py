r"""Measures messages on the wire: bytes, time, and detected damage.

python -m benchmarks.wire --fuzz=100000 --scenes=100
"""

import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc

from absl import app, flags
import jax
import numpy as np

from benchmarks import flag_names
from collab_jax import checkpoints, codecs, data, quantizers, wire
from collab_jax import message as messages
from collab_jax.evaluation.report import text as text_lib
from collab_jax.wire import checksum, framing, layers
from collab_jax.wire.coding import (
  adaptive,
  context,
)
from tests.wire import drawing, independent

_MODEL = flags.DEFINE_string('model', 'tiny', "Name, or a model's folder.")
_SCENES = flags.DEFINE_integer('scenes', 100, 'Test scenes for the sizes.')
_FUZZ = flags.DEFINE_integer('fuzz', 100_000, 'Damaged messages to try.')
_AGREE = flags.DEFINE_integer('agree', 1000, 'Messages for the other decoder.')
_DISAGREE = flags.DEFINE_integer(
  'disagree', 10_000, 'Damaged messages for both decoders, checks made right.'
)
_REPEAT = flags.DEFINE_integer('repeat', 300, 'Times that a call is timed.')

_KS = (4, 8, 16, 32)


def show(title, rows):
  """Prints a table."""
  print(f'\n{title}\n\n{text_lib.align(rows)}', flush=True)


def sizes():
  """Bytes of k-means indices on real scenes, by model."""
  model = checkpoints.load(_MODEL.value)
  scenes = data.scenes('test', limit=_SCENES.value)
  images = np.stack([scenes[i].image for i in range(len(scenes))])
  head = ['k', 'fixed', 'adaptive', 'context', "'best' message", "'fixed' one"]
  rows = [head]
  features = codecs.FeatureCodec(model, 'identity').features(images)
  for k in _KS:
    codec = codecs.FeatureCodec(
      model, quantizers.KMeans(k=k, init='++'), coding='best'
    )
    sent = codec.quantize(features, jax.random.key(0))
    found = {name: [] for name in head[1:]}
    for i, symbols in enumerate(sent['assignments'].astype(np.int32)):
      found['fixed'].append(len(symbols) * (k - 1).bit_length() / 8)
      found['adaptive'].append(adaptive.cost(symbols, k) / 8)
      found['context'].append(context.DecisionRecorder(symbols, k).bits / 8)
      one = {name: value[i] for name, value in sent.items()}
      packet = codec.session.pack(one)
      assert drawing.same(codec.session.unpack(packet), one)
      found["'best' message"].append(len(packet))
      plain = wire.Session(codec.fields, coding='fixed').pack(one)
      found["'fixed' one"].append(len(plain))
    means = [statistics.mean(values) for values in found.values()]
    rows.append([str(k), *(f'{mean:.1f}' for mean in means)])
  title = (
    f'Bytes of k-means++ indices, mean of {len(images)} test scenes, and of '
    f'whole messages with float16 centroids of {features.shape[-1]} numbers'
  )
  show(title, rows)


def cases():
  """Sessions with a message each, whose time and overhead are measured."""
  rng = np.random.default_rng(0)
  widths = np.exp(rng.normal(2, 0.7, (1152, 1)))
  chances = np.exp(-np.abs(np.arange(-128, 128)) / widths)
  chances /= chances.sum(axis=1, keepdims=True)
  table = np.maximum(1, np.floor(chances * 65000)).astype(int)
  chances = table / table.sum(axis=1, keepdims=True)
  columns = [rng.choice(256, 8, p=row) for row in chances]
  eight_bits = {'x': np.stack(columns, 1).astype(np.int32)}
  points = rng.uniform(0, 16, (8, 2))
  grid = np.argwhere(np.ones((16, 16)))[:, None]
  noise = rng.normal(size=(256, 8)) * 6
  distances = ((grid - points) ** 2).sum(-1) + noise
  nearest = distances.argmin(1)
  uneven = rng.choice(8, 256, p=[0.4, 0.3, 0.1, 0.1, 0.04, 0.03, 0.02, 0.01])
  indices = {'assignments': messages.Symbols(8, (256,))}
  numbers = {'x': messages.Values('float16', (8, 1152))}
  return {
    '(8, 1152) int8, priors': (
      wire.Session({'x': messages.Symbols(256, (8, 1152))}, {'x': table}),
      eight_bits,
    ),
    '(8, 1152) int8, none': (
      wire.Session({'x': messages.Symbols(256, (8, 1152))}),
      eight_bits,
    ),
    '256 indices, k = 8': (
      wire.Session(indices),
      {'assignments': nearest.astype(np.int32)},
    ),
    '256 indices, no grid': (
      wire.Session(indices),
      {'assignments': uneven.astype(np.int32)},
    ),
    '(8, 1152) float16': (
      wire.Session(numbers),
      {'x': rng.normal(size=(8, 1152)).astype(np.float16)},
    ),
  }


def timed(call, repeat):
  """Returns the median and the least time of a call in ms."""
  times = []
  for _ in range(repeat + 1):
    start = time.perf_counter()
    call()
    times.append(1e3 * (time.perf_counter() - start))
  return statistics.median(times[1:]), min(times[1:])


def speed():
  """Time of a message, and its size beside its ideal one."""
  rows = [
    [
      'message',
      'bytes',
      'ideal',
      'excess',
      'pack ms',
      'least',
      'unpack',
      'least',
    ]
  ]
  for name, (session, message) in cases().items():
    packet = session.pack(message)
    assert drawing.same(session.unpack(packet), message)
    layer = session._layers[0]
    assert isinstance(layer, layers.BestLayer)
    plans = layer.plans({n: v.reshape(-1) for n, v in message.items()})
    ideal = sum(p.bits / 8 + len(p.raw) for p in plans.values())
    took = [
      *timed(lambda s=session, m=message: s.pack(m), _REPEAT.value),
      *timed(lambda s=session, p=packet: s.unpack(p), _REPEAT.value),
    ]
    assert len(packet) <= 1.01 * ideal + 4 + layer.head + checksum.SIZE
    row = [name, f'{len(packet)}', f'{ideal:.1f}', f'{len(packet) - ideal:.1f}']
    rows.append([*row, *(f'{ms:.2f}' for ms in took)])
  show('One message, the coding best (5 bytes are the header)', rows)
  rows = [['64 messages', 'bytes each', 'pack ms', 'least', 'unpack', 'least']]
  for d in (128, 1152):
    session = wire.Session(
      {
        'assignments': messages.Symbols(8, (256,)),
        'centroids/x': messages.Values('float16', (8, d)),
      },
      coding='fixed',
    )
    batch = drawing.message(np.random.default_rng(0), session, (64,))
    packets = session.pack_batch(batch)
    took = [
      *timed(lambda s=session, b=batch: s.pack_batch(b), _REPEAT.value // 5),
      *timed(
        lambda s=session, p=packets: s.unpack_batch(p), _REPEAT.value // 5
      ),
    ]
    cells = [f'k = 8, d = {d}', f'{len(packets[0])}']
    rows.append([*cells, *(f'{ms:.2f}' for ms in took)])
  show('64 messages at a time, the coding fixed', rows)
  beside_memory()


def beside_memory():
  """Time of large batches, beside copies of the same bytes."""
  head = ['64 messages', 'bytes each', 'pack ms', 'unpack', 'both']
  rows = [[*head, 'copied', 'both / copied', 'new objects']]
  for k, d, slots in ((128, 1152, 128), (128, 1152, 256), (256, 1152, 256)):
    session = wire.Session(
      {
        'assignments': messages.Symbols(k, (256,)),
        'centroids/x': messages.Values('float16', (k, d)),
      },
      coding='fixed',
    )
    rng = np.random.default_rng(0)
    table = rng.normal(size=(64, slots, d)).astype(np.float16)
    batch = {
      'assignments': rng.integers(0, k, (64, 256), np.int32),
      'centroids/x': table[:, :k],
    }
    packets = session.pack_batch(batch)
    assert drawing.same(session.unpack_batch(packets), batch)
    source = np.frombuffer(b''.join(packets), np.uint8)
    target = np.zeros_like(source)
    lines = source.reshape(64, -1)
    repeat = max(5, _REPEAT.value // 10)
    pack, unpack, copied, objects = (
      timed(call, repeat)[0]
      for call in (
        lambda s=session, b=batch: s.pack_batch(b),
        lambda s=session, p=packets: s.unpack_batch(p),
        lambda t=target, s=source: np.copyto(t, s),
        lambda x=lines: [row.tobytes() for row in x],
      )
    )
    both = pack + unpack
    name = f'k = {k} of {slots}, d = {d}'
    times = [f'{ms:.2f}' for ms in (pack, unpack, both, copied)]
    ratio = f'{both / copied:.1f}'
    rows.append([name, f'{len(packets[0])}', *times, ratio, f'{objects:.2f}'])
  show(
    '64 messages beside memory: their bytes copied into an array, and into'
    ' new objects; medians',
    rows,
  )


def mutate(rng, one, other):
  """Returns what damage makes of a message, and its kind."""
  kind = ('flip', 'cut', 'insert', 'splice', 'random')[rng.integers(5)]
  at = int(rng.integers(len(one)))
  if kind == 'flip':
    changed = bytearray(one)
    for _ in range(rng.integers(1, 9)):
      changed[rng.integers(len(one))] ^= 1 << int(rng.integers(8))
    return bytes(changed), kind
  if kind == 'cut':
    end = int(rng.integers(at, len(one) + 1))
    return one[:at] + one[end:], kind
  if kind == 'insert':
    return one[:at] + rng.bytes(int(rng.integers(1, 9))) + one[at:], kind
  if kind == 'splice':
    return one[:at] + other[int(rng.integers(len(other) + 1)) :], kind
  return rng.bytes(int(rng.integers(2 * len(one)))), kind


def repaired(session, packet):
  """The same bytes with every check as it should be, if that can be."""
  try:
    frames = framing.split(session._layers, packet)
  except wire.FormatError:
    return packet
  crc, out = checksum.crc32c(bytes.fromhex(session.digest)), b''
  for frame in frames:
    crc = checksum.crc32c(frame.length, frame.head, frame.body, start=crc)
    check = checksum.to_bytes(crc)
    out += b''.join((frame.length, frame.head, check, frame.body.data))
  return out


def attempt(session, packet):
  """Returns what unpacking gives: a message, None, or the crash."""
  try:
    return session.unpack(packet)
  except wire.FormatError:
    return None
  except BaseException as error:
    return error


def fuzz():
  """Damages messages; counts what is not told."""
  rng = np.random.default_rng(1)
  known = []
  for i in range(60):
    coding = wire.CODINGS[i % 4 == 3]
    session = drawing.session(rng, coding, 1 + i % 3)
    both = [drawing.message(rng, session) for _ in range(2)]
    known.append((session, both, [session.pack(m) for m in both]))
  for session, message in cases().values():
    both = [message, {n: v[::-1].copy() for n, v in message.items()}]
    known.append((session, both, [session.pack(m) for m in both]))
  names = ('flip', 'cut', 'insert', 'splice', 'random')
  counts = {n: dict.fromkeys(_COUNTS, 0) for n in (*names, 'checks made right')}
  largest, share = 0, 0.0
  tracemalloc.start()
  for i in range(_FUZZ.value):
    session, sent, packets = known[int(rng.integers(len(known)))]
    packet, kind = mutate(rng, *packets)
    right = i % 5 == 4
    if right:
      packet, kind = repaired(session, packet), 'checks made right'
    count = counts[kind]
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    found = attempt(session, packet)
    took = tracemalloc.get_traced_memory()[1] - before
    declared = len(packet) + 4 * sum(
      int(np.prod(f.shape)) for f in session.fields.values()
    )
    largest, share = max(largest, took), max(share, took / (declared + 2**16))
    count['tried'] += 1
    whole = found is not None and not isinstance(found, BaseException)
    if isinstance(found, BaseException):
      count['crashes'] += 1
      print(kind, session, repr(found))
    elif found is None:
      count['refused'] += 1
    elif whole and any(_is_part(found, m) for m in sent):
      count['the message'] += 1
    elif right:
      count['another message'] += 1
    else:
      count['wrong'] += 1
      print('wrong:', kind, session, packet.hex())
  tracemalloc.stop()
  rows = [['damage', *_COUNTS]]
  rows += [[n, *(f'{v:,}' for v in c.values())] for n, c in counts.items()]
  totals = {n: sum(c[n] for c in counts.values()) for n in _COUNTS}
  rows.append(['all', *(f'{v:,}' for v in totals.values())])
  show(
    f'Damaged messages of {len(known)} sessions; the largest allocation was '
    f'{largest / 1e6:.2f} MB, at most {share:.1f} times (64 KiB + message + '
    'its arrays)',
    rows,
  )
  return totals['crashes'] + totals['wrong']


_COUNTS = (
  'tried',
  'refused',
  'the message',
  'another message',
  'wrong',
  'crashes',
)


def _is_part(found, sent):
  """Whether it is what was sent, or its first layers."""
  return bool(found) and all(
    n in sent and v.tobytes() == sent[n].tobytes() for n, v in found.items()
  )


def disagree():
  """Counts damaged messages that the two decoders do not read alike."""
  rng, known = np.random.default_rng(3), []
  for i in range(60):
    session = drawing.session(rng, wire.CODINGS[i % 4 == 3], 1 + i % 3)
    both = [session.pack(drawing.message(rng, session)) for _ in range(2)]
    known.append((session, session.to_json(priors=True), both))
  counts = dict.fromkeys(('read alike', 'refused by both', 'apart'), 0)
  for _ in range(_DISAGREE.value):
    session, text, both = known[int(rng.integers(len(known)))]
    packet = repaired(session, mutate(rng, *both)[0])
    counts[compare(session, text, packet)] += 1
  listed = ', '.join(f'{n:,} {what}' for what, n in counts.items())
  print(f'\n{_DISAGREE.value:,} damaged messages, checks right: {listed}.')
  return counts['apart']


def compare(session, text, packet):
  """Returns how the package and the independent decoder read a message."""
  found = attempt(session, packet)
  try:
    other = independent.decode(text, packet)
  # It asserts, or stumbles; either refuses the message.
  except (AssertionError, IndexError, KeyError, ValueError, ZeroDivisionError):
    other = None
  if found is None and other is None:
    return 'refused by both'
  is_message = isinstance(found, dict)
  alike = is_message and other == drawing.plain(found)
  return 'read alike' if alike else 'apart'


def agree():
  """Decodes by another decoder, and in another process."""
  rng, held, same = np.random.default_rng(2), [], 0
  for i in range(_AGREE.value):
    coding = wire.CODINGS[i % 3 == 2]
    session = drawing.session(rng, coding, 1 + i % 3)
    message = drawing.message(rng, session)
    packet = session.pack(message)
    text = session.to_json(priors=True)
    same += independent.decode(text, packet) == drawing.plain(message)
    held.append((session, packet, message))
  print(f'\nThe independent decoder agrees on {same:,} of {len(held):,}.')
  code = (
    'import sys\nfrom tests.wire import drawing\nfrom collab_jax import wire\n'
    'for path in sys.argv[1:]:\n'
    '  saved = wire.load(path)\n'
    '  print([drawing.plain(saved.session.unpack(p)) for p in saved.packets])\n'
  )
  with tempfile.TemporaryDirectory() as folder:
    paths = [f'{folder}/{i}.cjw' for i in range(len(held))]
    for path, (session, packet, _) in zip(paths, held, strict=True):
      wire.save(path, session, [packet])
    command = [sys.executable, '-c', code, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
  want = [f'{[drawing.plain(message)]}' for *_, message in held]
  exact = sum(
    a == b for a, b in zip(done.stdout.splitlines(), want, strict=True)
  )
  print(f'Another process reads {exact:,} of {len(held):,} exactly.')
  return 2 * len(held) - same - exact


def main(argv):
  """Prints everything; fails if anything was wrong."""
  del argv
  flag_names.model(_MODEL.value)
  sizes()
  speed()
  wrong = agree() + disagree() + fuzz()
  sys.exit(f'{wrong} messages were wrong' if wrong else 0)


if __name__ == '__main__':
  app.run(main)
