"""Settings of replicas, their statuses and metrics: all without Ray."""

import asyncio
import enum
import importlib.util
import socket
import types

import grpc
import prometheus_client as prometheus
import pytest

from collab_jax import serving
from collab_jax.serving.replicas import ingress, merged_metrics, run

CODES = grpc.StatusCode


def _arguments(**settings):
  return serving.ServerArguments(serving.ServerConfig(**settings), 'tiny')


@pytest.fixture
def ray(monkeypatch):
  """Lets Ray seem to be installed."""
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util, 'find_spec', lambda n: n if n == 'ray' else find(n)
  )


@pytest.mark.parametrize(
  ('settings', 'said'),
  [
    ({'replicas': 0}, 'replicas: got 0'),
    ({'resources': 'CPU'}, "replica_resources: got 'CPU', expected amounts"),
    ({'resources': 'CPU=-1'}, 'replica_resources'),
    ({'resources': '=1'}, 'replica_resources'),
    ({'resources': 'CPU=inf'}, 'replica_resources'),
  ],
)
def test_settings_are_checked(settings, said):
  with pytest.raises(ValueError, match=said):
    serving.ReplicaConfig(**settings)


def test_resources_are_read():
  config = serving.ReplicaConfig(2, resources='CPU=4, GPU=0.5,TPU=4')
  assert config.amounts() == {'CPU': 4, 'GPU': 0.5, 'TPU': 4}


def test_the_extra_is_named(monkeypatch):
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util, 'find_spec', lambda n: None if n == 'ray' else find(n)
  )
  with pytest.raises(ImportError, match=r"pip install 'collab_jax\[ray"):
    run.check(_arguments())


def test_an_ingress_without_tls_is_said(ray, tmp_path):
  cert = serving.Security(cert='server.pem', key='server.key')
  with pytest.raises(ValueError, match='no TLS'):
    run.check(_arguments(security=cert))
  with pytest.raises(ValueError, match='log_requests'):
    run.check(_arguments(log_requests='-'))
  consent = serving.Security(insecure=True)
  with pytest.raises(ValueError, match=r'host: got .192.0.2.1'):
    run.check(_arguments(host='192.0.2.1', security=consent))
  run.check(_arguments(host='0.0.0.0', security=consent))
  run.check(_arguments())
  # Without consent, settings are refused as everywhere.
  with pytest.raises(ValueError, match='open to the network'):
    _arguments(host='0.0.0.0')


def test_a_port_in_use_is_said(ray):
  with socket.socket() as taken:
    taken.bind(('127.0.0.1', 0))
    taken.listen()
    port = taken.getsockname()[1]
    with pytest.raises(OSError, match=f'port: got {port}, expected one'):
      run.serve_replicas(_arguments(port=port), serving.ReplicaConfig())


class Kind(enum.Enum):
  """Kinds of methods, as Ray has them."""

  UNARY = 'unary_unary'
  STREAM = 'unary_stream'


class Context:
  """Status of a call."""

  def __init__(self, code=0, details=''):
    self._code, self._details = code, details

  def code(self):
    return self._code

  def details(self):
    return self._details

  def set_code(self, code):
    self._code = code

  def set_details(self, details):
    self._details = details


DIED = 'The actor died unexpectedly before finishing this task.\n\tclass_name'


@pytest.mark.parametrize(
  ('code', 'text', 'expected'),
  [
    (CODES.INTERNAL, DIED, CODES.UNAVAILABLE),
    (CODES.INTERNAL, '', CODES.UNAVAILABLE),
    (CODES.NOT_FOUND, 'Application metadata not set.', CODES.UNAVAILABLE),
    (CODES.INTERNAL, 'the server failed; its log says why', CODES.INTERNAL),
    (CODES.INVALID_ARGUMENT, 'message: got', CODES.INVALID_ARGUMENT),
    (CODES.NOT_FOUND, '', CODES.NOT_FOUND),  # Of a probe.
    (CODES.OK, '', CODES.OK),
  ],
)
@pytest.mark.parametrize('kind', Kind)
def test_statuses_of_replicas_that_died_are_transient(
  code, text, expected, kind
):
  """Ray's own statuses would end an edge's tries."""
  registered = []

  class Server:
    """Ray's gRPC server, which overrides all handlers."""

    def service_handler_factory(self, service_method, streaming_type):
      async def answer(request, context):
        context.set_code(code)
        context.set_details(text)
        return b'reply'

      async def stream(request, context):
        yield b'reply'
        context.set_code(code)
        context.set_details(text)

      return stream if streaming_type is Kind.STREAM else answer

    def add_generic_rpc_handlers(self, handlers):
      registered.append(
        self.service_handler_factory(service_method='/a/b', streaming_type=kind)
      )

    def add_registered_method_handlers(self, name, handlers):
      registered.append(name)

  async def call(behaviour, context):
    if kind is Kind.STREAM:
      return [reply async for reply in behaviour(b'', context)]
    return [await behaviour(b'', context)]

  ingress.add_services(object.__new__(type('Any', (), _Anything)), Server())
  behaviour = next(b for b in registered if callable(b))
  context = Context()
  assert asyncio.run(call(behaviour, context)) == [b'reply']
  assert context.code() is expected
  assert '\n' not in context.details()


# Ray's stand-in for a servicer has every method.
_Anything = {'__getattr__': lambda self, name: None}


def _page(value):
  registry = prometheus.CollectorRegistry()
  counter = prometheus.Counter('a', 'Help.', ['code'], registry=registry)
  counter.labels('OK').inc(value)
  histogram = prometheus.Histogram('b', 'Help.', buckets=[1], registry=registry)
  histogram.observe(value)
  return prometheus.generate_latest(registry).decode()


def test_metrics_of_replicas_are_on_one_page():
  merged = merged_metrics.merge({'one': _page(1), 'two': _page(2)})
  assert 'a_total{code="OK",replica="one"} 1.0' in merged
  assert 'a_total{code="OK",replica="two"} 2.0' in merged
  assert 'b_bucket{le="1.0",replica="two"} 0.0' in merged
  assert merged.count('# TYPE a_total counter') == 1
  assert merged.count('# TYPE b histogram') == 1


def test_metrics_of_a_replica_that_has_gone_are_left_out():
  pages = merged_metrics.MetricsPages(seconds=0.0)
  pages.put('one', _page(1))
  assert 'replica' not in pages.merged()
  pages = merged_metrics.MetricsPages()
  pages.put('one', _page(1))
  pages.put('one', _page(3))
  assert 'a_total{code="OK",replica="one"} 3.0' in pages.merged()


def test_the_error_of_a_replica_is_said(monkeypatch):
  def refuse(*_, **__):
    raise RuntimeError("Failed to update the deployments ['Captioner'].")

  failed = {
    'Metrics': types.SimpleNamespace(message=''),
    'Captioner': types.SimpleNamespace(
      message="Traceback:\n  load()\nValueError: model: got 'nope'\n"
    ),
  }
  applications = {run.NAME: types.SimpleNamespace(deployments=failed)}
  replicas = run._ReplicaSet(_arguments(), run.ReplicaConfig())
  replicas._serve = types.SimpleNamespace(
    run=refuse, status=lambda: types.SimpleNamespace(applications=applications)
  )
  replicas._logging = None
  monkeypatch.setattr(run, 'make_application', lambda *_: None)
  with pytest.raises(OSError, match=r"replicas: got none .*model: got 'nope'$"):
    replicas.deploy()
  applications.clear()
  with pytest.raises(OSError, match='Failed to update'):
    replicas.deploy()
