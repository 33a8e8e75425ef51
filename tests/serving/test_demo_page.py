"""Demo page: its HTTP API, and the page in a browser."""

import asyncio
import base64
import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import time

import aiohttp
import grpc
import numpy as np
from PIL import Image
import pytest

from collab_jax import checkpoints, codecs, data
from collab_jax.models import mask_decoder, paligemma
from collab_jax.serving.client import client as clients
from collab_jax.serving.web import (
  app,
  jpeg,
  presets,
)
from tests import standin
from tests.models import test_mask_decoder
from tests.serving import scripted
from tools import browser

PRESETS = (
  presets.Preset('k-means', 'kmeans(k={})', (2, 4, 999)),
  presets.Preset('random', 'random(k={})', (2, 4)),
  presets.Preset('JPEG', 'jpeg(quality={})', (10, 90), 'quality'),
)
LIMIT = 20_000


def _make(text):
  if text.startswith('jpeg'):
    config = paligemma.Config.from_dict(standin.CONFIG)
    model = paligemma.Model(params={}, config=config, tokenizer=None)
    return codecs.parse(text).bind(model)
  return codecs.FeatureCodec(standin.small(), text, coding='best')


@pytest.fixture(scope='module')
def servicer():
  return scripted.ScriptedServer()


@pytest.fixture(scope='module')
def client(servicer):
  with (
    scripted.serving(servicer) as target,
    clients.EdgeClient(target, _make('jpeg(quality=10)')) as client,
  ):
    yield client


def _page(client, **settings):
  settings = {'presets': PRESETS, 'max_upload': LIMIT, **settings}
  return app.DemoPage(client, _make, 64, 64, **settings)


def _run(client, work, **settings):
  """Runs a coroutine function with a session and the page's address."""

  async def run():
    async with (
      browser.served(_page(client, **settings)) as url,
      aiohttp.ClientSession(url) as session,
    ):
      return await work(session)

  return asyncio.run(run())


def _png(size=(30, 20)):
  file = io.BytesIO()
  Image.new('RGB', size, (200, 30, 30)).save(file, 'PNG')
  return file.getvalue()


def _events(client, query, body=b''):
  async def work(session):
    async with session.post('/api/caption?' + query, data=body) as reply:
      assert reply.status == 200, await reply.text()
      assert reply.content_type == 'application/x-ndjson'
      text = await reply.text()
    return [json.loads(line) for line in text.splitlines()]

  return _run(client, work)


def test_caption_request_streams_events(client):
  events = _events(client, 'method=0&number=4', _png())
  kinds = [event['kind'] for event in events]
  answer = ['picture', 'message', 'text', 'text', 'text', 'answer']
  assert kinds == [*answer, 'jpeg', 'jpeg answer']
  assert events[0]['picture'].startswith('data:image/png;base64,')
  message = events[1]
  assert message['codec'] == 'kmeans(k=4)/best'
  assert message['bytes'] == sum(message['sizes'].values())
  assert (message['sent'], message['vectors']) == (4, 64)
  seen = message['map']
  assert seen['side'] == 8
  assert len(seen['group']) == len(seen['colour']) == 64
  assert len(set(seen['group'])) <= 4
  assert list(message['milliseconds']) == ['read', 'encode', 'quantize', 'pack']
  assert ''.join(e['text'] for e in events[2:5]) == events[5]['caption']
  assert list(events[5]['milliseconds'])[:4] == list(message['milliseconds'])
  assert events[5]['bytes'] == message['bytes']


def test_jpeg_has_as_many_bytes(client):
  """The picture's file beside the message, with the server's caption of it."""
  events = _events(client, 'method=0&number=4&scene=3')
  size = events[1]['bytes']
  jpeg, answer = events[-2:]
  assert jpeg['fits']
  assert size / 2 < jpeg['bytes'] <= size
  assert jpeg['picture'].startswith('data:image/png;base64,')
  assert answer['caption'] == 'a red ball'
  assert answer['bytes'] == jpeg['bytes']


@pytest.mark.parametrize('limit', [1, 40, 120, 1000, 10_000])
def test_nearest_jpeg_is_within_the_limit(limit):
  model = paligemma.Model(
    params={}, config=paligemma.Config.from_dict(standin.CONFIG), tokenizer=None
  )
  image = data.scenes('test', 4)[3].image
  file = jpeg.nearest(model, image, limit)
  codec = codecs.parse(file.codec).bind(model)
  (message,) = codec.encode(image[None])
  assert len(message) == file.bytes
  np.testing.assert_array_equal(codec.unpack(message), file.picture)
  if limit > 1:
    assert file.bytes <= limit
  else:
    assert file.quality == 1
    assert file.bytes > limit  # There is no such file: the smallest.


