"""Metrics of answers equal the evaluation code of others, from its records."""

import json
import pathlib

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from collab_jax import masks, metrics, regions
from collab_jax.metrics import anls

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
VQA = json.loads((GOLDEN / 'vqa.json').read_text())['cases']
ANSWERS = json.loads((GOLDEN / 'answers.json').read_text())
REGIONS = json.loads((GOLDEN / 'regions.json').read_text())


def differences(name, cases, scale=1.0, tolerance=1e-12):
  """Returns the cases whose scores are not those of the record."""
  metric = metrics.make(name)
  assert len(cases) >= 200
  scores = metric.scores([c[0] for c in cases], [c[1] for c in cases])
  return [
    (case, score)
    for case, score in zip(cases, scale * scores, strict=True)
    if abs(case[2] - score) > tolerance
  ]


def test_vqa_is_the_official_evaluation():
  cases = [(answer, refs, score) for answer, refs, score, _ in VQA]
  assert differences('vqa', cases, 100, 1e-9) == []
  assert len({score for *_, score in cases}) >= 5


def test_matches_are_big_visions():
  cases = [(answer, refs, score) for answer, refs, _, score in VQA]
  assert differences('vqa_matches', cases) == []


@pytest.mark.parametrize(
  ('name', 'recorded'),
  [
    ('exact', 'exact'),
    ('exact(case=ignore)', 'exact_lower'),
    ('anls(case=exact)', 'anls'),
    ('anls', 'anls_lower'),
    ('relaxed', 'relaxed'),
    ('count', 'count'),
  ],
)
def test_scores_of_one_answer_are_big_visions(name, recorded):
  cases = [(answer, [ref], score) for answer, ref, score in ANSWERS[recorded]]
  assert differences(name, cases) == []
  assert 0.1 < np.mean([score for *_, score in cases]) < 0.95


def test_the_best_of_several_references_counts():
  for name in ('exact', 'anls', 'relaxed', 'count', 'choice'):
    metric = metrics.make(name)
    assert metric.score(['7'], [['5', '7', '6000']]) == 1, name
    assert metric.score(['8.5'], [['5', '7', '6000']]) == 0, name


def test_choices():
  choice = metrics.make('choice')
  assert choice.score(['B', ' b '], [['b'], ['B']]) == 1
  assert choice.score(['', 'c'], [[''], ['b']]) == 0


@pytest.mark.parametrize(
  ('text', 'said'),
  [
    ('anls(threshold=2)', 'threshold: got 2, expected a number from 0 to 1'),
    ('relaxed(tolerance=-1)', 'tolerance: got -1, expected a number of at le'),
    ('exact(case=lower)', "case: got 'lower', expected one of exact, ignore"),
    ('box_accuracy(iou=5)', 'iou: got 5, expected a number from 0 to 1'),
    ('box_matches(iou=x)', "iou: got 'x', expected a number from 0 to 1"),
  ],
)
def test_settings_out_of_range(without_types, text, said):
  with pytest.raises(ValueError, match=said):
    metrics.make(text)


@pytest.mark.parametrize(
  'name', [n for n in metrics.NAMES if n not in metrics.DEFAULT]
)
@pytest.mark.parametrize(
  ('answers', 'references', 'said'),
  [
    ([], [], r'answers: got \[\], expected at least one to score'),
    (['a', 'b'], [['a']], 'references: number: got 1, expected 2, a list for'),
    (['a'], [['a'], ['b']], 'references: number: got 2, expected 1, a list'),
    (['a', 'b'], [['a'], []], r'references\[1\]: got \[\], expected a list of'),
    (['a', 'b'], [['a'], 'b'], r"references\[1\]: got 'b', expected a list of"),
    ('ab', [['a'], ['b']], "answers: got 'ab', expected a list with an entry"),
    (['a', 'b'], 'ab', "references: got 'ab', expected a list with an entry"),
    (['a'], None, 'references: got None, expected a list with an entry'),
    (['a'], [3], r'references\[0\]: got 3, expected a list of one or more'),
    (['a', 2], [['a'], ['2']], r'answers\[1\]: got 2, expected a text'),
    (['a'], [['a', None]], r'references\[0\]\[1\]: got None, expected a text'),
  ],
)
def test_refuses_what_cannot_be_scored(
  without_types, name, answers, references, said
):
  metric = metrics.make(name)
  for score in (metric.score, metric.scores):
    with pytest.raises(ValueError, match=said):
      score(answers, references)


def test_arrays_of_answers_are_scored(without_types):
  answers, references = np.array(['a', 'b']), np.array([['a'], ['c']])
  assert metrics.make('exact').score(answers, references) == 0.5


def test_labels_say_the_threshold():
  assert metrics.make('box_accuracy(iou=0.75)').label == 'boxes at IoU 0.75'
  assert metrics.make('box_matches').describe()['label'].endswith('0.5')


def slow_edits(a, b):
  row = [*range(len(b) + 1)]
  for i, x in enumerate(a, 1):
    last, row[0] = row[0], i
    for j, y in enumerate(b, 1):
      last, row[j] = (
        row[j],
        min(row[j] + 1, row[j - 1] + 1, last + (x != y)),
      )
  return row[-1]


@settings(deadline=None, max_examples=300)
@given(st.text('abc\u00e9', max_size=80), st.text('abc\u00e9', max_size=80))
def test_edits_are_those_of_the_table(a, b):
  assert anls.edits(a, b) == slow_edits(a, b)


def test_boxes_overlap_as_in_pycocotools():
  assert len(REGIONS['boxes']) >= 200
  for a, b, overlap in REGIONS['boxes']:
    # Corners are x and y in the record.
    first, second = (
      regions.write(regions.Region((c[1], c[0], c[3], c[2]))) for c in (a, b)
    )
    got = metrics.make('box_iou').score([first], [[second]])
    assert got == pytest.approx(overlap, abs=1e-12)


def test_polygons_are_filled_as_in_pycocotools():
  assert len(REGIONS['polygons']) >= 200
  for height, width, shape, counts in REGIONS['polygons']:
    mask = masks.from_polygons(shape, height, width)
    assert masks.encode(mask) == (height, width, counts)


def test_masks_overlap_as_in_pycocotools():
  assert len(REGIONS['masks']) >= 200
  for height, width, a, b, overlap in REGIONS['masks']:
    box = (0.0, 0.0, 1.0, 1.0)
    first, second = (
      regions.write(
        regions.Region(box, masks.RunLengths(height, width, counts))
      )
      for counts in (a, b)
    )
    got = metrics.make('mask_iou').score([first], [[second]])
    assert got == pytest.approx(overlap, abs=1e-12)


def test_masks_of_other_sizes_do_not_overlap():
  texts = [
    regions.write(regions.Region((0, 0, 1, 1), masks.encode(np.ones(s, bool))))
    for s in ((2, 3), (3, 2))
  ]
  assert metrics.make('mask_iou').score(texts[:1], [texts[1:]]) == 0
  assert metrics.make('mask_iou').score(texts[:1], [texts]) == 1


def test_several_boxes_are_matched():
  one = '<loc0000><loc0000><loc0500><loc0500> ring'
  other = '<loc0500><loc0500><loc1000><loc1000> ring'
  both = f'{one} ; {other}'
  metric = metrics.make('box_matches')
  assert metric.score([f'{other};{one}'], [[both]]) == 1
  assert metric.score([one], [[both]]) == 0.5
  assert metric.score(['a ring'], [[both]]) == 0
  assert metrics.make('box_accuracy').score([both], [[one]]) == 1
