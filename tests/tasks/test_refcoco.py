"""RefCOCO: texts to boxes and masks, scored as big_vision scores them."""

import contextlib
import json
import pathlib
import pickle

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from collab_jax import boxes, data, masks, metrics, regions, tasks
from collab_jax.models import mask_decoder
from collab_jax.tasks import pickled, refcoco
from tests.models import test_mask_decoder
from tests.tasks import folders

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'


def text_of(case):
  places = ''.join(f'<loc{t:04d}>' for t in case['box_tokens'])
  return places + ''.join(f'<seg{c:03d}>' for c in case['codes'])


def test_scores_are_big_visions(monkeypatch):
  """The decoder's numbers are those of the record; all else is computed."""
  record = json.loads((GOLDEN / 'regions.json').read_text())
  cases, shift = record['cases'], record['logits_shift']
  assert len(cases) >= 200
  task = tasks.RefCoco(weights='recorded')
  names = ('mask_iou', 'box_accuracy', 'box_accuracy(iou=0.75)')
  scorers = [metrics.make(name) for name in names]
  monkeypatch.setattr(refcoco, '_decoder', lambda path: {path: None})
  for case in cases:
    box, height, width, counts = case['reference']
    logits = np.kron(np.array(case['logits']) + shift, np.ones((8, 8)))
    monkeypatch.setattr(
      mask_decoder, 'decode', lambda params, codes, x=logits: x[None]
    )
    runs = masks.RunLengths(height, width, counts)
    reference = regions.write(regions.Region(boxes.Box(*box), runs))
    question = data.Question('left', (reference,))
    answer = task.read(text_of(case), question)
    got = [m.score([answer], [[reference]]) for m in scorers]
    assert got == pytest.approx(case['scores'], abs=1e-12), case
  positive = np.mean([np.array(case['scores']) > 0 for case in cases], 0)
  assert (positive > 0.03).all()


def test_masks_are_decoded_and_pasted(tmp_path):
  folders.refcoco(tmp_path)
  arrays = test_mask_decoder.weights()
  arrays['decoder.12.bias'] -= 0.12  # Else nearly all would be inside.
  path = test_mask_decoder.write(tmp_path, arrays)
  task = tasks.RefCoco(weights=str(path))
  question = task.load(tmp_path)[0].questions[0]
  codes = [*range(16)]
  text = '<loc0100><loc0200><loc0800><loc0900>' + ''.join(
    f'<seg{c:03d}>' for c in codes
  )
  (region,) = regions.read(task.read(text, question))
  mask = masks.decode(region.mask)
  assert mask.shape == (30, 40)
  params = mask_decoder.load(path)
  logits = np.asarray(mask_decoder.decode(params, np.array([codes])))[0]
  inside = np.zeros_like(mask)
  inside[2:23, 7:35] = True
  assert not (mask & ~inside).any()
  assert 0.05 < mask[inside].mean() < 0.95
  assert abs(mask[inside].mean() - (logits > 0).mean()) < 0.3


@pytest.mark.parametrize(
  ('text', 'box', 'segment'),
  [
    ('<loc0000><loc0000><loc1023><loc1023>', True, False),
    (' <loc0000><loc0000><loc1023><loc1023> ring', True, False),
    ('<loc0000><loc0000><loc1023><loc1023>' + '<seg001>' * 16, True, True),
    ('<loc0000><loc0000><loc1023><loc1023> ' + '<seg001>' * 17, True, True),
    ('<loc0000><loc0000><loc1023><loc1023>' + '<seg001>' * 15, True, False),
    ('<loc0000><loc0000><loc1023><loc1023>' + '<seg128>' * 16, False, False),
    ('<loc0000><loc0000><loc1024><loc1023>', False, False),
    ('<loc0500><loc0000><loc0400><loc1023>', False, False),
    ('ring <loc0000><loc0000><loc1023><loc1023>', False, False),
    ('', False, False),
  ],
)
def test_texts_that_are_regions(tmp_path, text, box, segment):
  weights = test_mask_decoder.write(tmp_path, test_mask_decoder.weights())
  reference = regions.write(
    regions.Region(boxes.Box(0, 0, 1, 1), masks.encode(np.ones((3, 4), bool)))
  )
  question = data.Question('ring', (reference,))
  assert bool(tasks.RefCocoBox().read(text, question)) == box
  task = tasks.RefCoco(weights=str(weights))
  assert bool(task.read(text, question)) == segment


