"""The figures of bytes and seconds hold the numbers of their rows."""

from matplotlib import lines
import numpy as np
import pytest

from collab_jax import evaluation, plots
from collab_jax.evaluation.report import rate
from collab_jax.plots import rates as rate_plots
from tests.evaluation import synthetic


@pytest.fixture(scope='module')
def rows():
  records = synthetic.make(pictures=synthetic.PICTURES)
  return evaluation.summarize(records, resamples=20)


@pytest.mark.parametrize(('y', 'scale'), [('bleu4', 1), ('cider', 100)])
def test_lines_are_fronts_of_families(rows, y, scale):
  axes = plots.rate(rows, y).axes[0]
  lines = {line.get_label(): line for line in axes.lines}
  families = rate.families(rows)
  shown = [n for n in families if n != 'all vectors']
  assert len(shown) == 8
  for name in shown:
    front = rate.front(families[name], y)
    np.testing.assert_allclose(
      lines[name].get_xydata(),
      [(row['bytes'], scale * row[y]) for row in front],
    )
  for name, group in zip(
    (rate.FEATURES, rate.PICTURES), rate.split(rows), strict=True
  ):
    np.testing.assert_allclose(
      lines[f'front of {name}'].get_ydata(),
      [scale * row[y] for row in rate.front(group, y)],
    )
  # Every codec is a point, on a front or not.
  points = {tuple(xy) for line in axes.lines for xy in line.get_xydata()}
  for name in shown:
    for row in families[name]:
      assert (row['bytes'], scale * row[y]) in points
  assert axes.get_xscale() == 'log'
  texts = ' '.join(t.get_text() for t in axes.texts)
  assert all(name in texts for name in shown)
  assert ('the paper: 8 centroids' in texts) == (y == 'bleu4')


def test_families_differ_without_colour(rows):
  looks, other = rate_plots.styles(rate.families(rows))
  assert other == []
  assert len({marker for _, marker, _ in looks.values()}) == len(looks)
  many = {
    f'family {n}': [
      {'name': 'x', 'codec': {'codec': 'feature'}, 'bytes': n, 'bleu4': n}
    ]
    for n in range(20)
  }
  looks, other = rate_plots.styles(many)
  assert len(looks) + len(other) == 20
  assert len({marker for _, marker, _ in looks.values()}) == len(looks) == 8
  assert 'family 18' in looks  # The cheapest of those near the best.
  # Greys are the image codecs'.
  for colour in [look[0] for look in looks.values()]:
    assert len({colour[1:3], colour[3:5], colour[5:]}) > 1


def test_bars_are_the_bytes_of_the_fields(rows):
  chosen = evaluation.operating_points(rows, (0.5,))
  axes = plots.fields(chosen).axes[0]
  widths = [patch.get_width() for patch in axes.patches]
  np.testing.assert_allclose(
    widths,
    [
      100 * count / row['bytes']
      for row in chosen.values()
      for count in row['fields'].values()
    ],
  )
  labels = [t.get_text() for t in axes.get_yticklabels()]
  assert [' '.join(label.split()) for label in labels] == [*chosen]


def test_latencies_are_the_table(rows):
  chosen = evaluation.operating_points(rows, (0.5,))
  table = evaluation.LinkRates(delay_ms=3).table(chosen)
  axes = plots.latency(table, 'a note').axes[0]
  lines = {line.get_label(): line for line in axes.lines}
  for name in chosen:
    points = [line for line in table if line['codec'] == name]
    np.testing.assert_allclose(
      lines[name].get_xydata(),
      [(line['rate_kbps'], 1000 * line['total']) for line in points],
    )


def test_no_two_latencies_look_alike():
  lines = [
    {'codec': f'codec {n}', 'rate_kbps': rate, 'total': 1 / rate}
    for n in range(20)
    for rate in (10, 100)
  ]
  axes = plots.latency(lines).axes[0]
  looks = {
    (line.get_color(), line.get_marker(), line.get_linestyle())
    for line in axes.lines
  }
  assert len(looks) == 20


def test_pictures_stand_beside_curves_on_the_axis_of_bytes(rows):
  names = {*evaluation.pictures(rows)}
  assert names == {
    *('JPEG 64 px', 'JPEG 32 px', 'AVIF 64 px, stripped'),
    'AVIF 32 px, stripped',
  }
  labels = [
    {line.get_label() for line in plots.tradeoff(rows, x=x).axes[0].lines}
    for x in ('ratio', 'bytes')
  ]
  assert not names & labels[0]
  assert names <= labels[1]


def test_nothing_to_draw(rows):
  with pytest.raises(ValueError, match="y: got 'rouge'; did you mean 'rouge_l"):
    plots.rate(rows, 'rouge')
  for draw in (plots.rate, plots.fields, plots.latency):
    with pytest.raises(ValueError, match='nothing to draw'):
      draw([])


def test_legends_show_the_markers_of_pictures(rows):
  white = [
    line.get_marker()
    for line in plots.rate(rows).axes[0].lines
    if line.get_markeredgecolor() == 'white'
  ]
  assert white
  assert set(white) <= set(lines.Line2D.filled_markers)


def test_long_labels_widen_the_figure(rows):
  before = plots.tradeoff(rows, x='bytes')
  title = 'mine:A_quantizer_whose_class_has_a_very_long_name'
  records = synthetic.make(methods={(title, 'field', 1): 0.7}, seeds=(0,))
  long = evaluation.summarize(records, resamples=1)
  for draw in (plots.rate, lambda rows: plots.tradeoff(rows, x='bytes')):
    figure = draw(long)
    axes = figure.axes[0]
    labels = [t.get_text().replace('_', ' ') for t in axes.texts]
    assert any('has a very long name' in label for label in labels)
    ends = [t.get_window_extent().x1 for t in axes.texts]
    assert max(ends) <= figure.bbox.width + 1
  assert figure.get_size_inches()[0] > before.get_size_inches()[0]
  inches = [
    f.axes[0].get_position().width * f.get_size_inches()[0]
    for f in (before, figure)
  ]
  assert inches[1] == pytest.approx(inches[0])


def test_links_are_series_of_their_own(rows):
  row = {n: v for n, v in rows[0].items() if n != 'settings'}
  row['name'] = 'link'
  row['codec'] = {
    **row['codec'],
    'transport': 'whole',
    'channel': 'erasure(p=0.1)',
  }
  families = rate.families([rows[0], row])
  assert len(families) == 2
  assert any('whole, erasure(p=0.1)' in name for name in families)
  texts = [t.get_text() for t in plots.rate([*rows, row]).axes[0].texts]
  assert any('erasure(p=0.1)' in text for text in texts)
