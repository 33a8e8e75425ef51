"""Commands of the edge, started as processes."""

import dataclasses
import json
import re
import socket
import time
import urllib.request

import numpy as np
from PIL import Image
import pytest

from collab_jax.serving.client import rate_control
from tests import launching, standin
from tests.models import test_mask_decoder
from tests.serving import scripted

CAPTION = '-m', 'collab_jax', 'caption'
JPEG = '--codec=jpeg(quality=50)'


@pytest.fixture(scope='module')
def target():
  with scripted.serving(scripted.ScriptedServer()) as target:
    yield target


@pytest.fixture
def picture(tmp_path):
  path = tmp_path / 'photos' / 'red.png'
  path.parent.mkdir()
  Image.fromarray(np.full((20, 30, 3), 99, np.uint8)).save(path)
  return path


def _caption(*arguments, **environment):
  flags = f'--model={standin.folder()}', *map(str, arguments)
  return launching.run(*CAPTION, *flags, **environment)


@pytest.mark.parametrize('no_proxy', ['', 'example.org'])
def test_no_proxy_stands_before_this_machine(target, picture, no_proxy):
  nobody = 'http://127.0.0.1:9'
  names = 'http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'grpc_proxy'
  proxies = dict.fromkeys(names, nobody) | {'no_proxy': no_proxy}
  done = _caption(f'--server={target}', picture, JPEG, '--timeout=5', **proxies)
  assert done.returncode == 0, done.stderr
  assert done.stdout == 'a red ball\n'


@pytest.mark.parametrize('more', [(), ('--stream',)])
def test_a_picture_is_captioned(target, picture, more):
  done = _caption(f'--server={target}', picture, JPEG, *more)
  assert done.returncode == 0, done.stderr
  assert done.stdout == 'a red ball\n'
  assert 'jpeg(quality=50)' in done.stderr
  assert 'network' in done.stderr


def test_boxes_are_printed_in_pixels(picture, tmp_path):
  box = '<loc0256><loc0000><loc0512><loc1023>'
  codes = ''.join(f'<seg{i:03d}>' for i in range(16))
  answers = {
    'detect ring': f'{box} \x1b[2Jring',
    'segment cat': f'{box}{codes} cat',
  }
  servicer = scripted.ScriptedServer(
    lambda request: scripted.reply(answers.get(request.prompt, 'a red ball'))
  )
  weights = test_mask_decoder.write(tmp_path, test_mask_decoder.weights())
  prompts = [f'--prompt={prompt}' for prompt in (*answers, 'caption en')]
  with scripted.serving(servicer) as target:
    flags = f'--server={target}', picture, JPEG
    several = _caption(*flags, *prompts)
    (one,) = {_caption(*flags, prompts[1], f'--mask_weights={weights}').stdout}
    missing = _caption(*flags, '--mask_weights=nowhere.npz')
  edges = 'left 0, top 5, right 30, bottom 10'
  assert several.stdout.splitlines() == [
    f'detect ring: {box} \\x1b[2Jring',
    f'  \\x1b[2Jring: {edges} of 30 x 20 pixels',
    f'segment cat: {box}{codes} cat',
    f'  cat: {edges} of 30 x 20 pixels; mask: give --mask_weights',
    'caption en: a red ball',
  ]
  assert re.fullmatch(
    rf'  cat: {edges} of 30 x 20 pixels; mask of \d+ pixels',
    one.splitlines()[1],
  )
  assert missing.returncode == 1
  assert "mask decoder: got 'nowhere.npz', expected" in missing.stderr


def test_a_folder_is_captioned(target, picture, tmp_path):
  (picture.parent / 'bad.png').write_text('no picture')
  out = tmp_path / 'captions.jsonl'
  # Flags after the path, and with dashes.
  done = _caption(
    picture.parent, f'--server={target}', JPEG, f'--out={out}', '--max-tokens=5'
  )
  assert done.returncode == 1
  assert 'bad.png is no picture' in done.stderr
  assert '1 captions, 0 were there, 1 bad' in done.stdout
  (line,) = out.read_text().splitlines()
  assert json.loads(line)['file'] == 'red.png'


def test_several_prompts_about_a_folder(target, picture, tmp_path):
  out = tmp_path / 'captions.jsonl'
  prompts = '--prompt=caption en', '--prompt=detect ring'
  flags = f'--server={target}', JPEG, f'--out={out}', *prompts
  done = _caption(*flags, picture.parent)
  assert done.returncode == 0, done.stderr
  assert '2 answers about 1 pictures, 0 were there, 0 bad' in done.stdout
  lines = [json.loads(line) for line in out.read_text().splitlines()]
  assert [line['settings']['prompt'] for line in lines] == [
    'caption en',
    'detect ring',
  ]
  one = _caption(*flags, picture)  # Of a picture with --out, too.
  assert one.returncode == 0, one.stderr
  assert '0 answers about 0 pictures, 1 were there' in one.stdout


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (('--prompt=a', '--prompt=b', '--stream', JPEG), 'prompt: got 2, expected'),
    (('--server=x',), "server: got 'x', expected HOST:PORT"),
    (('--server=',), "server: got '', expected HOST:PORT"),
    ((), 'collab-jax caption --server=localhost:50051 photos'),
    ((), 'expected one picture or folder'),
    (('--codec=jpeg(quality=5)', '--k=3'), 'k: is given beside codec'),
    (('--max-bytes=9', '--quantizer=merge'), 'max_bytes: chooses the codec'),
    (('--max-bytes=9',), "curve: got 'stand-in'"),
    (
      ('--task=counts',),
      "curve: got 'stand-in', expected one of tiny, or a file",
    ),
    (('--curve=x', JPEG), 'curve: is given without task, max_bytes or goal_ms'),
    (('--task=counts', JPEG), 'task: chooses the codec; leave it out'),
    (('--task=counts', '--k=3', '--max-bytes=9'), 'max_bytes: chooses the'),
    (('--progressive', JPEG), 'have one layer, expected a quantizer'),
    (('--stream', '--out=x', JPEG), 'stream: prints the caption of one'),
    (('--server=example.org:1', JPEG), 'give ca for TLS'),
    (('--token-file=nowhere', JPEG), 'No such file'),
    (('--adapter=lora',), "adapter: got 'lora' for"),
    (('--codec=jpg',), "did you mean 'jpeg'"),
  ],
)
def test_errors_are_one_line(target, picture, flags, said):
  path = [] if not flags else [picture]
  done = _caption(f'--server={target}', *flags, *path)
  assert done.returncode == 1
  assert said in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.fixture