def _about(client, **settings):
  async def work(session):
    async with session.get('/api/about') as reply:
      return await reply.json()

  return _run(client, work, **settings)


@pytest.mark.parametrize(
  ('quantizers', 'images', 'titles', 'numbers'),
  [
    ('any', 'any', ['k-means', 'random', 'JPEG'], [2, 4]),
    ('kmeans(k=4);any', '', ['k-means', 'random'], [2, 4]),
    ('kmeans(k=4)', '', ['k-means'], [4]),
    ('random( k = 2 )', 'jpeg(quality=90)', ['random', 'JPEG'], [2]),
    ('farthest_point(k=4);mine:X(k=1)', '', ['farthest_point(k=4)'], []),
    ('kmeans(k=4);merge(k=3)', '', ['k-means', 'merge(k=3)'], [4]),
  ],
)
def test_page_offers_what_the_server_admits(
  quantizers, images, titles, numbers
):
  servicer = scripted.ScriptedServer()
  servicer.lists = quantizers, images
  with (
    scripted.serving(servicer) as target,
    clients.EdgeClient(target, _make('jpeg(quality=10)')) as client,
  ):
    about = _about(client, supports=lambda text: 'mine' not in text)
    assert about['model'] == 'm'
    assert [entry['title'] for entry in about['methods']] == titles
    assert about['methods'][0]['numbers'] == numbers

    async def caption(session):
      # A new page: indices are of the menu that it has shown.
      async with session.get('/api/about') as reply:
        entry = (await reply.json())['methods'][-1]
      query = {'method': entry['index'], 'scene': 1}
      if entry['numbers']:
        query['number'] = entry['numbers'][0]
      async with session.post('/api/caption', params=query) as reply:
        assert reply.status == 200, await reply.text()
        return [json.loads(line) async for line in reply.content]

    events = _run(client, caption, supports=lambda text: 'mine' not in text)
  assert 'answer' in [event['kind'] for event in events]
  asked = [event['asked'] for event in events if event['kind'] == 'jpeg']
  assert asked in ([], [images == 'any'])


def test_state_says_that_the_server_is_gone():
  async def work(session):
    async def state():
      async with session.get('/api/state') as reply:
        return (await reply.json())['error']

    before = await state()
    await asyncio.to_thread(lambda: server.__exit__(None, None, None))
    start = time.monotonic()
    while not await state():
      await asyncio.sleep(0.1)
    return before, time.monotonic() - start

  server = scripted.serving(scripted.ScriptedServer())
  target = server.__enter__()
  with clients.EdgeClient(target, _make('jpeg(quality=10)')) as client:
    before, seconds = _run(client, work)
  assert before == ''
  assert seconds < 2


def test_map_leaves_unsent_vectors_empty(client):
  message = _events(client, 'method=1&number=4&scene=3')[1]
  there = [c for c in message['map']['colour'] if c]
  assert len(there) == 4
  assert sum(g is not None for g in message['map']['group']) == 4


def test_image_codec_shows_the_decoded_picture(client):
  message = _events(client, 'method=2&number=10&scene=0')[1]
  assert message['codec'] == 'jpeg(quality=10)'
  assert message['picture'].startswith('data:image/png')
  assert 'map' not in message


@pytest.mark.parametrize(
  ('query', 'body', 'status', 'said'),
  [
    ('method=0&number=4', b'', 400, 'The file is empty'),
    ('method=0&number=4', b'no picture', 400, 'The file is no picture'),
    ('method=0&number=4', _png()[:60], 400, 'The file is damaged'),
    ('method=0&number=4', os.urandom(LIMIT + 1), 413, 'larger than'),
    ('method=7&number=4', _png(), 400, "method: got '7'"),
    ('method=0&number=5', _png(), 400, "number: got '5', expected one of 2"),
    ('method=0', _png(), 400, 'number: got'),
    ('method=0&number=4&prompt=' + 'a' * 4097, _png(), 400, 'prompt: got 4097'),
    ('method=0&number=4&scene=99', b'', 400, "no test scene '99'"),
    ('method=0&number=4&scene=-1', b'', 400, "no test scene '-1'"),
    ('method=0&number=4&prompt=a' + 16 * '&prompt=b', _png(), 400, 'got 17'),
  ],
)
def test_bad_requests_are_refused(client, query, body, status, said):
  async def work(session):
    async with session.post('/api/caption?' + query, data=body) as reply:
      return reply.status, (await reply.json())['error']

  got, text = _run(client, work)
  assert got == status
  assert said in text


