"""Figures from records, without a model; maps from a small one."""

import jax
from matplotlib import pyplot as plt
import numpy as np
from PIL import Image
import pytest

from collab_jax import captioner as captioning
from collab_jax import data, evaluation, plots, quantizers
from collab_jax.models import paligemma
from collab_jax.plots import style
from tests import standin
from tests.evaluation import synthetic


@pytest.fixture(scope='module')
def records():
  return synthetic.make()


@pytest.fixture(scope='module')
def rows(records):
  return evaluation.summarize(records, resamples=50)


@pytest.mark.parametrize('x', ['ratio', 'bytes'])
def test_axes_hold_the_numbers(rows, x):
  axes = plots.tradeoff(rows, x=x).axes[0]
  lines = {line.get_label(): line for line in axes.lines}
  for name, curve in evaluation.curves(rows).items():
    np.testing.assert_allclose(
      lines[name].get_xydata(), [(row[x], row['bleu4']) for row in curve]
    )
  for name, kind in (
    ('all vectors', 'identity'),
    ('blind: mean features', 'blind(mean)'),
    ('blind: features zeroed', 'blind(zeroed)'),
    ("blind: another image's", 'blind(shuffled)'),
  ):
    row = next(r for r in rows if r['name'] == kind)
    assert set(lines[name].get_ydata()) == {row['bleu4']}
  assert axes.get_xscale() == 'log'
  texts = ' '.join(t.get_text() for t in axes.texts)
  assert all(name in texts for name in evaluation.curves(rows))


def test_the_paper_s_axis_and_claims(rows):
  figure = plots.tradeoff(rows)
  axes = figure.axes[0]
  labels = [t.get_text() for t in axes.get_xticklabels()]
  assert labels == ['0.4%', '0.8%', '1.6%', '3.1%']
  stars = [ln for ln in axes.lines if ln.get_label() == 'the paper']
  full = evaluation.full(rows)['bleu4']
  # A random 40% lies beyond k = 8, and is left out with it.
  assert [s.get_xydata().tolist() for s in stars] == [[[8 / 256, 0.8 * full]]]
  bare = plots.tradeoff(rows, claims=False).axes[0]
  assert 'the paper' not in [ln.get_label() for ln in bare.lines]


def test_bands_are_the_intervals(rows):
  axes = plots.tradeoff(rows).axes[0]
  curve = evaluation.curves(rows)['k-means++']
  edges = {y for p in axes.collections for _, y in p.get_paths()[0].vertices}
  for row in curve:
    assert row['bleu4_low'] in edges
    assert row['bleu4_high'] in edges


def test_bands_are_called_what_they_are(records):
  for level, said in ((0.95, '95%'), (0.5, '50%'), (0.999, '99.9%')):
    rows = evaluation.summarize(records, resamples=5, level=level)
    texts = [t.get_text() for t in plots.tradeoff(rows).texts]
    assert any(f'bands: {said} bootstrap' in text for text in texts)


def test_title_tells_what_it_is(records):
  figure = plots.tradeoff(records)
  text = ' '.join(t.get_text() for t in figure.texts)
  assert 'tiny model on 20 generated scenes (scenes/test)' in text
  assert '3 seeds' in text


def test_any_quantizer_gets_a_line_of_its_own():
  methods = {('__main__:Mine', 'field', 1): 0.7, ('pool', 'size', 2): 0.6}
  rows = evaluation.summarize(
    synthetic.make(methods=methods, seeds=(0,)), resamples=5
  )
  looks = style.curve_styles([*evaluation.curves(rows)])
  assert len(set(looks.values())) == 2
  assert plots.tradeoff(rows)


def test_colours_differ_in_grey_or_by_marker():
  looks = style.CURVES.values()
  assert len({marker for _, marker, _ in looks}) == len(looks)
  assert len({colour for colour, _, _ in looks}) == len(looks)


def test_wrong_axis_and_nothing_to_draw(rows):
  with pytest.raises(ValueError, match="x: got 'bits', expected 'ratio'"):
    plots.tradeoff(rows, x='bits')
  with pytest.raises(ValueError, match='no records'):
    plots.tradeoff([])


def test_saved_as_png_and_svg(rows, tmp_path):
  figure = plots.tradeoff(rows)
  png, svg = plots.save(figure, tmp_path / 'new' / 'fig3')
  with Image.open(png) as picture:
    assert picture.size == (1720, 1000)
  first = svg.read_bytes()
  assert first.startswith(b'<?xml')
  plots.save(figure, tmp_path / 'new' / 'fig3')
  assert svg.read_bytes() == first


def test_labels_are_spread():
  places = style.spread([5, 5, 5.1, 9, 0], 1, 0, 10)
  assert np.all(np.diff(sorted(places)) >= 1 - 1e-9)
  assert places[3] == pytest.approx(9)
  assert places[0] < places[1] < places[2]
  assert min(style.spread([-3, -3], 1, 0, 10)) == 0


