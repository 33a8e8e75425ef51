"""Figures of answers: boxes where the texts say, and any text beside them."""

import numpy as np
import pytest

from collab_jax import plots
from tests.models import test_mask_decoder
from tests.plots import test_user_text

BOX = '<loc0256><loc0000><loc0512><loc1023>'
CODES = ''.join(f'<seg{i:03d}>' for i in range(16))
IMAGE = np.full((100, 200, 3), 128, np.uint8)


def texts(figure):
  return [text.get_text() for text in figure.texts]


def test_boxes_lie_where_the_answer_says():
  figure = plots.draw_answers(
    IMAGE, [f'{BOX} ring', '2'], ['detect ring', 'answer en how many']
  )
  (axes,) = figure.axes
  (box,) = axes.patches
  # Pixels have their middles at whole numbers.
  np.testing.assert_allclose(box.get_xy(), (-0.5, 100 * 256 / 1023 - 0.5))
  np.testing.assert_allclose(box.get_width(), 200)
  np.testing.assert_allclose(box.get_height(), 100 * 256 / 1023)
  assert [t.get_text() for t in axes.texts] == ['1 ring']
  assert texts(figure) == [
    'detect ring',
    '1 ring: left 0, top 25, right 200, bottom 50',
    ' ',
    'answer en how many',
    '2',
  ]


def test_masks_are_drawn_with_their_weights(tmp_path):
  answer = f'{BOX}{CODES} cat'
  figure = plots.draw_answers(IMAGE, answer)
  assert len(figure.axes[0].images) == 1
  assert 'masks need mask_weights=...' in texts(figure)
  weights = test_mask_decoder.write(tmp_path, test_mask_decoder.weights())
  figure = plots.draw_answers(IMAGE, answer, mask_weights=weights)
  _, tint = figure.axes[0].images
  assert tint.get_array().shape == (100, 200, 4)
  assert tint.get_array()[..., 3].any()


@pytest.mark.parametrize(
  'text',
  [
    '',
    '<loc0001><loc0002> half',
    f'{BOX}<loc0001> a',
    f'{BOX}{"<seg999>" * 16} a',
    f'{BOX} a ; ' * 300,
    'long ' * 5000,
    *test_user_text.TEXTS[:6],
    *(f'{BOX} {text}' for text in test_user_text.TEXTS[:6]),
  ],
)
def test_any_answer_is_drawn(text, tmp_path):
  figure = plots.draw_answers(IMAGE, [text, text], [text, text])
  width, height = figure.get_size_inches()
  assert width < 9
  assert height < 13
  plots.save(figure, tmp_path / 'drawn', dpi=30)


@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    ((IMAGE[None], 'a'), 'image: got shape'),
    ((IMAGE, ['a', 'b'], ['p']), 'prompts: number: got 1, expected as'),
  ],
)
def test_bad_arguments_are_refused(arguments, said, unchecked):
  with pytest.raises(ValueError, match=said):
    plots.draw_answers(*arguments)


def test_weights_that_are_not_there(tmp_path):
  with pytest.raises(FileNotFoundError, match='mask decoder: got'):
    plots.draw_answers(IMAGE, 'a', mask_weights=tmp_path / 'none.npz')