@pytest.fixture
def answering(servicer):
  """The server, with an answer for each of some prompts."""
  servicer.failures = []
  servicer.requests.clear()
  servicer.kept.clear()
  servicer.answers = {
    'detect ring': f'{BOX} red ring ; {LOW} ring',
    'segment cat': f'{BOX}{CODES} cat',
    'detect cat': '<loc0001><loc0002> cat',
    'answer en <b>': '<script>alert(1)</script>',
  }
  yield servicer
  servicer.answers = {}


BOX = '<loc0256><loc0000><loc0512><loc1023>'
LOW = '<loc0900><loc0900><loc1023><loc1023>'
CODES = ''.join(f'<seg{i:03d}>' for i in range(16))


def _ask(client, prompts, file=None, query='method=2&number=10', **settings):
  """Sends a form with questions, as the page does; returns the events."""

  async def work(session):
    form = aiohttp.FormData(default_to_multipart=True)
    for prompt in prompts:
      form.add_field('prompt', prompt)
    if file is not None:
      form.add_field('file', file, filename='a.png')
    async with session.post('/api/caption?' + query, data=form) as reply:
      assert reply.status == 200, await reply.text()
      return [json.loads(line) async for line in reply.content]

  return _run(client, work, **settings)


def _answers(events):
  return [event for event in events if event['kind'] == 'answer']


def test_questions_send_a_picture_once(client, answering):
  prompts = ['caption en', 'detect ring', 'answer en <b>']
  events = _ask(client, prompts, _png())
  answers = _answers(events)
  assert [a['question'] for a in answers] == [0, 1, 2]
  assert [a['caption'] for a in answers] == [
    'a red ball',
    *(answering.answers[prompt] for prompt in prompts[1:]),
  ]
  message = next(e for e in events if e['kind'] == 'message')
  assert [a['bytes'] for a in answers] == [message['bytes'], 0, 0]
  sent = [r for r in answering.requests if r.message]
  assert len(sent) == 1
  assert len(answering.requests) == 3
  assert {r.picture for r in answering.requests} == answering.kept
  # The edge's stages are those of the first question.
  assert [('encode' in a['milliseconds']) for a in answers] == [
    True,
    False,
    False,
  ]


def test_longest_prompts_arrive(client, answering):
  prompts = ['\u00fc' * 4096, ' x' * 500]
  events = _ask(client, prompts, _png((7, 8)))
  assert len(_answers(events)) == 2
  assert [r.prompt for r in answering.requests[:2]] == prompts


def test_later_questions_send_nothing_either(client, answering):
  """Asks a page twice; then about another file of the same name."""

  async def work(session):
    async def ask(file, prompt):
      form = aiohttp.FormData(default_to_multipart=True)
      form.add_field('prompt', prompt)
      form.add_field('file', file, filename='a.png')
      query = '/api/caption?method=2&number=10'
      async with session.post(query, data=form) as reply:
        return [json.loads(line) async for line in reply.content]

    first = await ask(_png(), 'caption en')
    again = await ask(_png(), 'detect ring')
    answering.kept.clear()  # The server was started anew.
    anew = await ask(_png(), 'caption en')
    other = await ask(_png((20, 30)), 'caption en')
    return [
      (_answers(events)[0]['bytes'], events[1]['is_new'], events[0]['size'])
      for events in (first, again, anew, other)
    ]

  seen = _run(client, work)
  size = seen[0][0]
  assert size > 0
  assert seen[:3] == [
    (size, True, [30, 20]),
    (0, False, [30, 20]),
    (size, False, [30, 20]),
  ]
  # Both are of one colour, and equal once they are of the model's size.
  assert seen[3] == (0, False, [20, 30])


def test_boxes_are_in_pixels_of_the_file(client, answering):
  (answer,) = _answers(_ask(client, ['detect ring'], _png((300, 200))))
  ring, low = answer['boxes']
  assert (ring['name'], low['name']) == ('red ring', 'ring')
  assert ring['pixels'] == [0, 50, 300, 100]
  assert ring['share'] == pytest.approx([0, 256 / 1023, 1, 512 / 1023])
  assert low['pixels'] == [264, 176, 300, 200]
  assert (answer['rest'], answer['note'], ring['mask']) == ('', '', None)


