"""Processes that run one model together, one on each host.

  with distributed.together('10.0.0.1:1234,0/2'):
    study.run('runs/tradeoff/records.jsonl')

Every process runs the same programs in the same order, each on the devices of
its host; process 0 alone writes files. What decides about programs and is known
to one process is broadcast. Words travel through the key-value store of
`jax.distributed`, beside the devices, so that no program waits for them.
"""

from collections.abc import Iterator, Mapping
import contextlib
import json
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from typing import Any
import zlib

import jax

# Its public module does not give the key-value store away, which Orbax takes
# from here, too.
from jax._src import distributed as jax_distributed

from collab_jax import _validate

AUTO = 'auto'

# Seconds without a heartbeat after which a process counts as dead: threads of
# XLA send them, also while Python compiles or reads.
HEARTBEAT_SECONDS = 30
# Seconds that processes wait for each other at the start.
START_SECONDS = 300

_EXPLICIT = re.compile(r'(\S+:\d{1,5}),(\d{1,6})/(\d{1,6})')
_EXPECTED = "'auto', or as in 'host:port,i/n' with 0 <= i < n"
# A process waits for another's words as long as that one lives.
_FOREVER_MS = 10**9
_CHUNK = 1 << 20  # Bytes of a value in the store; gRPC refuses over four MB.
_END = 'collab_jax/end'
# Seconds in which the others read why a process ends, before it does.
_FAREWELL = 1.0
# Words in errors of collectives whose other end has gone.
_LOST = ('gloo', 'nccl', 'connection', 'socket', 'unavailable', 'heartbeat')

_lock = threading.Lock()
_counts: dict[str, int] = {}


def parse(text: str) -> tuple[str, int, int] | None:
  """Reads the address of process 0, and which process of how many this is.

  Args:
    text: 'host:port,i/n', or 'auto'.

  Returns:
    Address, i and n; None for 'auto'.

  Raises:
    ValueError: It is neither.
  """
  if text == AUTO:
    return None
  match = _EXPLICIT.fullmatch(text)
  if match is None or int(match[2]) >= int(match[3]):
    raise _validate.error('distributed', text, _EXPECTED)
  return match[1], int(match[2]), int(match[3])


def initialize(text: str) -> None:
  """Joins the other processes; before any device is used.

  Args:
    text: 'auto' on SLURM, Cloud TPU, GKE and MPI, which JAX detects; elsewhere
      'host:port,i/n': an address of process 0 that all reach, and which process
      of how many this is.

  Raises:
    ValueError: The text is neither, or there is nothing that JAX detects.
    OSError: The others cannot be reached.
  """
  explicit = parse(text)
  settings: dict[str, Any] = {}
  if explicit is not None:
    address, index, number = explicit
    settings = {
      'coordinator_address': address,
      'process_id': index,
      'num_processes': number,
    }
  # Of CPUs alone: programs that exchange numbers run one after the other, else
  # those of two processes wait for each other.
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.config.update('jax_cpu_enable_async_dispatch', False)
  try:
    jax.distributed.initialize(
      **settings,
      heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
      initialization_timeout=START_SECONDS,
    )
  except ValueError as error:
    raise ValueError(
      f'distributed: got {text!r}, expected a cluster that JAX detects (SLURM,'
      f' Cloud TPU, GKE, MPI), but {error}; name the processes, as in'
      " 'host:port,i/n'"
    ) from error
  except RuntimeError as error:
    first = (str(error).splitlines() or [''])[0]
    raise OSError(
      f'distributed: the other processes are not reached ({first}); start all'
      f' within {START_SECONDS} s, with an address of process 0 that all reach'
    ) from error
  # XLA takes the signal for a notice of preemption, after which it goes on.
  if threading.current_thread() is threading.main_thread():
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def number() -> int:
  """Returns the number of processes; 1 unless `initialize` was called."""
  return jax_distributed.global_state.num_processes or 1