def test_maps_have_no_more_clusters_than_vectors():
  dims = paligemma.Config.from_dict({**standin.CONFIG, 'patch_size': 16})
  model = paligemma.Model(standin.parameters(dims), dims)
  figure = plots.fig2(model, data.scenes('test')[0].image)
  titles = [a.get_title() for a in figure.axes if a.get_title()]
  assert titles == ['picture', 'features', 'k = 16', 'k = 8', 'k = 4']
  with pytest.raises(ValueError, match='choose k <= 16'):
    plots.fig2(model, data.scenes('test')[0].image, ks=(17,))


def test_maps_of_a_picture():
  model = standin.small()
  image = data.scenes('test')[0].image
  captioner = captioning.Captioner(model, 4)
  figure = plots.fig2(model, image, ks=(4,), captioner=captioner)
  titles = {a.get_title(): a for a in figure.axes if a.get_title()}
  assert [*titles] == ['picture', 'features', 'k = 4']
  features = model.encode_image(image[None] / 127.5 - 1.0)[0]
  norms = np.linalg.norm(features, axis=-1).reshape(8, 8)
  shown = titles['features'].images[0].get_array()
  np.testing.assert_allclose(shown, norms, rtol=1e-3)
  # Four clusters have four norms and four colours.
  quantized = titles['k = 4'].images[0].get_array()
  assert len(np.unique(np.asarray(quantized))) == 4
  below = figure.axes[figure.axes.index(titles['k = 4']) + 1]
  colours = np.asarray(below.images[0].get_array()).reshape(-1, 3)
  assert len(np.unique(colours, axis=0)) == 4
  again = plots.fig2(model, image, ks=(4,), key=jax.random.key(0))
  other = next(a for a in again.axes if a.get_title() == 'k = 4')
  assert (other.images[0].get_array() == quantized).all()


def test_maps_of_selectors_say_and_show_what_is_sent():
  selectors = [quantizers.make(t, n=64) for t in ('pool(k=8)', 'resized(k=9)')]
  selectors.append(quantizers.AvgPool(k=9, n=64))
  # Fewer than the vectors of its bucket.
  selectors.append(quantizers.Random(k=5, rebuild='keep'))
  images = {'a scene': data.scenes('test')[0].image}
  figure = plots.selector_maps(standin.small(), images, selectors)
  titles = [axes.get_title() for axes in figure.axes]
  assert titles == [
    'a scene',
    'pool(n=64)',
    'resized(n=64), 9 sent',
    'pool(n=64), 9 sent',
    'random\n(rebuild=keep), 5 sent',
  ]
  shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes[1:]]
  counts = [len(np.unique(pixels.reshape(-1, 3), axis=0)) for pixels in shown]
  assert counts == [8, 9, 9, 6]  # Grey where nothing was sent.
  assert (shown[1] != shown[2]).any()  # Not means of cells.


def test_cluster_maps_have_a_column_for_each_picture():
  model = standin.small()
  images = [data.scenes('test')[i].image for i in range(3)]
  figure = plots.cluster_maps(model, images, ks=(4, 2), batch_size=4)
  assert len(figure.axes) == 3 * (1 + 2)
  rows = [axes.get_ylabel() for axes in figure.axes if axes.get_ylabel()]
  assert rows == ['picture', 'k = 4', 'k = 2']
  with pytest.raises(
    ValueError, match='images: number: got 3, expected 1 to 2'
  ):
    plots.cluster_maps(model, images, batch_size=2)
  with pytest.raises(ValueError, match='images: number: got 0'):
    plots.cluster_maps(model, [])


def test_the_style_for_other_plots_leaves_these_as_they_are(rows):
  before = style.to_svg(plots.tradeoff(rows))
  with plt.style.context(plots.STYLE):
    assert style.to_svg(plots.tradeoff(rows)) == before
    figure, axes = plt.subplots()
    axes.plot([1, 2], [3, 4])
  plt.close(figure)
  assert axes.lines[0].get_color() == style.BLUE
  assert not axes.spines['top'].get_visible()


def test_panels_share_their_scores(rows):
  figure = plots.tradeoff_panels({'$x_1$': rows, 'two': rows})
  first, second = (axes for axes in figure.axes if axes.get_title(loc='left'))
  assert first.get_ylim() == second.get_ylim()
  for name, curve in evaluation.curves(rows).items():
    line = next(ln for ln in second.lines if ln.get_label() == name)
    assert line.get_ydata().tolist() == [row['bleu4'] for row in curve]
  with pytest.raises(ValueError, match='groups: got one without rows'):
    plots.tradeoff_panels({'x': []})
