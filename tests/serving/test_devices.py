"""Server on several devices: the captions of one."""

import json

import pytest

from collab_jax.serving.engine import engine
from tests import launching
from tests.serving import harness, spread


def child(job):
  """Runs a job of tests/serving/spread.py with eight devices."""
  done = launching.run('-m', 'tests.serving.spread', job, **launching.EIGHT)
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout.splitlines()[-1])


def test_captions_are_those_of_one_device():
  done = child('serve')
  assert list(done) == ['8x1', '4x2']
  for name, (same, compiled, begun, device, memory) in done.items():
    assert same, name
    assert compiled == 0, name
    devices = int(name.partition('x')[0])
    # All devices take captions, and none many more than another.
    assert len(begun) == devices
    assert sum(begun.values()) == spread.SCENES * len(spread.NAMES)
    assert max(begun.values()) < 3 * min(begun.values()) + 8, begun
    assert device.endswith(f'; 8 devices: mesh {name.replace("x", " x ")}')
    assert 'for 4 captions at a time on each device' in memory


def test_a_kernel_within_a_map_over_devices():
  assert max(child('splash')) < 1e-5


@pytest.mark.parametrize('devices', [1, 2, 8])
def test_sizes_of_several_devices(model, devices, monkeypatch):
  monkeypatch.setattr(
    engine.sharding, 'sizes', lambda mesh: {'data': devices, 'model': 1}
  )
  made = engine.Engine(model, harness.SIZES)
  assert made.max_slots == 4 * devices
  assert made.batches == [devices, 2 * devices]
  for count in range(1, 3 * devices):
    assert 0 < made.split(count) <= min(count, 2 * devices)


def test_captions_begin_where_most_slots_are_free(model, monkeypatch):
  monkeypatch.setattr(
    engine.sharding, 'sizes', lambda mesh: {'data': 2, 'model': 1}
  )
  made = engine.Engine(model, harness.SIZES)
  assert made.batches == [2, 4]
  made._used[:2] = [True] * 2
  assert made.room == 4
  assert made._choose_slots(4) == [4, 5, 2, 3]
  # A device takes its part of the largest batch, whatever the others have.
  made._used[2] = True
  assert made.room == 3
  assert made._choose_slots(3) == [4, 5, 3]
  assert made._choose_slots(2) == [4, 5]
  made._used[3] = True
  assert made.room == 2
  assert made._choose_slots(2) == [4, 5]