def index() -> int:
  """Returns which process this is."""
  return jax_distributed.global_state.process_id or 0


def part() -> tuple[int, int]:
  """Returns which of how many processes this is."""
  return index(), number()


def is_first() -> bool:
  """Whether this process is the one that writes files."""
  return index() == 0


def broadcast(value: Any = None) -> Any:
  """Returns the value of process 0 in every process.

  All processes call it, in one order, from one thread.

  Args:
    value: Plain values, as JSON has them; what the others give is ignored.
  """
  if number() == 1:
    return value
  key = _next_key('broadcast')
  if is_first():
    put(key, value)
    return json.loads(json.dumps(value))
  return get(key)


def gather(value: Any) -> list[Any]:
  """Returns the values of all processes, in their order, in every process.

  All processes call it, in one order, from one thread.

  Args:
    value: Plain values, as JSON has them.
  """
  if number() == 1:
    return [value]
  key = _next_key('gather')
  put(f'{key}/{index()}', value)
  return [get(f'{key}/{i}') for i in range(number())]


def collect(values: list[Any]) -> list[Any]:
  """Returns the lists of all processes joined, in process 0; else nothing.

  All processes call it, in one order, from one thread; only process 0 waits.

  Args:
    values: Plain values, as JSON has them.
  """
  if number() == 1:
    return values
  key = _next_key('collect')
  if not is_first():
    put(f'{key}/{index()}', values)
    return []
  # As the others' come: without tuples.
  joined = json.loads(json.dumps(values))
  for i in range(1, number()):
    joined += get(f'{key}/{i}')
    delete(f'{key}/{i}')
  return joined


def wait() -> None:
  """Waits until all processes have come here."""
  gather(None)


def first_does(work: Any, *arguments: Any) -> Any:
  """Lets process 0 do some work while the others wait.

  Args:
    work: A function that runs no program on devices of other processes.
    *arguments: Its arguments.

  Returns:
    What it returns, plain values, in every process.
  """
  return broadcast(work(*arguments) if is_first() else None)


def put(key: str, value: Any) -> None:
  """Hands plain values over; the key must be new."""
  put_bytes(key, zlib.compress(json.dumps(value).encode(), 1))


