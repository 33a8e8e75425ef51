"""Prometheus metrics of a server; docs/serving.md lists them."""

from collections.abc import Callable, Mapping
import threading
from typing import Any

import jax
import prometheus_client as prometheus

from collab_jax import __version__, provenance
from collab_jax.models import paligemma

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_COUNTS = (1, 2, 4, 8, 16, 32, 64)
# Whole requests may wait for a full queue, or a compilation.
_LONG_SECONDS = (*_SECONDS, 20, 30, 60)
_LENGTHS = (0, *_COUNTS, 128, 256, 512)
_PREFIX = 'collab_jax'
# Limits that end a call or a connection.
REASONS = 'calls', 'bodies', 'late', 'watches', 'connections'

# Readers of the metrics at a time, and seconds for the request of each.
_READERS = 8
_READER_SECONDS = 5.0


def bound_readers(web: Any) -> None:
  """Bounds the connections of a metrics server in number and time.

  By itself Prometheus' client gives each connection a thread, for ever.

  Args:
    web: The server that `prometheus_client.start_http_server` returns.
  """
  places = threading.BoundedSemaphore(_READERS)
  begin, work = web.process_request, web.process_request_thread

  def process_request(request, address):
    if not places.acquire(blocking=False):
      web.shutdown_request(request)
      return
    request.settimeout(_READER_SECONDS)
    begin(request, address)

  def process_request_thread(request, address):
    try:
      work(request, address)
    finally:
      places.release()

  # A reader that has gone is no news for the log.
  web.handle_error = lambda request, address: None
  web.process_request = process_request
  web.process_request_thread = process_request_thread


def add_probes(web: Any, ready: Callable[[], bool]) -> None:
  """Answers probes beside the metrics: /live, and /ready.

  Args:
    web: The server that `prometheus_client.start_http_server` returns.
    ready: Whether requests are taken.
  """
  metrics = web.get_app()

  def answer(environ, start_response):
    path = environ.get('PATH_INFO', '')
    if path not in ('/live', '/ready'):
      return metrics(environ, start_response)
    is_well = path == '/live' or ready()
    status = '200 OK' if is_well else '503 Service Unavailable'
    start_response(status, [('Content-Type', 'text/plain; charset=utf-8')])
    return [b'ok\n' if is_well else b'not serving\n']

  web.set_app(answer)