def test_masks_need_their_weights(client, answering, tmp_path):
  (answer,) = _answers(_ask(client, ['segment cat'], _png()))
  assert '--mask_weights=' in answer['note']
  assert answer['boxes'][0]['mask'] is None
  path = test_mask_decoder.write(tmp_path, test_mask_decoder.weights())
  decoder = mask_decoder.load(path)
  (answer,) = _answers(_ask(client, ['segment cat'], _png(), decoder=decoder))
  (box,) = answer['boxes']
  assert answer['note'] == ''
  data_url = base64.b64decode(box['mask'].partition(',')[2])
  mask = np.asarray(Image.open(io.BytesIO(data_url)))
  assert mask.shape == (64, 64)
  assert {*np.unique(mask)} <= {0, 255}
  assert box['covers'] == pytest.approx((mask > 0).mean())


def test_answers_that_are_no_boxes_are_texts(client, answering):
  half, text = _answers(_ask(client, ['detect cat', 'answer en <b>'], _png()))
  assert (half['boxes'], half['rest']) == ([], '<loc0001><loc0002> cat')
  assert half['note'].startswith('The answer has no whole box')
  assert (text['boxes'], text['note']) == ([], '')


def test_a_refused_question_does_not_end_the_others(client, answering):
  code = grpc.StatusCode.INVALID_ARGUMENT
  answering.failures = [(code, 'prompt: got 513 tokens')]
  events = _ask(client, ['x ' * 1000, 'detect ring'], _png())
  refused = next(e for e in events if e['kind'] == 'error')
  assert (refused['question'], refused['is_refusal']) == (0, True)
  (answer,) = _answers(events)
  assert answer['question'] == 1
  assert answer['bytes'] > 0  # The first one was refused with its message.
  answering.failures = [(grpc.StatusCode.INTERNAL, 'it broke')]
  events = _ask(client, ['a', 'b'], _png((9, 9)))
  assert [e['kind'] for e in events] == ['picture', 'message', 'error']


@pytest.mark.parametrize(
  ('body', 'status', 'said'),
  [
    (b'--x\r\nno form', 400, 'The form is damaged'),
    (b'', 400, 'The f'),
    (b'--x\r\nContent-Length: -1\r\n\r\na\r\n--x--', 400, 'The form is dam'),
    (
      b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\na\r\n--x--',
      400,
      'file: got a text',
    ),
  ],
)
def test_damaged_forms_are_refused(client, body, status, said):
  async def work(session):
    kind = {'Content-Type': 'multipart/form-data; boundary=x'}
    query = '/api/caption?method=2&number=10'
    async with session.post(query, data=body, headers=kind) as reply:
      return reply.status, await reply.text()

  got, text = _run(client, work)
  assert (got, said in text) == (status, True), text


def test_a_file_in_a_form_is_bounded(client):
  async def work(session):
    statuses = []
    for size in (LIMIT, LIMIT + 1, LIMIT + (1 << 20)):
      form = aiohttp.FormData(default_to_multipart=True)
      form.add_field('file', os.urandom(size), filename='a')
      query = '/api/caption?method=2&number=10'
      async with session.post(query, data=form) as reply:
        statuses.append(reply.status)
    return statuses

  assert _run(client, work) == [400, 413, 413]


def test_errors_of_the_server_are_events(client, servicer):
  code = grpc.StatusCode.FAILED_PRECONDITION
  servicer.failures = [(code, 'handshake not for you')]
  events = _events(client, 'method=2&number=90', _png())
  assert [event['kind'] for event in events] == ['picture', 'error']
  assert 'not for you' in events[1]['error']
  servicer.failures = [(grpc.StatusCode.INTERNAL, 'it broke')]
  events = _events(client, 'method=2&number=90', _png())
  assert events[-1]['kind'] == 'error'
  assert 'it broke' in events[-1]['error']


