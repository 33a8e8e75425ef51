"""Names and captions of anybody are drawn as they are written."""

from xml.etree import ElementTree

from matplotlib import cbook
from matplotlib import text as mpl_text
import pytest

from collab_jax import data, evaluation, plots, quantizers
from collab_jax.plots import style
from tests import standin
from tests.evaluation import synthetic

TEXTS = (
  'pay $5 now or $9 later, 100% {} {0} %s',
  'A$$AP $\\frac{$ x^2_i \\',
  '_nolegend_',
  'two\nlines\tand\r\na tab <b>&amp;</b> --> <!-- | `code` **bold**',
  'a \U0001f600, 寿司, left \u05e9\u05dc\u05d5\u05dd, \u202e turned \u2066',
  'bell \x07 null \x00 escape \x1b[31m delete \x7f, not UTF-8: \udc80',
  'long ' * 400,
  '',
)


def make_rows(text):
  """Summarized rows whose names hold a text wherever users may set one."""
  methods = {('kmeans', 'init', text or 'x'): 0.9}
  records = synthetic.make(
    images=4, ks=(2, 4), methods=methods, pictures=synthetic.PICTURES
  )
  for record in records:
    record['model'] = record['data'] = text
    record['bytes'] = {text: 9, '_other': 11} if record['bytes'] else {}
  rows = evaluation.summarize(records, resamples=5)
  for row in rows:
    row['fields'] = {text: 9.0, '_other': 11.0}
  return [dict(row) for row in rows]


class Server:
  """Captioner that always says one thing."""

  def __init__(self, text):
    self._text = text

  def __call__(self, prefix):
    return [self._text] * len(prefix.x)


def draw(text):
  """Yields every figure with a text in all places."""
  rows = make_rows(text)
  links = []
  for p in (0.1, 0.2):
    row = {n: v for n, v in rows[0].items() if n != 'settings'}
    channel = {'transport': 'whole', 'channel': f'erasure(p={p})'}
    links.append(row | {'name': f'{text}{p}', 'codec': row['codec'] | channel})
  for x in ('ratio', 'bytes'):
    yield plots.tradeoff(rows, x=x)
  for y in ('bleu4', 'cider'):
    yield plots.rate(rows, y=y)
  by_name = {text: rows[0], f'{text} two': rows[1]}
  yield plots.fields(by_name)
  yield plots.latency(evaluation.LinkRates().table(by_name), text)
  yield plots.channel([*rows, *links])
  yield plots.selectors(rows)
  yield plots.tuned({text: rows, 'x': rows})
  model, image = standin.small(), data.scenes('test')[0].image
  yield plots.fig2(model, image, ks=(4,), captioner=Server(text))
  selectors = [quantizers.make('pool(k=8)', n=64)]
  yield plots.selector_maps(model, {text: image}, selectors)


@pytest.mark.parametrize('text', TEXTS)
def test_every_figure_of_every_text(text, tmp_path):
  count = 0
  for count, figure in enumerate(draw(text), 1):
    files = plots.save(figure, tmp_path / f'figure{count}')
    ElementTree.fromstring(files[1].read_bytes())
    for shown in figure.findobj(mpl_text.Text):
      written = shown.get_text()
      # matplotlib's own formulas, of ticks, would show their source.
      assert not shown.get_parse_math() or not cbook.is_math_text(written)
      assert '\\mathdefault' not in written
      assert written.replace('\n', '').isprintable()
    width, height = figure.get_size_inches()
    assert max(width, height) < 60
    for axes in figure.axes:
      legend = axes.get_legend()
      if legend is not None:
        drawn = [x for x in axes.lines if not x.get_label().startswith('_')]
        assert len(legend.get_texts()) == len(drawn)
  assert count == 11


@pytest.mark.parametrize(
  ('text', 'shown'),
  [
    ('a red ball', 'a red ball'),
    ('pay $5 or $9', 'pay $5 or $9'),
    ('_x', ' _x'),
    ('a\n b\x07\u202e\udc80', 'a b\\x07\\u202e\\udc80'),
    ('寿司 \U0001f600', '寿司 \U0001f600'),
    ('x' * 301, 'x' * 300 + '…'),
  ],
)
def test_plain(text, shown):
  assert style.plain(text) == shown
