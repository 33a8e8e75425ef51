r"""Captions the frames of a camera by a server; a loop to extend.

python experiments/camera.py --source=0
python experiments/camera.py --source=photos --every=1
python experiments/camera.py --source=scenes --count=20 --server=localhost:50051

A camera, by its number, needs OpenCV: pip install opencv-python-headless.
"""

if __name__ == '__main__':  # Imports take seconds.
  from collab_jax import _interrupts

  _interrupts.watch_imports(_interrupts.BEGINS_ANEW)

import itertools
import time

from absl import app, flags

from collab_jax import data, launcher
from collab_jax.codecs import spec as specs
from collab_jax.commands import connection_flags, edge_model, model_flags
from collab_jax.data import pictures
from collab_jax.serving.client import batch, retry
from collab_jax.serving.client import client as clients

_CONNECTION = connection_flags.define()
_SOURCE = flags.DEFINE_string(
  'source', '0', "A camera's number, a folder of pictures, or 'scenes'."
)
_CODEC = flags.DEFINE_string('codec', specs.DEFAULT, 'What is sent.')
_MODEL = model_flags.define()
_EVERY = flags.DEFINE_float(
  'every', 0.0, 'Seconds from a frame to the next, at least.', lower_bound=0.0
)
_COUNT = flags.DEFINE_integer('count', 0, 'Frames; 0 for no end.')


def frames(source: str, size: int):
  """Yields frames u8[size size 3] without end, the newest of a camera."""
  if source.isdecimal():
    try:
      import cv2  # pyright: ignore[reportMissingImports]
    except ImportError as error:
      raise ImportError(
        'a camera needs OpenCV: pip install opencv-python-headless'
      ) from error
    camera = cv2.VideoCapture(int(source))
    camera.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # Frames in between are dropped.
    try:
      while True:
        ok, frame = camera.read()
        if not ok:
          raise OSError(f'source: camera {source} gives no picture')
        frame = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        yield pictures.resize(frame, size)
    finally:
      camera.release()
  elif source == 'scenes':
    scenes = data.scenes('test')
    for i in itertools.cycle(range(len(scenes))):
      yield pictures.resize(scenes[i].image, size)
  else:
    for path in itertools.cycle(batch.list_pictures(source)):
      yield data.read_image(path, size)


def main(argv):
  """Captions frames, and continues after the server was unreachable."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with launcher.runtime(resumes=False):
    edge = edge_model.EdgeModel(*_MODEL.source)
    codec = edge.bind(_CODEC.value)
    with clients.EdgeClient(_CONNECTION.connect(), codec, window=1) as client:
      stream = frames(_SOURCE.value, edge.size)
      for i in itertools.count() if not _COUNT.value else range(_COUNT.value):
        start = time.perf_counter()
        try:
          result = client.caption(next(stream)[None], image_ids=[i])[0]
          spent = sum(result.milliseconds.values())
          print(f'{spent:5.0f} ms {result.bytes:6,} B  {result.caption}')
        except retry.RemoteError as error:
          print(error)
        time.sleep(max(0.0, start + _EVERY.value - time.perf_counter()))


if __name__ == '__main__':
  launcher.start(main)
