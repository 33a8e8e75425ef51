"""Small evaluation in odd surroundings: `surrounded.py NAME FOLDER`.

Writes records and a figure to FOLDER, and prints the captions. NAME is one of
`SURROUNDINGS`, applied before the work begins or at a moment of it.
"""

import errno
import fcntl
import os
from pathlib import Path
import pwd
import resource
import sys
import time

import jax

import collab_jax as cj
from collab_jax import studies
from collab_jax.checkpoints import npz


def _failing(number):
  def call(*unused):
    raise OSError(number, os.strerror(number))

  return call


def _move_home(home=None):
  """Leaves no home, as a user without a line in /etc/passwd; or another."""
  for name in ('HOME', 'XDG_CACHE_HOME', 'JAX_COMPILATION_CACHE_DIR'):
    os.environ.pop(name, None)
  jax.config.update('jax_compilation_cache_dir', None)
  if home is not None:
    os.environ['HOME'] = home

  def getpwuid(user):
    raise KeyError(f'uid not found: {user}')

  pwd.getpwuid = getpwuid


def _lock_fails(number):
  fcntl.flock = _failing(number)


def _sync_fails(number):
  os.fsync = _failing(number)


def _leave_for_removed_folder():
  folder = Path('/tmp', f'surrounded-{os.getpid()}')
  folder.mkdir()
  os.chdir(folder)
  folder.rmdir()


def _limit_files(count=64):
  resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


def _turn_clock_back():
  start, now = time.time(), time.time
  time.time = lambda: start - 1e6 * (now() - start)


def _set(name, value):
  return lambda: jax.config.update(name, value)


def _empty_cache():
  os.environ.pop('JAX_COMPILATION_CACHE_DIR', None)
  jax.config.update('jax_compilation_cache_dir', None)


SURROUNDINGS = {
  'usual': lambda: None,
  'a cache in XDG_CACHE_HOME': _empty_cache,
  'no home': _move_home,
  'home that may not be written to': lambda: _move_home('/proc'),
  **{
    f'flock {name}': lambda name=name: _lock_fails(getattr(errno, name))
    for name in ('ENOSYS', 'ENOTSUP', 'ENOLCK', 'EINVAL', 'EIO')
  },
  **{
    f'fsync {name}': lambda name=name: _sync_fails(getattr(errno, name))
    for name in ('ENOSYS', 'EINVAL', 'EIO')
  },
  'removed folder': _leave_for_removed_folder,
  'read-only folder': lambda: os.chdir('/proc'),
  'no temporary folder': lambda: os.environ.update(TMPDIR='/nowhere'),
  'few open files': _limit_files,
  'clock going back': _turn_clock_back,
  'umask 077': lambda: os.umask(0o077),
  'strict promotion': _set('jax_numpy_dtype_promotion', 'strict'),
  'rank promotion': _set('jax_numpy_rank_promotion', 'raise'),
  'rbg': _set('jax_default_prng_impl', 'rbg'),
  'x64': _set('jax_enable_x64', True),
  **{
    f'full disk for {name}': lambda: None
    for name in ('settings', 'records', 'figures', 'weights', 'programs')
  },
}


def _fill_disk(count):
  """Lets no file grow beyond so many bytes, as a full disk would."""
  resource.setrlimit(resource.RLIMIT_FSIZE, (count, resource.RLIM_INFINITY))


def _move_cache(folder):
  """Takes an empty cache of programs, and fills the disk for what is large."""
  os.environ.pop('JAX_COMPILATION_CACHE_DIR', None)
  os.environ['XDG_CACHE_HOME'] = str(folder / 'cache')
  _fill_disk(3000)


def main(name, folder):
  """Evaluates, draws and prints."""
  folder = Path(folder)
  SURROUNDINGS[name]()
  if name == 'full disk for programs':
    _move_cache(folder)
  with studies.runtime():
    model = cj.load('tiny')
    if name == 'full disk for weights':
      _fill_disk(3000)
      npz.save_npz(folder / 'weights.npz', model.params)
    if name.startswith('full disk for'):
      sizes = {'settings': 250, 'records': 3000, 'programs': 9000}
      _fill_disk(sizes.get(name.split()[-1], resource.RLIM_INFINITY))
    records = cj.evaluate(
      [cj.FeatureCodec(model, 'kmeans(k=2)')],
      captioner=cj.Captioner(model, max_tokens=4),
      data=cj.data.scenes('test', limit=4),
      batch_size=2,
      path=folder / 'records.jsonl',
      progress=False,
    )
    if name == 'full disk for figures':
      _fill_disk(3000)
    if name != 'full disk for programs':
      cj.plots.save(cj.plots.tradeoff(records), folder / 'tradeoff')
    print(*(record['caption'] for record in records), sep='|')


if __name__ == '__main__':
  main(*sys.argv[1:])