def test_page_refuses_other_origins(client):
  async def work(session):
    found = {}
    for name, headers in {
      'own': {},
      'origin': {'Origin': 'http://evil.example'},
      'host': {'Host': 'evil.example'},
    }.items():
      async with session.get('/api/about', headers=headers) as reply:
        found[name] = reply.status
        found[name + ' text'] = await reply.text()
    async with session.get('/') as reply:
      found['policy'] = reply.headers['Content-Security-Policy']
      found['type'] = reply.headers['X-Content-Type-Options']
      found['html'] = await reply.text()
    async with session.get('/nowhere') as reply:
      found['nowhere'] = reply.status, await reply.json()
    async with session.get('/api/scenes/2.png') as reply:
      found['scene'] = np.asarray(Image.open(io.BytesIO(await reply.read())))
    async with session.get('/api/photos/6.png') as reply:
      found['photo'] = np.asarray(Image.open(io.BytesIO(await reply.read())))
    async with session.get('/api/photos/7.png') as reply:
      found['no photo'] = reply.status, await reply.json()
    async with session.get('/api/about') as reply:
      found['about'] = await reply.json()
    return found

  names = *app.LOCAL_NAMES, '127.0.0.1', 'edge.example'
  found = _run(client, work, hosts=names)
  assert found['host text'].count('127.0.0.1') == 1
  assert 'edge.example' in found['host text']
  assert (found['own'], found['origin'], found['host']) == (200, 403, 403)
  assert found['nowhere'] == (404, {'error': 'Not Found'})
  assert "default-src 'none'" in found['policy']
  assert found['policy'].count('sha256-') == 2
  assert 'unsafe' not in found['policy']
  assert found['type'] == 'nosniff'
  # Nothing of it comes from elsewhere.
  assert 'http' not in found['html'].replace('http-equiv', '')
  assert found['scene'].shape == found['photo'].shape == (64, 64, 3)
  expected = "There is no photograph '7', expected one of 0 to 6."
  assert found['no photo'] == (400, {'error': expected})
  about = found['about']
  assert about['methods'][0]['numbers'] == [2, 4]  # There are 64 vectors.
  assert about['methods'][2]['unit'] == 'quality'
  assert (about['size'], about['max_upload']) == (64, LIMIT)


def test_picture_unlike_the_scenes_is_marked(client, servicer):
  servicer.failures = []
  tiny = checkpoints.load('tiny', part='edge')

  def make(text):
    return codecs.FeatureCodec(tiny, text, coding='best')

  async def run(query):
    page = app.DemoPage(client, make, 64, 256, presets=PRESETS)
    async with (
      browser.served(page) as url,
      aiohttp.ClientSession(url) as session,
      session.post(f'/api/caption?method=0&number=4&{query}') as reply,
    ):
      return [json.loads(line) async for line in reply.content]

  for query, expected in (('photo=2', 'unlike'), ('scene=2', '')):
    events = asyncio.run(run(query))
    (message,) = [e for e in events if e['kind'] == 'message']
    assert expected in message['warning']
    assert bool(message['warning']) == bool(expected)


def test_waiting_request_does_not_block_others(client, servicer):
  servicer.failures = []
  release = threading.Event()

  async def work(session):
    async def caption(quality):
      query = f'/api/caption?method=2&scene=1&number={quality}'
      async with session.post(query) as reply:
        return [json.loads(line) async for line in reply.content]

    await caption(10)
    count = len(servicer.handshakes)
    servicer.before_handshake = lambda: release.wait(20)
    slow = asyncio.create_task(caption(90))
    while len(servicer.handshakes) == count:
      await asyncio.sleep(0.01)
    quick = await asyncio.wait_for(caption(10), 10)
    assert not slow.done()
    release.set()
    return quick, await slow

  try:
    quick, slow = _run(client, work)
  finally:
    release.set()
    servicer.before_handshake = None
  assert quick[-1]['caption'] == slow[-1]['caption'] == 'a red ball'


def test_caption_request_has_a_deadline(client, servicer):
  release = threading.Event()
  servicer.before_handshake = lambda: release.wait(20)

  async def work(session):
    query = '/api/caption?method=2&scene=1&number=90'
    async with session.post(query) as reply:
      return [json.loads(line) async for line in reply.content]

  try:
    found = _run(client, work, seconds=0.3)
  finally:
    release.set()
    servicer.before_handshake = None
  assert [event['kind'] for event in found] == ['picture', 'error']
  assert 'no caption within 0.3 s' in found[1]['error']


def test_uploads_are_bounded_in_time_and_number(client):
  """Files that never end are given up, and others are read meanwhile."""

  async def silent():
    yield b'x'
    await asyncio.sleep(30)

  async def work(session):
    query = '/api/caption?method=2&number=90'

    async def send():
      async with session.post(query, data=silent()) as reply:
        return reply.status, await reply.json()

    return await asyncio.gather(*(send() for _ in range(10)))

  replies = _run(client, work, seconds=0.5)
  assert sorted(status for status, _ in replies) == [408] * 8 + [503] * 2
  late = next(text['error'] for status, text in replies if status == 408)
  assert late == 'The file has not come within 0.5 s; try again.'


def test_the_menu_reads_each_codec_once(monkeypatch):
  texts = []
  parse = codecs.parse
  monkeypatch.setattr(
    codecs, 'parse', lambda text: texts.append(text) or parse(text)
  )
  admitted = presets.AdmittedCodecs('any', 'any')
  menu = list(admitted.select(presets.PRESETS, 64, lambda text: True))
  numbers = sum(len(preset.numbers) for preset in menu)
  assert len(texts) == len(set(texts)) == numbers > 60