def put_bytes(key: str, data: bytes) -> None:
  """Hands bytes over; the key must be new."""
  count = max(1, -(-len(data) // _CHUNK))
  client = _client()
  for i in range(count):
    part = data[i * _CHUNK : (i + 1) * _CHUNK]
    client.key_value_set_bytes(f'{key}/{i}', count.to_bytes(4, 'big') + part)


def get(key: str) -> Any:
  """Waits for plain values that another process hands over."""
  return json.loads(zlib.decompress(get_bytes(key)))


def get_bytes(key: str) -> bytes:
  """Waits for bytes that another process hands over."""
  client, data, count, i = _client(), [], 1, 0
  while i < count:
    chunk = client.blocking_key_value_get_bytes(f'{key}/{i}', _FOREVER_MS)
    count = int.from_bytes(chunk[:4], 'big')
    data.append(chunk[4:])
    i += 1
  return b''.join(data)


def delete(key: str) -> None:
  """Frees what was handed over, once nobody asks for it any more."""
  _client().key_value_delete(key)


def _next_key(kind: str) -> str:
  """Returns a key that is the same in all processes."""
  with _lock:
    _counts[kind] = count = _counts.get(kind, 0) + 1
  return f'collab_jax/{kind}/{count}'


def _client() -> Any:
  return jax_distributed.global_state.client


def check_equal(values: Mapping[str, Any]) -> None:
  """Refuses processes that were started with other settings.

  Args:
    values: Plain values by name, to be the same in all processes.

  Raises:
    ValueError: They differ from those of process 0.
  """
  values = json.loads(json.dumps(values))
  first = broadcast(values)
  differ = [
    f'{name}: got {values.get(name)!r} in process {index()}, expected'
    f' {first.get(name)!r} as in process 0'
    for name in sorted({*values, *first})
    if values.get(name) != first.get(name)
  ]
  # So that none has begun when another finds a difference.
  if differ:
    raise ValueError(
      f'distributed: {"; ".join(differ[:3])}; start all processes with one'
      ' command and one version'
    )
  wait()


@contextlib.contextmanager
def together(text: str, values: Mapping[str, Any] | None = None) -> Iterator:
  """Runs this process with the others, which end with it.

  The others end with a message when one of them fails, is interrupted or is
  killed. Only process 0 prints to standard output, and warns.

  Args:
    text: As of `initialize`; '' for a process by itself.
    values: As of `check_equal`.

  Raises:
    ValueError: As `initialize` and `check_equal`.
    OSError: As `initialize`.
  """
  if not text:
    yield
    return
  initialize(text)
  ended = threading.Event()
  watch = threading.Thread(target=_watch, args=(ended,), daemon=True)
  watch.start()
  try:
    check_equal(values or {})
    with contextlib.ExitStack() as stack:
      if not is_first():
        nowhere = stack.enter_context(open(os.devnull, 'w', encoding='utf-8'))
        stack.enter_context(contextlib.redirect_stdout(nowhere))
        logging.disable(logging.WARNING)
      yield
      sys.stdout.flush()
    wait()
  except BaseException as error:
    _end_all(error, ended)
  ended.set()
  if is_first():
    # It is there if another process was interrupted since.
    with contextlib.suppress(RuntimeError):
      put(_END, [0, ''])
  watch.join(START_SECONDS)  # It would hold the interpreter's end up.
  jax.distributed.shutdown()


def tell_end(code: int, words: str) -> None:
  """Tells the other processes why this one is about to end, so that all do.

  Args:
    code: Exit status, of the others too.
    words: Last line of what this process says.
  """
  if number() == 1:
    return
  with contextlib.suppress(Exception):
    put(_END, [code, f'process {index()} of {number()}: {words}'])
    if is_first():  # Over which the others read it.
      time.sleep(_FAREWELL)


def _end_all(error: BaseException, ended: threading.Event) -> None:
  """Tells the others why this process ends, and ends it.

  At once: an ordinary end would wait for the others, which wait for this one.
  """
  code, words = _describe(error)
  ended.set()
  said = isinstance(error, SystemExit) and isinstance(error.code, int)
  with contextlib.suppress(Exception):
    sys.stdout.flush()
    if not said:
      print(words, file=sys.stderr, flush=True)
  tell_end(code, (words.strip().splitlines() or [''])[-1])
  os._exit(code)


def _describe(error: BaseException) -> tuple[int, str]:
  """Returns exit status and words of an error that ends a process."""
  if isinstance(error, SystemExit):
    if isinstance(error.code, int):
      # Its line was written where it was interrupted.
      ways = {130: 'interrupted', 143: 'interrupted'}
      return error.code, ways.get(error.code, f'exit {error.code}')
    return (0, 'the end') if error.code is None else (1, str(error.code))
  text = f'{error}'.lower()
  if isinstance(error, RuntimeError) and any(word in text for word in _LOST):
    first = (str(error).splitlines() or [''])[0][:200]
    return 1, (
      f'error: distributed: the connection to another process was lost'
      f' ({first}); its own output says why. The same command goes on'
    )
  return 1, ''.join(traceback.format_exception(error))


def _watch(ended: threading.Event) -> None:
  """Ends this process when another one says that it ends."""
  try:
    code, words = get(_END)
  except Exception:
    if ended.wait(_FAREWELL):
      return
    code, words = (
      1,
      (
        'error: distributed: process 0, over which all of them talk, has gone;'
        ' its own output says why. The same command goes on'
      ),
    )
  if words and not ended.is_set():
    sys.stderr.write(f'{words}\n')
    sys.stderr.flush()
    if is_first():  # XLA aborts those that are there without it.
      time.sleep(_FAREWELL)
    os._exit(code)
