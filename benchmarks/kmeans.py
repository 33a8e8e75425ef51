"""Time of k-means on the vectors of one image, beside other libraries.

  pip install -e .[bench]
  python benchmarks/kmeans.py --repetitions=7

Every contender clusters each of the pictures on its own, from the same random
initial centroids where it takes them (scikit-learn, faiss, torch and plain JAX
do, ott draws its own), with tolerance 0 and at most the same number of
iterations, and returns centroids and assignments. scikit-learn and ours stop
when no assignment changes any more, the others do not look; the row
'ours, no stop' shows ours made to go on. The repetitions of the contenders
take turns, so that whatever else the machine does hits all of them alike.
"""

import functools
import importlib
import importlib.util
import json
import os
import time

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import flag_names
from collab_jax.quantizers.math import lloyd

_IMAGES = flags.DEFINE_integer('images', 64, 'Pictures.')
_VECTORS = flags.DEFINE_integer('vectors', 256, 'Vectors per picture.')
_WIDTH = flags.DEFINE_integer('width', 1152, 'Numbers per vector.')
_KS = flags.DEFINE_list('k', ['8', '64'], 'Numbers of clusters.')
_ITERS = flags.DEFINE_integer('iters', 20, 'Most iterations.')
_REPETITIONS = flags.DEFINE_integer('repetitions', 7, 'Timed runs of each.')
_SEED = flags.DEFINE_integer('seed', 0, 'For the data and initial centroids.')
_CPU_TIME = flags.DEFINE_bool(
  'cpu_time',
  False,
  'Count the seconds that the process had a core, not those on the wall: for '
  'a busy machine, on one core (taskset -c 0, OMP_NUM_THREADS=1).',
)
_SKIP = flags.DEFINE_list('skip', [], 'Contenders left out.')
_OUT = flags.DEFINE_string('out', None, 'File for the numbers, as JSON.')


def features(seed, images, n, d, rank=64, parts=12):
  """Returns correlated vectors, f32[images n d].

  Each picture has `parts` overlapping groups in `rank` directions whose
  spread falls off as 1 / sqrt(i), white noise of a tenth of that, and a mean
  common to all of its vectors.
  """
  rng = np.random.default_rng(seed)
  spread = 1 / np.sqrt(np.arange(1, rank + 1))
  basis = rng.normal(size=(rank, d)) * spread[:, None]
  out = np.empty((images, n, d), np.float32)
  for i in range(images):
    centres = rng.normal(size=(parts, rank))
    x = centres[rng.integers(0, parts, n)] + rng.normal(size=(n, rank))
    out[i] = x @ basis + 0.1 * rng.normal(size=(n, d)) + rng.normal(size=d)
  return out


def ours(iters):
  """Our `lloyd`, all pictures in one call."""
  run = jax.jit(jax.vmap(functools.partial(lloyd.lloyd, iters=iters)))
  return lambda x, indices: run(x, indices)[:2]


def ours_no_stop(iters):
  """Our iteration, made to go on after it has converged."""
  run = jax.jit(
    jax.vmap(functools.partial(lloyd.lloyd, iters=iters, stop=False))
  )
  return lambda x, indices: run(x, indices)[:2]


def plain_jax(iters):
  """Returns plain k-means: distances and means in d dimensions, vmapped."""

  def nearest(x, mu):
    scores = jnp.sum(mu * mu, axis=1) - 2 * x @ mu.T
    return jnp.argmin(scores, axis=1)

  def one(x, indices):
    mu = x[indices]

    def step(_, mu):
      hot = jax.nn.one_hot(nearest(x, mu), mu.shape[0])
      counts = jnp.sum(hot, axis=0)[:, None]
      return jnp.where(counts > 0, hot.T @ x / jnp.maximum(counts, 1), mu)

    mu = jax.lax.fori_loop(0, iters, step, mu)
    return nearest(x, mu), mu

  return jax.jit(jax.vmap(one))


def scikit_learn(iters):
  """scikit-learn, one picture after the other."""
  cluster = importlib.import_module('sklearn.cluster')

  def run(x, indices):
    results = []
    for image, start in zip(x, indices, strict=True):
      model = cluster.KMeans(
        len(start),
        init=image[start],
        n_init=1,
        max_iter=iters,
        tol=0,
        algorithm='lloyd',
      ).fit(image)
      results.append((model.labels_, model.cluster_centers_))
    return tuple(map(np.stack, zip(*results, strict=True)))

  return run


def faiss_(iters):
  """faiss, one picture after the other."""
  faiss = importlib.import_module('faiss')

  def run(x, indices):
    results = []
    for image, start in zip(x, indices, strict=True):
      model = faiss.Kmeans(
        image.shape[1],
        len(start),
        niter=iters,
        min_points_per_centroid=1,
        max_points_per_centroid=len(image),
      )
      model.train(image, init_centroids=image[start])
      results.append((model.index.search(image, 1)[1][:, 0], model.centroids))
    return tuple(map(np.stack, zip(*results, strict=True)))

  return run


def ott_(iters):
  """ott, vmapped; it draws its own initial centroids."""
  k_means = importlib.import_module('ott.tools.k_means')

  @functools.partial(jax.jit, static_argnames='k')
  def many(x, keys, k):
    def one(x, key):
      clusters = k_means.k_means(
        x,
        k,
        init='random',
        n_init=1,
        min_iterations=iters,
        max_iterations=iters,
        tol=0.0,
        rng=key,
      )
      return clusters.assignment, clusters.centroids

    return jax.vmap(one)(x, keys)

  def run(x, indices):
    keys = jax.random.split(jax.random.key(0), len(x))
    return many(x, keys, indices.shape[1])

  return run