def test_preset_needs_a_placeholder():
  with pytest.raises(ValueError, match='for the number'):
    presets.Preset('x', 'kmeans(k=4)')


IDLE = """methods.every((m) => m.root.hidden ||
  m.part('caption').ariaBusy === 'false')"""
FILES = "methods[0].part('file-caption').textContent.length > 2"


def _browse(client, work):
  """Runs a coroutine function with a tab that has opened the page."""

  async def run():
    async with contextlib.AsyncExitStack() as stack:
      url = await stack.enter_async_context(browser.served(_page(client)))
      path = browser.chromium()
      tab = await stack.enter_async_context(browser.browser(path))
      await tab.show(1280, 1200)
      await tab.watch()
      await tab.open(url)
      seen = await work(tab)
      return seen, tab.errors, [u for u in tab.urls if not u.startswith(url)]

  return asyncio.run(run())


def _part(name, method=0):
  return f'methods[{method}].part({name!r})'


needs_browser = pytest.mark.skipif(
  browser.chromium() is None, reason='no Chromium here'
)


@needs_browser
def test_the_page_in_a_browser(client, servicer, tmp_path):
  servicer.failures = []
  picture, bad = tmp_path / 'red.png', tmp_path / 'bad.png'
  picture.write_bytes(_png())
  bad.write_bytes(b'no picture')

  async def work(tab):
    async def text(name, method=0):
      return await tab.run(_part(name, method) + '.textContent')

    seen = {}
    # The first scene is captioned by itself, by two methods.
    await tab.until(f'methods.length === 2 && {IDLE} && {FILES}')
    seen['landing'] = [await text('caption', i) for i in (0, 1)]
    seen['codecs'] = [await text('codec', i) for i in (0, 1)]
    seen['jpeg'] = await text('file-title'), await text('file-caption')
    await tab.run("document.querySelectorAll('#scenes button')[3].click()")
    await tab.until(IDLE)
    seen['bytes'], seen['times'] = await text('bytes'), await text('times')
    # The map is drawn, in as many colours as there are clusters, and white.
    seen['colours'] = await tab.run(
      f"""
      new Set(Array.from(new Uint32Array({_part('map')}.getContext('2d')
        .getImageData(0, 0, 480, 480).data.buffer))).size
      """
    )
    await tab.choose_file('#file', picture)
    await tab.until(IDLE)
    seen['file'] = await text('caption')
    await tab.run(
      f"""
      {_part('method')}.value = 2;
      {_part('method')}.dispatchEvent(new Event('change'));
      """
    )
    await tab.until(
      f"{_part('codec')}.textContent.startsWith('jpeg') && {IDLE}"
    )
    seen['unit'], seen['other'] = await text('unit'), await text('codec', 1)
    for width in (1280, 1000, 390):
      for dark in (False, True):
        await tab.show(width, 900, dark=dark)
        fits = 'document.documentElement.scrollWidth <= innerWidth'
        seen[width, dark] = await tab.run(fits)
        seen['paper', dark] = await tab.run(
          'getComputedStyle(document.body).backgroundColor'
        )
    await tab.choose_file('#file', bad)
    await tab.until(f'!{_part("error")}.hidden && !{_part("error", 1)}.hidden')
    seen['error'] = await text('error')
    # Nothing of the picture before it is left.
    seen['left'] = await tab.run(
      """
      [document.getElementById('picture').hidden,
        ...['seen', 'costs', 'file'].map((n) => methods[0].part(n).hidden)]
      """
    )
    return seen

  seen, errors, elsewhere = _browse(client, work)
  assert seen['landing'] == ['a red ball'] * 2
  assert seen['codecs'] == ['kmeans(k=4)/best', 'jpeg(quality=10)']
  assert 'The picture as a JPEG of ' in seen['jpeg'][0]
  assert seen['jpeg'][1] == '\u201ca red ball\u201d'
  assert seen['file'] == 'a red ball'
  assert seen['bytes'].startswith('header')
  assert 'assignments' in seen['bytes']
  assert 'network link' in seen['times']
  assert 4 <= seen['colours'] <= 400
  assert seen['unit'] == 'quality'
  assert seen['other'].startswith('jpeg')
  assert all(seen[w, d] for w in (1280, 1000, 390) for d in (False, True))
  assert seen['paper', False] != seen['paper', True]
  assert seen['error'].startswith('The file is no picture')
  assert seen['left'] == [True] * 4
  # The refusals of the bad file, of both methods, are all that is logged.
  assert [e for e in errors if '/api/caption' not in e] == []
  assert len(errors) == 2
  assert [u for u in elsewhere if not u.startswith('data:')] == []