def test_boxes_and_masks_of_the_lists(tmp_path):
  folders.refer(tmp_path)
  reader = tasks.RefCocoBox().load(tmp_path)
  assert len(reader) == 4  # The fifth is of testA.
  asked = reader[1].questions
  assert [q.prompt for q in asked] == [
    f'left {n} {k}' for n in range(2) for k in range(2)
  ]
  (region,) = regions.read(asked[0].references[0])
  assert region.box == pytest.approx((4 / 30, 3 / 40, 16 / 30, 23.5 / 40))
  mask = masks.decode(region.mask)
  assert mask[4:16, 3:23].all()
  assert mask.sum() == pytest.approx(12 * 20.5, abs=12)
  # A crowd's counts go down the columns.
  crowd = masks.decode(
    regions.read(reader[0].questions[0].references[0])[0].mask
  )
  assert crowd.sum() == 90
  assert np.flatnonzero(crowd.T.ravel())[0] == 100


@pytest.mark.parametrize('year', ['train2014', 'train2017'])
@pytest.mark.parametrize('form', ['json', 'inside'])
def test_other_places_of_the_files(tmp_path, year, form):
  path = folders.refer(tmp_path)
  if form == 'json':
    refs = pickled.loads(path.read_bytes(), 'refs')
    path.unlink()
    folders.write_json(path.with_suffix('.json'), refs)
  if year == 'train2017':
    old = tmp_path / 'train2014'
    for picture in old.iterdir():
      picture.rename(picture.with_name(picture.name.split('_')[2]))
    old.rename(tmp_path / year)
  if form == 'inside':
    for file in (tmp_path / 'refcoco').iterdir():
      file.rename(tmp_path / file.name)
    (tmp_path / 'refcoco').rmdir()
  assert len(tasks.RefCocoBox().load(tmp_path, 'testA')) == 1


def test_a_mix_checkpoint_takes_another_prompt(tmp_path):
  folders.refer(tmp_path, 'refcoco+')
  task = tasks.make('refcoco_box(dataset=refcoco+,prompt=detect {sentence})')
  assert task.load(tmp_path)[0].questions[0].prompt == 'detect left 0 0'
  assert task.label == 'RefCOCO+ boxes'


PLAIN = [
  {'a': [1, -2, 2**40, 1.5, None, True, False], 'b': ('x', (), {}, [])},
  ['\u00e9 \u8349', 'twice', 'twice', {1: 'one', 'two': [[]]}],
  [
    [i, {'sent': f'left {i}', 'ids': (i, i + 1, i + 2, i + 3)}]
    for i in range(9)
  ],
]


@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('value', PLAIN)
def test_plain_pickles_come_back(protocol, value):
  assert pickled.loads(pickle.dumps(value, protocol), 'x') == value


class Evil:
  """Would write a file if it were unpickled."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return open, (str(self.path), 'w')


@pytest.mark.parametrize('protocol', range(6))
def test_pickles_with_code_are_refused(tmp_path, protocol):
  path = tmp_path / 'ran'
  content = pickle.dumps([{'split': 'val'}, Evil(path)], protocol)
  with pytest.raises(ValueError, match='it may run code, and is not read'):
    pickled.loads(content, 'refs(unc).p')
  assert not path.exists()


@pytest.mark.parametrize(
  'content',
  [
    b'',
    b'no pickle',
    b'.',
    b'(.',
    b'a.',
    b'l.',
    b'}K\x01a.',
    b'h\x07.',
    b'I9\n',
    b']]..',
    b'\x8a\xff\xff',
    b'I1',
    b'T\xff\xff\xff\x7fx.',
    b'\x8b\xff\xff\xff\xff.',
    b"S'x.\n.",
    b'K\x01\x87.',
  ],
)
def test_damaged_pickles(content):
  with pytest.raises(ValueError, match='x'):
    pickled.loads(content, 'x')


def test_texts_and_numbers_of_the_first_protocol():
  content = b"(lp0\nS'left'\np1\naS\"it's\"\np2\naVcaf\xe9\np3\nag1\na."
  want = ['left', "it's", 'caf\u00e9', 'left']
  assert pickled.loads(content, 'x') == want
  numbers = b'(I01\nI00\nI7\nL9L\nF1.5\nt.'
  assert pickled.loads(numbers, 'x') == (True, False, 7, 9, 1.5)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_changed_pickles_run_nothing(data):
  protocol = data.draw(st.sampled_from([0, 2, 4]))
  content = bytearray(pickle.dumps(PLAIN, protocol))
  for _ in range(data.draw(st.integers(1, 4))):
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
  with contextlib.suppress(ValueError):
    pickled.loads(bytes(content), 'x')
