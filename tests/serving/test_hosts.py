"""Server whose model lies on devices of two processes."""

import os
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from collab_jax import captioner, checkpoints, codecs, data, serving

FLAGS = (
  *('--port=0', '--metrics_port=-1', '--quantizers=kmeans(k=4)'),
  *('--rows=2', '--batch=2', '--steps=2', '--max_tokens=8', '--max_prompt=16'),
)


def start(*flags):
  """Starts two processes of a server."""
  with socket.create_server(('127.0.0.1', 0)) as free:
    port = free.getsockname()[1]
  command = [sys.executable, '-m', 'collab_jax', 'serve', *FLAGS, *flags]
  one = '--xla_force_host_platform_device_count=1'
  environment = {
    **os.environ,
    'XLA_FLAGS': f'{os.environ.get("XLA_FLAGS", "")} {one}',
    'NPROC': '16',
  }
  return [
    subprocess.Popen(
      [*command, f'--distributed=127.0.0.1:{port},{i}/2'],
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      env=environment,
    )
    for i in range(2)
  ]


def address_of(process):
  """Waits until a server takes requests; returns its address."""
  address, lines = '', []
  for line in process.stdout:
    lines.append(line)
    if line.startswith('listening on '):
      address = line.split()[-1]
    if line == 'serving\n':
      return address
  raise AssertionError(''.join(lines))


@pytest.fixture
def started():
  processes = start('--mesh.model=2')
  yield processes
  for process in processes:
    process.kill()


def test_captions_are_those_of_one_process_and_the_end_is_all(started):
  address = address_of(started[0])
  model = checkpoints.load('tiny')
  codec = codecs.FeatureCodec(model, 'kmeans(k=4)')
  reader = data.scenes('test', limit=5)
  images = np.stack([reader[i].image for i in range(5)])
  prefix = codec.decode(codec.encode(images, jax.random.key(0)))
  want = captioner.Captioner(model, 8)(prefix)
  with serving.EdgeClient(address, codec) as client:
    pairs = ((image, i) for i, image in enumerate(images))
    got = [result.caption for result in client.captions(pairs)]
  assert got == want
  # A shell sends it to both; process 0 drains, and the other follows it.
  for process in reversed(started):
    process.send_signal(signal.SIGTERM)
  outputs = [process.communicate(timeout=60)[0] for process in started]
  assert [process.returncode for process in started] == [0, 0], outputs
  assert outputs[0].endswith('stopped\n')
