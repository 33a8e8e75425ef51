"""Times of selectors: their sums, their energy, and the tables of them."""

import json
import time
import types

import pytest

from benchmarks import accelerator, selector_tables, selector_times
from collab_jax import channels, checkpoints, codecs, quantizers
from tests import launching

_PAGE = launching.ROOT / 'docs' / 'selectors.md'


def _timed(form, name, vectors, size, encodes=True):
  """Returns a candidate of a codec that is a name only."""
  codec = types.SimpleNamespace(name=name)
  k = {'all': 256, 'picture': None}.get(form, 8)
  return selector_times.Timed(
    selector_times.Candidate(name, k, form, codec),
    ('encode',) if encodes else None,
    ('quantize', name) if encodes else ('file', name),
    ('pack', name) if encodes else None,
    ('rebuild', name),
    vectors,
    size,
  )


@pytest.fixture(scope='module')
def rows():
  """Rows of made-up seconds, by form."""
  timed = [
    _timed('all', 'full', 256, 1000),
    _timed('picture', 'jpeg', 256, 500, encodes=False),
    _timed('grid', 'merge', 256, 100),
    _timed('keep', 'merge', 16, 100),
  ]
  seconds = {
    ('encode',): [0.5, 0.4, 9.0],
    ('quantize', 'full'): [0.01] * 3,
    ('pack', 'full'): [0.02] * 3,
    ('rebuild', 'full'): [0.03] * 3,
    ('file', 'jpeg'): [0.05] * 3,
    ('rebuild', 'jpeg'): [0.55] * 3,
    ('quantize', 'merge'): [0.1, 0.2, 0.3],
    ('pack', 'merge'): [0.01] * 3,
    ('rebuild', 'merge'): [0.04] * 3,
    ('prefill', 256): [2.0] * 3,
    ('caption', 256): [3.0] * 3,
    ('prefill', 16): [0.25] * 3,
    ('caption', 16): [1.0] * 3,
  }
  made = selector_times.rows(timed, seconds, 1e4, channels.Budget())
  return {row['form']: row for row in made}


def test_parts_add_up(rows):
  for row in rows.values():
    edge = row['encode_ms'] + row['quantize_ms'] + row['pack_ms']
    server = row['rebuild_ms'] + row['prefill_ms'] + row['decode_ms']
    assert row['edge_ms'] == pytest.approx(edge)
    assert row['server_ms'] == pytest.approx(server)
    assert row['total_ms'] == pytest.approx(edge + server)
  assert rows['grid']['edge_ms'] == pytest.approx(500 + 200 + 10)
  assert rows['grid']['server_ms'] == pytest.approx(40 + 3000)
  assert rows['keep']['server_ms'] == pytest.approx(40 + 1000)
  assert rows['picture']['edge_ms'] == pytest.approx(50)


def test_ratios_are_to_all_vectors(rows):
  assert rows['all']['ratio'] == 1
  assert rows['keep']['ratio'] == pytest.approx(1750 / 3560)


def test_joules_are_those_of_the_budget(rows):
  row = rows['keep']
  link = 8 * 100 / 1e4
  cost = channels.Budget().cost(0.71, link, link, 1.04)
  assert row['joules'] == pytest.approx(cost.joules)
  assert row['joules'] == pytest.approx(5 * 0.71 + link + (link + 1.04))
  assert row['link_ms'] == pytest.approx(1000 * link)


def test_all_selectors_of_the_registry_are_timed():
  timed = {text.partition('(')[0] for text in selector_times.SELECTORS}
  assert timed | {*selector_times.NO_SELECTORS} == {*quantizers.NAMES}
  assert not timed & {*selector_times.NO_SELECTORS}


@pytest.mark.parametrize(
  ('text', 'rebuilds'),
  [
    ('merge', {'grid': 'grid', 'keep': 'keep'}),
    ('random', {'grid': 'nearest', 'keep': 'keep'}),
    ('packed(parts=4,rebuild=close)', {'grid': 'grid', 'keep': 'keep'}),
    ('centred(vectors=tome(k={k}))', {'grid': 'grid', 'keep': 'keep'}),
    ('centred(vectors=low_rank(k={k}))', {'grid': None}),
    ('pool', {'grid': None}),
  ],
)
def test_forms(text, rebuilds):
  made = selector_times.forms(codecs.make_method(text, 8))
  found = {
    form: getattr(getattr(q, 'vectors', q), 'rebuild', None)
    if isinstance(q, quantizers.PositionMean)
    else getattr(q, 'rebuild', None)
    for form, q in made.items()
  }
  assert found == rebuilds


def test_what_sends_no_such_number_is_refused_and_forms_share_a_label():
  model = checkpoints.load('tiny')
  found = [
    *selector_times.candidates(
      model, ['resized', 'merge(rebuild=keep)', 'merge', 'packed'], [8, 256]
    )
  ]
  refused = [(r.selector, r.k) for r in found if hasattr(r, 'why')]
  assert refused == [('resized', 8), ('packed', 256)]
  made = [(c.selector, c.k, c.form) for c in found if hasattr(c, 'codec')]
  merged = [('merge', k, form) for k in (8, 256) for form in ('grid', 'keep')]
  assert made == [
    ('resized', 256, 'grid'),
    *merged,
    ('packed', 8, 'grid'),
    ('packed', 8, 'keep'),
  ]


