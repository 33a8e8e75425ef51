"""Jobs of the sharding tests, in a process with eight devices.

python -m tests.sharded JOB [ARGUMENT ...]

Prints a line of JSON.
"""

import json
from pathlib import Path
import sys

import jax
import numpy as np

from benchmarks import sharding as bench
from collab_jax import (
  captioner,
  checkpoints,
  codecs,
  data,
  evaluation,
  quantizers,
  sharding,
)
from collab_jax.checkpoints import checksums, trees
from collab_jax.models import attention, zoo
from collab_jax.training import finetune
from configs import finetune as finetune_config
from tests import colours

# Every model, and both ways to use eight devices; `compile` has 28B's other.
LOWERED = (
  ('paligemma-3b', 1, 8),
  ('paligemma2-3b', 2, 4),
  ('paligemma2-10b', 1, 8),
  ('paligemma2-28b', 2, 4),
)
# The records are made on others.
PIECES = ((2, 4),)
QUANTIZERS = (
  quantizers.KMeans(k=4, init='++'),
  quantizers.Random(k=4, rebuild='nearest'),
  quantizers.Random(k=4, rebuild='close'),
)


def lower():
  """Lowers all models; returns what was lowered, and for how many devices."""
  done = {}
  for decoder, *sizes in LOWERED:
    mesh = sharding.make_mesh(*sizes)
    model = bench.abstract_model(zoo.config(decoder, 224), mesh)
    for name, program in bench.lower(model, mesh, 8, 20):
      text = program.as_text()
      done[f'{decoder} {sizes} {name}'] = [
        'mhlo.num_partitions = 8' in text,
        text.count('"model"'),
        program.out_info.shape,
      ]
  return done


def compile():
  """Compiles two layers of PaliGemma 2 28B; returns what they exchange."""
  mesh = sharding.make_mesh(1, 8)
  config = bench.shallow(zoo.config('paligemma2-28b', 224), 2)
  model = bench.abstract_model(config, mesh)
  done = {}
  for name, program in bench.lower(model, mesh, 8, 20):
    compiled = program.compile()
    text = compiled.as_text()
    done[name] = {
      'collectives': bench.collectives(compiled),
      'arguments': compiled.memory_analysis().argument_size_in_bytes,
      # Keys of 2 of 16 heads.
      'cache': 'bf16[8,2,128,281]' in text and '[8,16,128,281]' not in text,
    }
  return done


def pieces(folder):
  """Checks loading, checksums, quantizers and odd batches on each mesh."""
  for model, said in ((1, '8 devices: mesh 8 x 1'), (3, '6 of 8 devices')):
    mesh = sharding.make_mesh(data=-1, model=model)
    assert said in sharding.describe(mesh)
  alone = checkpoints.load(folder)
  reader = data.scenes('test', limit=8)
  images = np.stack([reader[i].image for i in range(8)])
  features = np.asarray(codecs.FeatureCodec(alone, 'identity').features(images))
  wanted = captioner.Captioner(alone, 5)(alone.project(features))
  key = jax.random.key(0)
  for sizes in PIECES:
    mesh = sharding.make_mesh(*sizes)
    model = checkpoints.load(folder, mesh=mesh)
    for name, array in trees.flatten(model.params).items():
      spec = sharding.spec(name, array.shape, mesh)
      assert array.sharding == jax.NamedSharding(mesh, spec), name
      parts = {s.data.nbytes for s in array.addressable_shards}
      assert parts == {sharding.device_bytes(array)}, name
    assert sharding.fingerprint(model.params) == sharding.fingerprint(
      alone.params
    )
    placed = sharding.place(alone.params, mesh)
    assert sharding.fingerprint(placed) == sharding.fingerprint(alone.params)
    for checksum in (checksums.sampled, checksums.whole):
      assert checksum(placed) == checksum(alone.params)
    # The same features: the same bytes, whoever quantizes them.
    for quantizer in QUANTIZERS:
      one, many = (codecs.FeatureCodec(m, quantizer) for m in (alone, model))
      want = one.encode_features(features, key)
      assert many.encode_features(features, key) == want, quantizer.name
      x, prefix = one.rebuild(want)
      got, spread = many.rebuild(want)
      np.testing.assert_array_equal(got.x, x.x)
      np.testing.assert_allclose(spread.x, prefix.x, atol=1e-5)
      if 'data' in spread.x.sharding.spec:
        rows = {s.data.shape[0] for s in spread.x.addressable_shards}
        assert rows == {8 // sizes[0]}
    # Rows that 'data' does not divide.
    codec = codecs.FeatureCodec(model, 'identity')
    write = captioner.Captioner(model, 5)
    assert write(model.project(codec.features(images))) == wanted
    assert write(model.project(codec.features(images[:3]))) == wanted[:3]
    assert write(codec.decode(codec.encode(images[:1], key))) == wanted[:1]
    # One key for all rows, and the keys that are folded from it.
    draw = captioner.Captioner(model, 5, decoding='sample')
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(8))
    prefix = model.project(codec.features(images))
    assert draw(prefix, key=key) == draw(prefix, key=keys)
  return len(PIECES)


