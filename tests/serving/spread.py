"""Jobs of the tests of servers on several devices, in a process with eight.

python -m tests.serving.spread JOB

Prints a line of JSON.
"""

import collections
from concurrent import futures
import json
import sys

import jax
import numpy as np

from collab_jax import data, serving, sharding
from collab_jax.models import attention
from collab_jax.serving.client import client as clients
from collab_jax.serving.server import headline
from tests import standin
from tests.serving import harness

MESHES = (8, 1), (4, 2)
SCENES = 24
# Listed, with two layers, and agreed on while others' captions are made.
NAMES = harness.QUANTIZERS[2], 'kmeans(k=3)'


def serve():
  """Captions scenes on one device and on meshes.

  Returns:
    By mesh: whether captions are those of one device, the programs compiled
    while serving, the captions begun on each device, and two lines of the
    headline.
  """
  alone = standin.small()
  reader = data.scenes('test', limit=SCENES)
  images = np.stack([reader[i].image for i in range(SCENES)])
  want, *_ = _captions(alone, alone, images)
  done = {}
  for sizes in MESHES:
    mesh = sharding.make_mesh(*sizes)
    model = alone.replace(params=sharding.place(alone.params, mesh))
    captions, *rest = _captions(model, alone, images)
    done['{}x{}'.format(*sizes)] = [captions == want, *rest]
  return done


def _captions(model, alone, images):
  config = harness.make_config(quantizers=f'{NAMES[0]};any')
  with serving.Server(model, config) as server:
    engine, begun = server._engine, collections.Counter()
    choose = engine._choose_slots

    def counted(count):
      slots = choose(count)
      begun.update(slot // config.engine.max_slots for slot in slots)
      return slots

    engine._choose_slots = counted

    def caption(name):
      codec = harness.codec_of(alone)(name)
      with clients.EdgeClient(server.address, codec) as client:
        return [result.caption for result in client.caption(images)]

    with futures.ThreadPoolExecutor(len(NAMES)) as pool:
      captions = list(pool.map(caption, NAMES))
    compiled = server.metrics.value('compilations_total', when='serving')
    lines = headline.describe(server)
    return captions, compiled, begun, lines['device'], lines['memory']


def splash():
  """Compares a TPU's kernel, interpreted, within a map over devices.

  Returns:
    The largest difference from that without a mesh, where the map is over all
    axes, and where it leaves one to the compiler.
  """
  rng = np.random.default_rng(0)
  shapes = (8, 128, 4, 16), (8, 2, 16, 128), (8, 2, 128, 16)
  q, k, v = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
  mask = (np.arange(128) % np.arange(2, 10)[:, None] > 0)[:, None]

  def attend(q, k, v, mask):
    return attention.grouped(q, k, v, mask, 5.0, 'splash')

  want, differences = jax.jit(attend)(q, k, v, mask), []
  for sizes, names in (((8, 1), {'data', 'model'}), ((4, 2), {'data'})):
    rows = jax.sharding.PartitionSpec('data')
    spread = jax.shard_map(
      attend,
      mesh=sharding.make_mesh(*sizes),
      in_specs=(rows,) * 4,
      out_specs=rows,
      axis_names=names,
      check_vma=False,
    )
    got = jax.jit(spread)(q, k, v, mask)
    differences.append(float(np.abs(got - want).max()))
  return differences


if __name__ == '__main__':
  print(json.dumps({'serve': serve, 'splash': splash}[sys.argv[1]]()))