def test_parameters_of_another_model_are_drawn(monkeypatch):
  model = checkpoints.load('tiny')

  def refuse(model, quantizer):
    if 'book=random' not in quantizers.name(quantizer):
      raise quantizers.QuantizerParamsError('book: of another model')
    return quantizers.name(quantizer)

  monkeypatch.setattr(selector_times.codecs, 'FeatureCodec', refuse)
  centred = codecs.make_method('centred(vectors=merge(k={k}))', 8)
  bound = selector_times.bind(model, centred)
  assert str(bound) == 'centred(vectors=merge(k=8),book=random)'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of the smallest sizes: what it printed, its numbers, its page."""
  folder = tmp_path_factory.mktemp('times')
  page = folder / 'page.md'
  mark = selector_tables.mark('tiny')
  page.write_text(f'before\n\n{mark}\n{mark}\n\nafter\n')
  done = launching.run(
    *('-m', 'benchmarks.selector_times', '--selectors=top_norm;pool;resized'),
    *('--k=7,8', '--rounds=2', '--scenes=1', '--tokens=2'),
    *('--pictures=jpeg(quality=50)', f'--out={folder / "times.json"}'),
    f'--page={page}',
  )
  assert done.returncode == 0, done.stderr
  found = json.loads((folder / 'times.json').read_text())
  return done.stdout, found, page.read_text()


def test_a_run_has_a_row_for_each_codec(run):
  _, found, _ = run
  forms = [(row['selector'], row['k'], row['form']) for row in found['rows']]
  assert forms == [
    ('all vectors', 256, 'all'),
    ('JPEG 64 px', None, 'picture'),
    *(('top_norm', k, form) for k in (7, 8) for form in ('grid', 'keep')),
    *(('pool', k, 'grid') for k in (7, 8)),
  ]
  lengths = {(r['selector'], r['form']): r['vectors'] for r in found['rows']}
  assert lengths['top_norm', 'grid'] == lengths['pool', 'grid'] == 256
  assert lengths['top_norm', 'keep'] == 16  # The program of up to 16.
  assert [each['selector'] for each in found['refused']] == ['resized'] * 2
  full = found['rows'][0]
  assert full['bytes'] > 256 * 128 * 2
  shared = [(part['part'], part['vectors']) for part in found['parts']]
  assert shared == [
    ('encoder', 256),
    ('distances of all pairs', 256),
    *(('prefill', n) for n in (7, 8, 16, 256)),
    *(('token', n) for n in (16, 256)),
  ]
  assert all(part['limit_ms'] > 0 for part in found['parts'])


def test_tables_have_a_cell_for_each_k(run):
  said, found, page = run
  assert selector_tables.render(found) in said
  assert selector_tables.render(found) in page
  assert page.startswith('before')
  assert page.endswith('after\n')
  assert selector_tables.fill(page, 'tiny', found) == page
  for table in (selector_tables.quantizers, selector_tables.times):
    assert {len(row) for row in table(found)} == {3}
  assert {len(row) for row in selector_tables.ratios(found)} == {5}
  names = [row[0] for row in selector_tables.times(found)]
  assert [name.partition(',')[0] for name in names[:2]] == [
    'all vectors',
    'JPEG 64 px',
  ]
  assert {*names[2:]} == {'top_norm', 'pool'}


def test_numbers_have_three_digits():
  shown = [selector_tables.number(x) for x in (0.123, 9.999, 12.34, 1234.5)]
  assert shown == ['0.12', '10.0', '12.3', '1,234']


def test_a_missing_k_leaves_its_cells_open(rows):
  found = {'ks': [8, 32], 'rows': list(rows.values()), 'refused': []}
  assert selector_tables.quantizers(found) == [
    ['merge', '200 (150 to 250)', '-']
  ]
  (line,) = selector_tables.ratios(found)[2:]
  assert line[0] == 'merge'
  assert line[3:] == ['-', '-']


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (['--k=8,x'], "k: got '8,x', expected integers"),
    (['--k=0'], "k: got '0', expected integers"),
    (['--rounds=0'], 'rounds: got 0, expected at least 1'),
    (['--tokens=1'], 'tokens: got 1, expected at least 2'),
    (['--uplink=0'], 'uplink: got 0.0, expected more than 0'),
    (['--limit=-1'], 'limit: got -1.0, expected 0 or more'),
    (['--selectors=merg'], "selectors: got 'merg'"),
    (['--selectors=scalar'], "selectors: got 'scalar'"),
    (['--selectors=merge(k=8)'], 'selectors'),
    (['--pictures=merge(k=8)'], "pictures: got 'merge(k=8)'"),
    (['--pictures=png'], "codec: got 'png'"),
    (['--out=/none/a.json'], 'out: got /none/a.json, expected a folder'),
    (['--page=README.md'], 'page: got README.md, expected a page'),
  ],
)
def test_wrong_flags_are_refused(flags, said):
  done = launching.run('-m', 'benchmarks.selector_times', *flags)
  assert done.returncode == 2
  assert said in done.stderr


def test_the_page_has_tables_of_both_sizes():
  text = _PAGE.read_text('utf-8')
  for name in ('tiny', 'paligemma-3b-pt-224'):
    assert text.count(selector_tables.mark(name)) == 2


def test_the_accelerator_shows_the_tables(monkeypatch, tmp_path, run):
  _, found, _ = run
  commands = []

  def write(outcome, *command, **environment):
    del outcome, environment
    commands.append(command)
    (tmp_path / 'selectors.json').write_text(json.dumps(found))
    return ''

  monkeypatch.setattr(accelerator.Outcome, 'run', write)
  outcome = accelerator.Outcome(time.monotonic() + 100)
  context = accelerator.Context(True, tmp_path, has_torch=False)
  accelerator.selectors(context, outcome)
  assert len(outcome.rows) == len(found['rows'])
  assert outcome.rows[0]['ratio'] == 1
  assert outcome.notes == [selector_tables.render(found)]
  assert '--limit=50' in commands[0]
