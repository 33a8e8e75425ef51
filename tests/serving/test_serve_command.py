"""`collab-jax serve`, started and stopped as a process."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import urllib.request

import grpc
import pytest

from tests import launching, standin
from tests.serving import harness

SERVE = '-m', 'collab_jax', 'serve'


@pytest.fixture
def process():
  """Server in a process of its own."""
  flags = {
    'model': standin.folder(),
    'port': 0,
    'metrics_port': 0,
    'quantizers': 'kmeans(k=4)',
    'rows': 1,
    'batch': 1,
    'max_tokens': 8,
    'max_prompt': 16,
  }
  started = subprocess.Popen(
    [sys.executable, *SERVE, *(f'--{n}={v}' for n, v in flags.items())],
    cwd=launching.ROOT,
    env={**os.environ, 'PYTHONPATH': str(launching.ROOT)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  yield started
  started.kill()
  started.wait()
  started.stderr.close()


def test_serves_until_sigterm(process, made):
  listening = re.fullmatch(r'listening on (.*)\n', process.stdout.readline())
  metrics = re.fullmatch(r'metrics on (.*)\n', process.stdout.readline())
  assert listening
  assert metrics
  assert process.stdout.readline() == 'serving\n'
  codec, packets = made['kmeans']
  caller = harness.Caller(listening[1])
  caller.handshake(codec)
  assert caller.caption(codec, packets[0]).tokens > 0
  with urllib.request.urlopen(metrics[1]) as page:
    text = page.read().decode()
  ok = 'collab_jax_requests_total{code="OK",method="Caption"} 1.0'
  assert ok in text
  counted = dict(re.findall(r'compilations_total{when="(.*)"} (.*)', text))
  assert float(counted['serving']) == 0
  assert float(counted['warm-up']) > 5
  process.send_signal(signal.SIGTERM)
  out, err = process.communicate(timeout=20)
  assert process.returncode == 0, err
  assert out == 'stopped\n'
  names = [line.split()[0] for line in err.splitlines()]
  at = names.index('version')
  assert names[at : at + 5] == [
    'version',
    'model',
    'device',
    'memory',
    'quantizers',
  ]
  assert 'SIGTERM: stopping' in err
  assert 'Traceback' not in err


def test_serves_though_nobody_reads_its_output(process, made):
  listening = re.fullmatch(r'listening on (.*)\n', process.stdout.readline())
  process.stdout.close()
  assert listening
  codec, packets = made['kmeans']
  caller = harness.Caller(listening[1])

  def ready():
    with contextlib.suppress(grpc.RpcError):
      return caller.handshake(codec)

  harness.until(ready, 60)
  assert caller.caption(codec, packets[0]).tokens > 0
  process.send_signal(signal.SIGTERM)
  err = process.stderr.read()
  assert process.wait(timeout=20) == 0, err
  assert err.count('standard output: Broken pipe') == 1
  assert 'Traceback' not in err


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (('--host=0.0.0.0',), 'host: 0.0.0.0 is open to the network'),
    (('--quantizers=kmeens(k=4)',), "did you mean 'kmeans'?"),
    (('--images=jpg',), "did you mean 'jpeg'?"),
    (('--images=webp(quality=400)',), 'quality of webp: got 400'),
    (('--port=70000',), 'port: got 70000, expected an integer from 0 to 65535'),
    (('--queue=0',), 'queue: got 0, expected an integer of at least 1'),
    (
      ('--group_ms=nan',),
      'group_ms: got nan, expected a number from 0 to 10000',
    ),
    (('--prompt=' + 'a ' * 80,), 'expected at most 64; raise max_prompt'),
    (('--tls_cert=a.pem',), 'tls_cert, tls_key: got'),
    (('--adapter=lora',), "adapter: got 'lora' for"),
    (('--model=nothing',), "model: got 'nothing', expected one of"),
  ],
)
def test_errors_are_short(flags, said):
  model = () if '--model' in flags[0] else (f'--model={standin.folder()}',)
  done = launching.run(*SERVE, *model, *flags)
  assert done.returncode == 1
  assert said in done.stderr
  assert done.stderr.startswith('error: ')
  assert len(done.stderr.splitlines()) < 5


def test_experiment_script_has_the_same_flags():
  done = launching.run('experiments/serve.py', '--help')
  assert '--quantizers' in done.stdout


@pytest.mark.parametrize(
  'flag', ['--replicas=2', '--address=auto', '--replica_resources=CPU=2']
)
def test_flags_of_replicas_need_their_engine(flag):
  done = subprocess.run(
    [sys.executable, *SERVE, flag],
    cwd=launching.ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 1
  assert done.stderr.startswith(f'error: {flag[2:].partition("=")[0]}: got ')
  assert 'say --engine=ray' in done.stderr
