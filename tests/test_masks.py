"""Run lengths and regions: what goes in comes out, and bad ones are refused."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest

from collab_jax import boxes, masks, regions


@settings(deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(0, 20), st.integers(0, 20))))
def test_run_lengths_come_back(mask):
  runs = masks.encode(mask)
  np.testing.assert_array_equal(masks.decode(runs), mask)


def test_long_runs_come_back():
  mask = np.zeros((300, 400), bool)
  mask[7:250, 3:390] = True
  np.testing.assert_array_equal(masks.decode(masks.encode(mask)), mask)


@pytest.mark.parametrize(
  ('runs', 'said'),
  [
    ((2, 2, ''), 'expected lengths of 2 x 2 pixels'),
    ((2, 2, '5'), 'got .5 pixels., expected lengths of 2 x 2'),
    ((2, 2, 'P'), 'expected a text that is not cut'),
    ((2, 2, '\u00e9'), "expected COCO's text of counts"),
    ((2, 2, 'o' * 30), "expected COCO's text of counts"),
    ((-1, 2, '4'), 'mask: height: got -1'),
    ((10**6, 10**6, '4'), 'mask: pixels: got 1000000000000'),
    ((2, 2, '3O2'), 'mask: counts'),
  ],
)
def test_bad_run_lengths(without_types, runs, said):
  with pytest.raises(ValueError, match=said):
    masks.decode(masks.RunLengths(*runs))


def test_polygons():
  square = [1, 1, 4, 1, 4, 3, 1, 3]
  mask = masks.from_polygons([square, [0, 0, 0, 0, 0, 0]], 5, 6)
  assert mask.sum() == 6
  assert mask[1:3, 1:4].all()
  assert not masks.from_polygons([], 5, 6).any()
  assert not masks.from_polygons([[]], 5, 6).any()
  assert masks.iou(mask, mask) == 1
  assert masks.iou(np.zeros((2, 2), bool), np.zeros((2, 2), bool)) == 0


def test_regions_come_back():
  box = boxes.Box(0.1, 0.2, 0.3, 1 / 3)
  mask = masks.encode(np.eye(4, dtype=bool))
  for region in (regions.Region(box), regions.Region(box, mask)):
    assert regions.read(regions.write(region)) == [region]
  tokens = '<loc0000><loc0000><loc1023><loc1023> x'
  assert regions.read(tokens) == [regions.Region(boxes.Box(0, 0, 1, 1))]
  assert regions.read('no box') == []


@pytest.mark.parametrize(
  'text',
  [
    '{',
    '{}',
    '{"box": 3}',
    '{"box": [1, 2, 3]}',
    '{"box": ["1", 2, 3, 4]}',
    '{"box": [0, 0, 1, NaN]}',
    '{"box": [0, 0, 1, 1], "mask": [2, 2]}',
    '{"box": [0, 0, 1, 1], "mask": [2, 2, [4]]}',
    '{"box": [0, 0, 1, 1], "mask": [2.5, 2, "4"]}',
  ],
)
def test_bad_regions(without_types, text):
  with pytest.raises(ValueError, match='region: got'):
    regions.read(text)