def half(folder):
  """Compares products of bfloat16 on meshes with those of one device.

  Returns the error of features, in roundings, for `data` and for `model`.
  """
  alone = checkpoints.load(folder, compute_dtype='bfloat16')
  reader = data.scenes('test', limit=8)
  images = np.stack([reader[i].image for i in range(8)])

  def features(model, images):
    codec = codecs.FeatureCodec(model, 'identity')
    x = codec.features(images)
    return np.asarray(x), captioner.Captioner(model, 5)(model.project(x))

  rows = [features(alone, images[i : i + 1]) for i in range(8)]
  want = np.concatenate([x for x, _ in rows])
  captions = [caption for _, (caption,) in rows]
  errors = []
  for sizes in ((8, 1), (1, 8)):
    mesh = sharding.make_mesh(*sizes)
    model = checkpoints.load(folder, compute_dtype='bfloat16', mesh=mesh)
    assert model.compute_dtype == 'bfloat16'
    got, written = features(model, images)
    assert got.dtype == np.float32
    # With parts of sums on each device, a tie may be another word.
    assert written == captions or sizes == (1, 8)
    error = np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2))
    errors.append(float(error) * 2**9)
  return errors


def overlapped(folder):
  """Evaluates on one device and on a mesh; returns the records of each."""
  reader, done = data.scenes('test', limit=12), []
  for mesh in (None, sharding.make_mesh(4, 2)):
    model = checkpoints.load(folder, mesh=mesh)
    codec = codecs.FeatureCodec(model, QUANTIZERS[0])
    own = colours.Colours(model, 4)
    records = evaluation.evaluate(
      [
        codec,
        own,
        codecs.ImageCodec(model, 'jpeg', 30),
        codecs.Link(codec, 'erasure(p=0.6)', 'rows(failure=0.2)'),
        codecs.Link(own, 'erasure(p=0.5)'),
      ],
      captioner=captioner.Captioner(model, 5),
      data=reader,
      seeds=(0, 1),
      batch_size=4,
      blind=('mean', 'shuffled'),
      progress=False,
    )
    for record in records:
      del record['seconds'], record['distortion']  # The latter by rounding.
    done.append(records)
  return [done[0] == done[1], len(done[0])]


def splash():
  """Compares a TPU's kernel, interpreted, on a mesh with blocks without one.

  Returns:
    The largest difference of the averages and of their gradients, of queries
    that share two key heads, one for each part of the mesh, and of those that
    share one.
  """
  mesh = sharding.make_mesh(4, 2)
  rows = jax.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
  rng = np.random.default_rng(0)

  def gradients(implementation):
    def loss(q, k, v, mask):
      out = attention.grouped(q, k, v, mask, 5.0, implementation)
      return jax.numpy.sin(out).sum(), out

    return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))

  difference = 0.0
  for kv_heads in (2, 1):
    shapes = (4, 640, 4, 16), (4, kv_heads, 16, 640), (4, kv_heads, 640, 16)
    q, k, v = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    mask = np.arange(640) % np.array([[5], [6], [7], [8]]) > 0
    arrays = q, k, v, mask[:, None]
    want = gradients('blocks')(*arrays)
    got = gradients('splash')(*(jax.device_put(x, rows) for x in arrays))
    for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
      difference = max(difference, float(np.abs(np.asarray(a) - b).max()))
  return difference


def on_pictures(config, model, dataset, **changes):
  """Returns a fine-tuning's config for a model's folder and a COCO folder."""
  config.model, config.name = str(model), 'tuned'
  config.data, config.data_dir = 'coco', str(dataset)
  config.data_split, config.eval_split = 'train2014', 'val2014'
  config.quantizers, config.full = ('merge(k=4)',), 0.5
  config.weights.label = config.weights.commit = config.weights.rate = 0.0
  config.encoder, config.remat = False, True
  config.batch_size, config.steps, config.warmup_steps = 8, 4, 1
  config.save_every, config.eval_every, config.eval_scenes = 4, 4, 2
  config.update(changes)
  return config


def tune(model, dataset, folder):
  """Trains on pictures, on one device and on meshes of eight.

  Returns:
    By what trains, the losses of each step, in a list for each.
  """
  losses = {}
  for train in ('lora', 'all'):
    runs = []
    for sizes in ((1, 1), (8, 1), (4, 2)):
      config = finetune_config.get_config('mode=smoke')
      config = on_pictures(config, model, dataset, train=train, log_every=1)
      config.full, config.eval_codecs = 0.0, ()
      mesh = sharding.make_mesh(*sizes)
      start = checkpoints.load(model, layout='stacked', mesh=mesh)
      workdir = Path(folder, train, '{}x{}'.format(*sizes))
      finetune.finetune(config, start, workdir)
      lines = (workdir / 'metrics.jsonl').read_text().splitlines()
      entries = [json.loads(line) for line in lines]
      # The last entry, of the evaluation, has no losses.
      runs.append([e['caption'] for e in entries if 'caption' in e])
    losses[train] = runs
  return losses


if __name__ == '__main__':
  jobs = (lower, compile, pieces, half, overlapped, splash, tune)
  job = {job.__name__: job for job in jobs}
  print(json.dumps(job[sys.argv[1]](*sys.argv[2:])))