ASKED = """methods.every((m) => m.root.hidden ||
  m.answers.every((a) => a.part('caption').ariaBusy === 'false'))"""


@needs_browser
def test_boxes_in_a_browser(client, answering, tmp_path):
  picture = tmp_path / 'red.png'
  picture.write_bytes(_png((300, 200)))
  prompts = ['detect ring', 'answer en <b>', 'segment cat', 'detect cat']

  async def work(tab):
    async def all_text(name):
      return await tab.run(
        f"""methods[0].answers.map((a) => a.part({name!r}).textContent)"""
      )

    seen = {}
    await tab.until(f'methods.length === 2 && {IDLE} && {FILES}')
    await tab.choose_file('#file', picture)
    await tab.until(IDLE)
    # By the keyboard alone.
    await tab.run("document.getElementById('prompts').focus()")
    await tab.call('Input.insertText', text='\n'.join(prompts))
    for kind in ('keyDown', 'keyUp'):
      await tab.call(
        'Input.dispatchKeyEvent',
        type=kind,
        modifiers=2,
        key='Enter',
        code='Enter',
        windowsVirtualKeyCode=13,
      )
    await tab.until(f'methods[0].answers.length === 4 && {ASKED} && {FILES}')
    seen['asked'] = await all_text('asked')
    seen['said'] = await all_text('caption')
    seen['places'] = await all_text('places')
    seen['notes'] = await all_text('note')
    seen['label'] = await tab.run(
      f"{_part('drawing')}.getAttribute('aria-label')"
    )
    # Of the colour of the first box, in the drawing's units.
    seen['box'] = await tab.run(
      f"""Array.from({_part('drawing')}.querySelectorAll(':scope > rect'))
        .slice(0, 1).map((r) => ['x', 'y', 'width', 'height']
        .map((name) => Number(r.getAttribute(name))))[0]"""
    )
    seen['scripts'] = await tab.run(
      "document.querySelectorAll('.answers script').length"
    )
    for width in (1280, 390):
      for dark in (False, True):
        await tab.show(width, 900, dark=dark)
        fits = 'document.documentElement.scrollWidth <= innerWidth'
        seen[width, dark] = await tab.run(fits)
        # No label leaves the picture.
        seen[width, dark] &= await tab.run(
          f"""(() => {{
            const whole = {_part('drawing')}.getBoundingClientRect();
            return [...{_part('drawing')}.querySelectorAll('g > rect')].every(
              (r) => {{
                const box = r.getBoundingClientRect();
                return box.left >= whole.left - 1 && box.top >= whole.top - 1
                  && box.right <= whole.right + 1
                  && box.bottom <= whole.bottom + 1;
              }});
          }})()"""
        )
    # Without questions it is as at first.
    await tab.run("document.getElementById('prompts').value = ''")
    await tab.run("document.getElementById('ask').requestSubmit()")
    await tab.until(f'methods[0].answers.length === 1 && {ASKED}')
    seen['left'] = await tab.run(
      f'[{_part("found")}.hidden, {_part("caption")}.textContent]'
    )
    return seen

  seen, errors, elsewhere = _browse(client, work)
  assert seen['asked'] == prompts
  assert seen['said'] == [
    'red ring; ring',
    '<script>alert(1)</script>',
    'cat',
    '<loc0001><loc0002> cat',
  ]
  assert seen['places'][0] == (
    '1red ring: left 0, top 50, right 300, bottom 100'
    '2ring: left 264, top 176, right 300, bottom 200'
  )
  assert seen['places'][2] == '3cat: left 0, top 50, right 300, bottom 100'
  assert seen['places'][1] == seen['places'][3] == ''
  assert seen['notes'][1] == '0 bytes sent: the server has the picture.'
  assert '--mask_weights' in seen['notes'][2]
  assert 'no whole box' in seen['notes'][3]
  assert seen['label'].startswith('The picture with 3 boxes: 1, red ring: left')
  assert seen['box'] == pytest.approx([0, 120.1, 480, 120.1], abs=0.1)
  assert seen['scripts'] == 0
  assert all(seen[w, d] for w in (1280, 390) for d in (False, True))
  assert seen['left'] == [True, 'a red ball']
  assert errors == []
  assert [u for u in elsewhere if not u.startswith('data:')] == []