def curves(tmp_path):
  """File of curves on which a count needs a better JPEG than a caption."""
  points = [
    rate_control.OperatingPoint(f'jpeg(quality={q})', float(q), 10 * q, score)
    for q, score in ((20, 60.0), (50, 80.0), (90, 89.0))
  ]
  of_captions = rate_control.RateCurve(
    *('stand-in', 'encoder', 'best', 'd', 50.0, 9), tuple(points)
  )
  of_counts = dataclasses.replace(
    of_captions, task='counts', metric='exact', full=90.0
  )
  path = tmp_path / 'curves.json'
  path.write_text(rate_control.to_json([of_captions, of_counts]))
  return path


@pytest.mark.parametrize(
  ('flags', 'quality'),
  [
    (('--task=captions',), 20),
    (('--task=counts',), 90),
    (('--task=counts', '--max-bytes=600'), 50),
    (('--max-bytes=600',), 50),
    (('--task=counts', '--goal-ms=60000'), 90),
  ],
)
def test_a_task_chooses_the_codec(target, picture, curves, flags, quality):
  done = _caption(f'--server={target}', picture, f'--curve={curves}', *flags)
  assert done.returncode == 0, done.stderr
  assert f'jpeg(quality={quality})' in done.stderr


@pytest.mark.parametrize(
  ('task', 'said'),
  [
    ('count', "error: task: got 'count'; did you mean 'counts'?"),
    ('ocr', "task: got 'ocr', expected one of captions, counts: the tasks of"),
  ],
)
def test_unknown_tasks_are_one_line(target, picture, curves, task, said):
  done = _caption(
    f'--server={target}', picture, f'--curve={curves}', f'--task={task}'
  )
  assert done.returncode == 1
  assert said in done.stderr
  assert 'Traceback' not in done.stderr


def test_a_curve_of_another_model_is_told(target, picture, curves):
  flags = f'--server={target}', picture, f'--curve={curves}', '--task=counts'
  said = 'is of the model other, this is stand-in: bytes and scores may be'
  assert said not in _caption(*flags).stderr
  curves.write_text(curves.read_text().replace('"stand-in"', '"other"'))
  done = _caption(*flags)
  assert done.returncode == 0, done.stderr
  assert said in done.stderr


def test_captions_of_a_task_are_kept_apart(target, picture, curves, tmp_path):
  out = tmp_path / 'captions.jsonl'
  flags = f'--server={target}', picture.parent, f'--curve={curves}'
  flags += f'--out={out}', '--task=counts'
  done = _caption(*flags)
  assert done.returncode == 0, done.stderr
  (line,) = out.read_text().splitlines()
  limit = json.loads(line)['settings']['limit']
  assert limit == f'task=counts curve={curves}'
  done = _caption(*flags[:-1], '--task=captions')
  assert done.returncode == 1
  assert 'limit' in done.stderr


def test_page_refuses_other_hosts_without_open(target):
  done = launching.run(
    *('-m', 'collab_jax', 'page', '--host=0.0.0.0', f'--server={target}')
  )
  assert done.returncode == 1
  assert 'host: 0.0.0.0 is open to other machines' in done.stderr


def test_camera_loop_captions_frames(target):
  camera = 'experiments/camera.py', f'--model={standin.folder()}', JPEG
  done = launching.run(
    *camera, f'--server={target}', '--source=scenes', '--count=2'
  )
  assert done.returncode == 0, done.stderr
  first, second = done.stdout.splitlines()
  assert first.endswith(' B  a red ball')
  assert second.endswith(' B  a red ball')


def test_the_page_is_served(target):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  running = launching.Launched(
    *('-m', 'collab_jax', 'page'),
    *(f'--model={standin.folder()}', f'--server={target}', f'--port={port}'),
  )
  try:
    url = f'http://127.0.0.1:{port}/api/about'
    until = time.monotonic() + 20
    about = None
    while about is None and time.monotonic() < until and running.runs():
      try:
        with urllib.request.urlopen(url, timeout=1) as reply:
          about = json.load(reply)
      except OSError:
        time.sleep(0.05)
    assert about is not None
    assert (about['server'], about['size']) == (target, 64)
  finally:
    running.kill()
