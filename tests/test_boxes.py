import pytest

from collab_jax import boxes

WHOLE = boxes.Box(0.0, 0.0, 1.0, 1.0)


def test_text_is_paligemmas():
  text = boxes.write([WHOLE, boxes.Box(0.25, 0.5, 0.5, 1.0)], 'red ring')
  assert text == (
    '<loc0000><loc0000><loc1023><loc1023> red ring ; '
    '<loc0256><loc0512><loc0512><loc1023> red ring'
  )
  (first, name), (second, other) = boxes.read(text)
  assert name == other == 'red ring'
  assert first == WHOLE
  assert second == pytest.approx((0.25, 0.5, 0.5, 1.0), abs=1 / 1023)


@pytest.mark.parametrize(
  'text',
  [
    '',
    'a red ring',
    '<loc0000><loc0000><loc1023> ring',
    '<loc0000><loc0000><loc1024><loc1023> ring',
    '<loc0500><loc0000><loc0500><loc1023> ring',
    '<loc0000><loc0500><loc0500><loc0400> ring',
    '<loc12><loc0500><loc0500><loc0400> ring',
  ],
)
def test_text_without_a_box(text):
  assert boxes.read(text) == []


def test_boxes_are_read_among_other_text():
  text = 'x <loc0000><loc0000><loc1023><loc1023>;<loc0000> ring'
  assert boxes.read(text) == [(WHOLE, '')]


def test_intersection_over_union():
  left, right = boxes.Box(0, 0, 1, 0.5), boxes.Box(0, 0.5, 1, 1)
  assert boxes.iou(WHOLE, WHOLE) == 1
  assert boxes.iou(WHOLE, left) == boxes.iou(left, WHOLE) == 0.5
  assert boxes.iou(left, right) == 0
  empty = boxes.Box(0, 0, 0, 0)
  assert boxes.iou(empty, empty) == 0


def test_matching_takes_each_box_once():
  left, right = boxes.Box(0, 0, 1, 0.5), boxes.Box(0, 0.5, 1, 1)
  assert boxes.matched([right, left], [left, right]) == 1
  assert boxes.matched([left, left], [left, right]) == 0.5
  assert boxes.matched([left], [left, right]) == 0.5
  assert boxes.matched([left, right, WHOLE], [left]) == pytest.approx(1 / 3)
  assert boxes.matched([], [left]) == boxes.matched([left], []) == 0
  assert boxes.matched([], []) == 1
  assert boxes.matched([WHOLE], [left], 0.51) == 0
