"""Answers read as boxes and masks at a picture's size; any text is read."""

import json
import pathlib
import time

import hypothesis
from hypothesis import strategies as st
import numpy as np
import pytest

from collab_jax import boxes, data, masks, regions, tasks
from collab_jax.models import mask_decoder
from tests.models import test_mask_decoder

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'regions.json'
WHOLE = '<loc0000><loc0256><loc0512><loc1023>'
CODES = ''.join(f'<seg{i:03d}>' for i in range(16))


def parse(text, height=100, width=200, decoder=None):
  return tasks.parse_answer(text, height, width, decoder)


def test_boxes_are_in_pixels_of_the_picture():
  parts = parse(f'{WHOLE} red ring ; {WHOLE}cat')
  ring, cat = parts.detections
  assert ring.name == 'red ring'
  assert cat.name == 'cat'
  # y before x in the text; left, top, right and bottom in pixels.
  assert ring.pixels == (50, 0, 200, 50)
  assert ring.share == (0, 256 / 1023, 512 / 1023, 1)
  assert (ring.has_codes, ring.mask, parts.rest) == (False, None, '')
  assert ring.describe() == 'red ring: left 50, top 0, right 200, bottom 50'
  assert parse(WHOLE, 480, 640).detections[0].pixels == (160, 0, 640, 240)


@pytest.mark.parametrize(
  ('text', 'names', 'rest'),
  [
    ('', [], ''),
    ('two rings', [], 'two rings'),
    ('<loc0000><loc0256> red ring', [], '<loc0000><loc0256> red ring'),
    (f'{WHOLE} a ; <loc0001><loc0002> b', ['a'], '<loc0001><loc0002> b'),
    # The metrics of boxes read the first four, too.
    (f'{WHOLE}<loc0007> a', [''], '<loc0007> a'),
    (f'{WHOLE}{WHOLE} a', ['', 'a'], ''),
    ('<loc0000><loc0000><loc1024><loc1023> a', [], None),
    ('<loc0500><loc0000><loc0400><loc1023> a', [], None),
    ('<loc0000><loc0000><loc0000><loc0000> a', [], None),
    (f'{WHOLE}{CODES} cat', ['cat'], ''),
    (f'{WHOLE}{"<seg001>" * 15} cat', [''], f'{"<seg001>" * 15} cat'),
    (f'{WHOLE}{"<seg128>" * 16} cat', ['cat'], '<seg128>' * 16),
    (f'here: {WHOLE} a ; and', ['a'], 'here: ; and'),
  ],
)
def test_what_is_no_box_stays_text(text, names, rest):
  parts = parse(text)
  assert [d.name for d in parts.detections] == names
  assert parts.rest == (text if rest is None else rest)


PIECES = st.sampled_from(
  [WHOLE, CODES, '<loc0001>', '<seg128>', ' ; ', 'cat', '<', '\n', '<loc9999>']
)


@hypothesis.given(st.lists(PIECES, max_size=12).map(''.join) | st.text())
def test_boxes_are_those_that_metrics_read(text):
  parts = parse(text, 64, 64)
  shares = [d.share for d in parts.detections]
  assert shares == [box for box, _ in boxes.read(text)]
  for detection in parts.detections:
    left, top, right, bottom = detection.pixels
    assert 0 <= left <= right <= 64
    assert 0 <= top <= bottom <= 64


def test_long_texts_are_bounded():
  start = time.perf_counter()
  parts = parse(f'{WHOLE} a ; ' * 20_000 + '<loc0001>' * 100_000)
  assert len(parts.detections) == 256
  assert time.perf_counter() - start < 5


def test_masks_are_decoded_at_the_picture_s_size(tmp_path):
  path = test_mask_decoder.write(tmp_path, test_mask_decoder.weights())
  decoder = mask_decoder.load(path)
  (found,) = parse(f'{WHOLE}{CODES} cat', decoder=decoder).detections
  assert found.has_codes
  assert found.mask is not None
  assert found.mask.shape == (100, 200)
  left, _, _, bottom = found.pixels
  assert not found.mask[bottom + 1 :].any()
  assert not found.mask[:, : left - 1].any()
  # Equal to the mask that a task reads at the same size.
  answer = f'{WHOLE}{CODES}'
  reference = regions.write(regions.Region(found.share, _runs(found.mask)))
  task = tasks.RefCoco(weights=str(path))
  read = task.read(answer, data.Question('cat', (reference,)))
  (region,) = regions.read(read)
  assert region.mask == _runs(found.mask)
  # Narrower than a pixel, a box has no mask; without a decoder neither.
  thin = '<loc0000><loc0000><loc0001><loc1023>'
  (found,) = parse(f'{thin}{CODES}', decoder=decoder).detections
  assert (found.has_codes, found.mask) == (True, None)
  (found,) = parse(f'{WHOLE}{CODES}').detections
  assert (found.has_codes, found.mask) == (True, None)


def test_recorded_boxes_are_read():
  cases = json.loads(GOLDEN.read_text())['cases']
  for case in cases:
    text = ''.join(f'<loc{t:04d}>' for t in case['box_tokens'])
    assert [d.share for d in parse(text).detections] == [
      box for box, _ in boxes.read(text)
    ]


@pytest.mark.parametrize(('height', 'width'), [(0, 5), (5, 0)])
def test_a_picture_has_pixels(height, width):
  with pytest.raises(ValueError, match=r'(height|width): got 0, expected'):
    parse(WHOLE, height, width)


def _runs(mask):
  return masks.encode(np.asarray(mask))