def torch_(iters):
  """Plain k-means in torch, all pictures in one batch, on the first GPU."""
  torch = importlib.import_module('torch')
  on_gpu = torch.cuda.is_available()

  def nearest(x, mu):
    scores = (mu * mu).sum(2)[:, None] - 2 * x @ mu.transpose(1, 2)
    return scores.argmin(2)

  def run(x, indices):
    mu = torch.take_along_dim(x, indices[..., None], 1)
    for _ in range(iters):
      at = nearest(x, mu)
      hot = torch.nn.functional.one_hot(at, mu.shape[1]).to(x.dtype)
      counts = hot.sum(1)[..., None]
      sums = hot.transpose(1, 2) @ x
      mu = torch.where(counts > 0, sums / counts.clamp(min=1), mu)
    out = nearest(x, mu).cpu().numpy(), mu.cpu().numpy()
    if on_gpu:
      torch.cuda.synchronize()
    return out

  return run


def _to_torch(array):
  """Puts an array where `torch_` computes."""
  torch = importlib.import_module('torch')
  device = 'cuda' if torch.cuda.is_available() else 'cpu'
  return torch.as_tensor(np.asarray(array), device=device)


# Where a contender wants its input: a copy to the device is not k-means.
CONTENDERS = {
  'ours': (ours, jnp.asarray),
  'ours, no stop': (ours_no_stop, jnp.asarray),
  'plain JAX': (plain_jax, jnp.asarray),
  'scikit-learn': (scikit_learn, np.asarray),
  'faiss': (faiss_, np.asarray),
  'ott': (ott_, jnp.asarray),
  'torch': (torch_, _to_torch),
}
# Packages that a contender needs; without them it is left out.
_PACKAGES = {
  'scikit-learn': 'sklearn',
  'faiss': 'faiss',
  'ott': 'ott',
  'torch': 'torch',
}


def inertia(x, assignments, centroids):
  """Returns the mean squared distance to the centroid, summed per picture."""
  rows = np.take_along_axis(
    np.asarray(centroids, np.float64),
    np.asarray(assignments, np.int64)[..., None],
    axis=1,
  )
  return float(((x - rows) ** 2).sum(axis=(1, 2)).mean())


def measure(k, x, indices):
  """Times the contenders in turn; returns a row of numbers for each."""
  runs, times, clusters = {}, {}, {}
  for name, (make, place) in CONTENDERS.items():
    package = _PACKAGES.get(name, 'jax')
    if name in _SKIP.value or importlib.util.find_spec(package) is None:
      continue
    runs[name] = functools.partial(make(_ITERS.value), place(x), place(indices))
    clusters[name] = jax.block_until_ready(runs[name]())  # compiles
    times[name] = []
  clock = time.process_time if _CPU_TIME.value else time.perf_counter
  for _ in range(_REPETITIONS.value):
    for name, run in runs.items():
      start = clock()
      jax.block_until_ready(run())
      times[name].append((clock() - start) / len(x) * 1e3)
  base = np.median(times['ours'])
  return [
    {
      'k': k,
      'name': name,
      'ms': float(np.median(times[name])),
      'least_ms': float(np.min(times[name])),
      'ratio': float(np.median(times[name]) / base),
      'inertia': inertia(x, *clusters[name]),
    }
    for name in runs
  ]


def main(argv):
  """Prints the table."""
  if len(argv) > 1:
    raise app.UsageError(f'Unknown arguments: {argv[1:]}.')
  flag_names.choices('skip', _SKIP.value, CONTENDERS)
  x = features(_SEED.value, _IMAGES.value, _VECTORS.value, _WIDTH.value)
  rng = np.random.default_rng(_SEED.value + 1)
  print(
    f'{x.shape} float32, at most {_ITERS.value} iterations, '
    f'{_REPETITIONS.value} repetitions in turn, '
    f'{len(os.sched_getaffinity(0))} cores, load '
    f'{os.getloadavg()[0]:.1f}, jax {jax.__version__} on '
    f'{jax.default_backend()}' + (', CPU time' if _CPU_TIME.value else '')
  )
  rows = []
  print('  k contender       ms/image   (least)   ratio    inertia')
  for k in map(int, _KS.value):
    indices = np.stack([rng.permutation(_VECTORS.value)[:k] for _ in x])
    iterations = jax.vmap(functools.partial(lloyd.lloyd, iters=_ITERS.value))(
      jnp.asarray(x), jnp.asarray(indices)
    ).iterations
    for row in measure(k, x, indices):
      rows.append(row)
      print(
        f'{k:3d} {row["name"]:15s} {row["ms"]:9.2f} {row["least_ms"]:9.2f} '
        f'{row["ratio"]:7.2f} {row["inertia"]:10.1f}',
        flush=True,
      )
    print(
      f'    ours made {np.mean(iterations):.1f} iterations on average, '
      f'{np.max(iterations)} at most'
    )
  if _OUT.value:
    with open(_OUT.value, 'w') as file:
      json.dump(rows, file, indent=2)


if __name__ == '__main__':
  app.run(main)