class Metrics:
  """Metrics of one server.

  Attributes:
    registry: Registry of Prometheus' client.
  """

  def __init__(self):
    """Makes the metrics, all zero."""
    self.registry = prometheus.CollectorRegistry()
    settings = {'namespace': _PREFIX, 'registry': self.registry}
    self._requests = prometheus.Counter(
      'requests',
      'Answers, by method and status.',
      ['method', 'code'],
      **settings,
    )
    self._rejections = prometheus.Counter(
      'rejections',
      'Calls and connections ended by a limit.',
      ['reason'],
      **settings,
    )
    for reason in REASONS:
      self._rejections.labels(reason)
    self._calls = prometheus.Gauge('calls', 'Calls being answered.', **settings)
    self._watches = prometheus.Gauge(
      'watches', 'Streams of the health service.', **settings
    )
    self._bytes = prometheus.Counter(
      'received_bytes', 'Bytes of messages.', **settings
    )
    self._tokens = prometheus.Counter(
      'tokens', 'Tokens of captions that were sent.', **settings
    )
    self._compilations = prometheus.Counter(
      'compilations',
      'Programs compiled, ahead (warm-up) or while captions wait (serving).',
      ['when'],
      **settings,
    )
    for when in ('warm-up', 'serving'):
      self._compilations.labels(when)
    self._stages = prometheus.Histogram(
      'stage_seconds',
      'Time of a request in each stage.',
      ['stage'],
      buckets=_SECONDS,
      **settings,
    )
    self._seconds = prometheus.Histogram(
      'request_seconds',
      'Time of a call that was answered, from its message to its reply.',
      ['method'],
      buckets=_LONG_SECONDS,
      **settings,
    )
    self._waiting = prometheus.Histogram(
      'queue_length',
      'Requests that waited when another one came.',
      buckets=_LENGTHS,
      **settings,
    )
    self._programs = prometheus.Histogram(
      'program_seconds',
      'Time of each prefill, and of each round of decode steps.',
      ['program'],
      buckets=_SECONDS,
      **settings,
    )
    for program in ('prefill', 'decode'):
      self._programs.labels(program)
    self._build = prometheus.Info(
      'build', 'Versions, device and model.', **settings
    )
    self._batch = prometheus.Histogram(
      'batch', 'Captions that were begun together.', buckets=_COUNTS, **settings
    )
    self._rows = prometheus.Gauge('rows', 'Captions being decoded.', **settings)
    self._queue = prometheus.Gauge('queue', 'Requests that wait.', **settings)
    self._sessions = prometheus.Gauge(
      'sessions', 'Codecs that the server has agreed on.', **settings
    )
    self._pictures = prometheus.Gauge(
      'pictures', 'Pictures kept for more questions.', **settings
    )
    self._picture_bytes = prometheus.Gauge(
      'picture_bytes', 'Bytes of these pictures.', **settings
    )
    self._asked = prometheus.Counter(
      'asked_pictures',
      'Questions about pictures to keep: with a message (new), or without.',
      ['picture'],
      **settings,
    )
    for picture in ('new', 'known'):
      self._asked.labels(picture)
    self._serving = prometheus.Gauge(
      'serving', 'Whether requests are taken: 1 or 0.', **settings
    )

  def count_answer(self, method: str, code: str) -> None:
    """Counts an answer, an error being one."""
    self._requests.labels(method, code).inc()

  def observe_request(self, method: str, seconds: float) -> None:
    """Counts the time of a call that was answered without an error."""
    self._seconds.labels(method).observe(seconds)

  def observe_queue(self, length: int) -> None:
    """Counts the requests that wait when another one comes."""
    self._waiting.observe(length)

  def observe_program(self, program: str, seconds: float) -> None:
    """Counts the time of a prefill, or of a round of decode steps."""
    self._programs.labels(program).observe(seconds)

  def set_build(self, model: paligemma.Model) -> None:
    """Sets versions, device and model."""
    device = min(jax.tree.leaves(model.params)[0].devices(), key=lambda d: d.id)
    self._build.info(
      {
        'version': __version__,
        'jax': jax.__version__,
        'device': provenance.device_text(device),
        'model': model.config.name,
      }
    )

  def count_rejection(self, reason: str, count: int = 1) -> None:
    """Counts calls or connections that a limit has ended.

    Args:
      reason: One of `REASONS`.
      count: Number of them.
    """
    self._rejections.labels(reason).inc(count)

  def count_received(self, count: int) -> None:
    """Counts bytes of a message."""
    self._bytes.inc(count)

  def count_caption(
    self, milliseconds: Mapping[str, float], tokens: int
  ) -> None:
    """Counts a caption and the times of its stages."""
    self._tokens.inc(tokens)
    for stage, spent in milliseconds.items():
      self._stages.labels(stage).observe(spent / 1000)

  def count_compilation(self, warming_up: bool) -> None:
    """Counts a program."""
    self._compilations.labels('warm-up' if warming_up else 'serving').inc()

  def observe_batch(self, count: int) -> None:
    """Counts the captions of a prefill."""
    self._batch.observe(count)

  def set_active(self, count: int) -> None:
    """Sets the number of captions being decoded."""
    self._rows.set(count)

  def set_serving(self, serving: bool) -> None:
    """Sets whether requests are taken."""
    self._serving.set(serving)

  def watch(
    self, queue: Callable[[], int], sessions: Callable[[], int]
  ) -> None:
    """Binds functions that return the lengths."""
    self._queue.set_function(queue)
    self._sessions.set_function(sessions)

  def watch_pictures(
    self, pictures: Callable[[], int], size: Callable[[], int]
  ) -> None:
    """Binds functions that return number and bytes of the kept pictures."""
    self._pictures.set_function(pictures)
    self._picture_bytes.set_function(size)

  def count_picture(self, known: bool) -> None:
    """Counts a question about a picture that is kept."""
    self._asked.labels('known' if known else 'new').inc()

  def watch_calls(
    self, calls: Callable[[], int], watches: Callable[[], int]
  ) -> None:
    """Binds functions that return the numbers of calls and health streams."""
    self._calls.set_function(calls)
    self._watches.set_function(watches)

  def value(self, name: str, **labels: str) -> float:
    """Returns a value by its full name; 0 if nothing was counted yet."""
    return self.registry.get_sample_value(f'{_PREFIX}_{name}', labels) or 0.0