@needs_browser
def test_no_number_of_an_earlier_picture_is_left():
  """A picture is chosen while the server is gone; then it has other codecs."""
  server = contextlib.ExitStack()
  target = server.enter_context(scripted.serving(scripted.ScriptedServer()))
  port = int(target.rpartition(':')[2])

  async def work(tab):
    async def facts():
      return await tab.run(
        f"""Array.from({_part('facts')}.children,
          (fact) => fact.lastChild.textContent)"""
      )

    seen = {}
    await tab.until(f'methods.length === 2 && {IDLE} && {FILES}')
    seen['before'] = await facts()
    await asyncio.to_thread(server.close)
    await tab.run("document.querySelectorAll('#scenes button')[5].click()")
    await tab.until(f"{_part('facts')}.textContent.includes('\u2026')")
    seen['waiting'] = await facts()
    await tab.until(f'!{_part("error")}.hidden && {IDLE}')
    seen['failed'] = await facts()
    seen['hidden'] = await tab.run(
      """
      ['seen', 'costs', 'file'].map((name) => methods[0].part(name).hidden)
      """
    )
    seen['picture'] = await tab.run("document.getElementById('picture').hidden")
    other = scripted.ScriptedServer()
    other.lists = 'random(k=2)', ''
    with scripted.serving(other, port=port):
      await tab.until(
        f"{_part('codec')}.textContent.startsWith('random') && {IDLE}"
      )
      seen['after'] = await facts()
    return seen

  codec = _make('jpeg(quality=10)')
  with server, clients.EdgeClient(target, codec, timeout=3.0) as client:
    seen, errors, _ = _browse(client, work)
  assert len(seen['before']) == 4
  assert seen['waiting'][2:] == ['\u2026', '\u2026']
  assert seen['failed'] == []
  assert seen['hidden'] == [True] * 3
  assert not seen['picture']
  assert seen['after'][1] == '2 of 64'
  assert errors == []


@needs_browser
def test_the_page_says_that_the_server_is_gone():
  """Within three seconds; and it goes on when the server is back."""
  server = scripted.serving(scripted.ScriptedServer())
  target = server.__enter__()

  async def work(tab):
    await tab.until(f'methods.length === 2 && {IDLE}')
    await asyncio.to_thread(lambda: server.__exit__(None, None, None))
    start = time.monotonic()
    await tab.until("!document.getElementById('banner').hidden")
    seconds = time.monotonic() - start
    text = await tab.run("document.getElementById('banner').textContent")
    again = scripted.serving(
      scripted.ScriptedServer(), port=int(target.rpartition(':')[2])
    )
    with again:
      await tab.until("document.getElementById('banner').hidden")
    return seconds, text

  with clients.EdgeClient(target, _make('jpeg(quality=10)')) as client:
    (seconds, text), errors, _ = _browse(client, work)
  assert seconds < 3
  assert text.startswith(f'The server at {target} does not answer: ')
  assert errors == []


def test_closed_browser_cancels_its_request(client, servicer):
  servicer.failures = []
  seen = []

  def hold(request):
    while request.is_active() and len(seen) < 200:
      seen.append(1)
      time.sleep(0.02)
    seen.append('ended')

  async def work(session):
    query = '/api/caption?method=2&number=10&scene=1'
    async with session.post(query) as reply:
      for _ in range(3):
        await reply.content.readline()
      while not seen:  # Else gRPC may end the stream before `hold` starts.
        await asyncio.sleep(0.01)
    # The browser has closed the connection in the middle of the caption.
    until = time.monotonic() + 10
    while 'ended' not in seen and time.monotonic() < until:
      await asyncio.sleep(0.02)

  servicer.after_piece = hold
  try:
    _run(client, work)
  finally:
    servicer.after_piece = None
  assert seen[-1] == 'ended'
  assert len(seen) < 200


@pytest.mark.skipif(sys.platform != 'linux', reason='glibc alone keeps it')
def test_memory_of_large_pictures_is_given_back():
  """A picture of 144 MB leaves nothing, though launchers keep buffers."""
  code = """
import io, pathlib
from PIL import Image
from collab_jax import launcher
from collab_jax.serving.web import backend

def resident():
  text = pathlib.Path('/proc/self/status').read_text()
  return int(text.split('VmRSS:')[1].split()[0]) >> 10

launcher._reuse_large_buffers()
file = io.BytesIO()
Image.new('RGB', (7000, 7000), (9, 8, 7)).save(file, 'JPEG')
page = backend.DemoBackend(None, None, 64)
backend._LARGE, large = 1 << 60, backend._LARGE
page.read(file.getvalue())
kept = resident()
backend._LARGE = large
page.read(file.getvalue())
print(kept - resident())
"""
  freed = subprocess.check_output([sys.executable, '-c', code], text=True)
  assert int(freed) > 100
