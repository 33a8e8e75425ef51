"""Reports as HTML files: what they show, of which runs, and of any text."""

import asyncio
import base64
import json
from pathlib import Path
import re
import shutil

import jax
import numpy as np
import pytest

from collab_jax import (
  boxes,
  codecs,
  data,
  evaluation,
  masks,
  plots,
  regions,
  studies,
)
from collab_jax.evaluation.report import labels
from collab_jax.plots import style
from collab_jax.studies.html_report import (
  choice,
  gallery,
  markup,
  pictures,
  sections,
)
from collab_jax.studies.html_report import page as page_lib
from configs import rate, tradeoff
from tests import standin
from tests.evaluation import synthetic
from tests.plots import test_user_text
from tests.studies import parsed
from tools import browser

OLD = Path(__file__).parents[1] / 'golden' / 'records_1'


def write_records(folder, records):
  folder.mkdir(parents=True, exist_ok=True)
  lines = [json.dumps(record) + '\n' for record in records]
  (folder / 'records.jsonl').write_text(''.join(lines))
  return folder


def make_config(**fields):
  config = tradeoff.get_config('mode=smoke')
  config.model, config.ks = str(standin.folder()), (2, 8)
  with config.unlocked():
    config.update(fields)
  return config


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run of the small model, whose launcher wrote a report."""
  folder = tmp_path_factory.mktemp('run')
  study = studies.TradeoffStudy(make_config())
  records = study.run(folder / 'records.jsonl', progress=False)
  programs = []

  def listen(event, seconds, **unused):
    del seconds, unused
    if event == '/jax/core/compile/backend_compile_duration':
      programs.append(event)

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    study.report(records, folder)
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  return folder, study, programs


def test_a_launcher_writes_it_without_new_programs(run):
  folder, _, programs = run
  page = parsed.Page(folder / 'report.html')
  assert not programs
  headings = ['Run', 'Findings', 'Figures', 'Gallery', 'Scores', 'Settings']
  assert [h for h in headings if h != 'Findings'] == [
    h for h in page.texts['h2'] if h != 'Findings'
  ]
  said = page.texts['body'][0]
  assert '6 of scenes/test' in said
  assert 'caption en' in said
  assert '"kmeans(init=++)"' in said  # The config.
  assert 'k-means++' in page.texts['th'][-1] or 'k-means++' in said
  # Six pictures, each with all vectors and both k of the first method.
  assert len(page.texts['article']) == 6
  assert len(page.pixels('What arrives with')) == 6 * 3
  assert len(page.pixels('Picture')) == 6


def test_a_batch_that_the_gallery_does_not_fill(tmp_path, monkeypatch):
  config = make_config(limit=6, batch_size=6, methods=('kmeans(init=++)',))
  study = studies.TradeoffStudy(config)
  records = study.run(tmp_path / 'records.jsonl', progress=False)
  sizes = []
  make = pictures.batches.Batch
  monkeypatch.setattr(
    pictures.batches,
    'Batch',
    lambda e, size: sizes.append(size) or make(e, size),
  )
  monkeypatch.setattr(page_lib, 'PICTURES', 2)
  study.report(records, tmp_path)
  # That of the evaluation, whose programs serve again.
  assert sizes == [6]


def test_pictures_are_the_run_s(run):
  page = parsed.Page(run[0] / 'report.html')
  shown = page.pixels('Picture')
  for example, image in zip(data.scenes('test', 6), shown, strict=True):
    np.testing.assert_array_equal(image[..., :3], example.image)


def test_captions_and_bytes_are_those_of_the_records(run):
  folder, _, _ = run
  page = parsed.Page(folder / 'report.html')
  records = evaluation.read_records(folder)
  for entry, example in zip(
    page.texts['article'], data.scenes('test', 6), strict=True
  ):
    own = [r for r in records if r['image_id'] == example.image_id]
    for record in own:
      if record['seed'] == 0:
        assert ' '.join(record['caption'].split()) in entry
        assert f'{record["total_bytes"]:,} bytes' in entry
    assert all(text in entry for text in example.captions)


def test_a_run_that_has_ended_gives_the_same_gallery(run, tmp_path):
  folder, _, _ = run
  out = tmp_path / 'again' / 'mine.html'
  assert studies.write_html(folder, out) == out
  first, second = parsed.Page(folder / 'report.html'), parsed.Page(out)
  assert first.images == second.images
  assert first.texts['article'] == second.texts['article']


def test_clusters_and_pictures_can_be_left_out(run, tmp_path):
  folder, _, _ = run
  out = tmp_path / 'report.html'
  page = parsed.Page(
    studies.write_html(folder, out, pictures=2, clusters=False)
  )
  assert len(page.texts['article']) == 2
  assert not page.pixels('What arrives')
  assert len(page.pixels('Picture')) == 2
  assert '2 of 6 pictures' in page.texts['body'][0]
  page = parsed.Page(
    studies.write_html(folder, out, pictures=0, clusters=False)
  )
  assert 'article' not in page.texts
  assert 'Gallery' not in page.texts['h2']
  with pytest.raises(ValueError, match='pictures: got -1'):
    studies.write_html(folder, out, pictures=-1)


def copy(folder, to):
  for path in folder.iterdir():
    shutil.copy(path, to)
  return to


@pytest.mark.parametrize(
  ('change', 'said', 'drawn'),
  [
    ({'model': '/nowhere/model'}, '/nowhere/model', 0),
    ({'data': 'jsonl', 'data_dir': '/nowhere/data'}, '/nowhere/data', 0),
    ({'data': 'no such data'}, 'The pictures cannot be read again', 0),
    ({'data_split': 'dense'}, 'Not shown: 6 of the pictures', 0),
  ],
)
def test_what_is_gone_is_said(run, tmp_path, change, said, drawn):
  copy(run[0], tmp_path)
  config = json.loads((tmp_path / 'config.json').read_text())
  (tmp_path / 'config.json').write_text(json.dumps(config | change))
  page = parsed.Page(studies.write_html(tmp_path))
  assert said in page.texts['body'][0]
  assert len(page.pixels('What arrives')) == drawn
  assert len(page.texts['article']) == 6


@pytest.mark.parametrize(
  ('error', 'said'),
  [(ImportError(), 'ImportError'), (ValueError('one\ntwo'), 'one')],
)
def test_a_model_that_cannot_be_loaded_is_said(error, said):
  records = synthetic.make(images=2, ks=(2,), seeds=(0,))
  rows = evaluation.summarize(records, resamples=2)

  def fail():
    raise error

  example = data.Example(
    np.zeros((64, 64, 3), np.uint8),
    records[0]['image_id'],
    tuple(records[0]['references']),
  )
  source = gallery.Source(lambda: [example], fail, {})
  notes = gallery.make(records, rows, source, 1).notes
  assert f'No map of what arrives: {said}' in notes


def test_pictures_that_changed_are_not_shown(run, tmp_path):
  copy(run[0], tmp_path)
  path = tmp_path / 'records.jsonl'
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  for record in lines:
    if record['image_id'] == lines[0]['image_id']:
      record['pixels'] = '0' * 16
  write_records(tmp_path, lines)
  page = parsed.Page(studies.write_html(tmp_path, clusters=False))
  assert len(page.pixels('Picture')) == 5
  assert 'Not shown: 1 of the pictures' in page.texts['body'][0]
  assert 'The picture is not at hand.' in page.texts['article'][0]


def test_another_model_s_maps_are_not_shown(run, tmp_path):
  copy(run[0], tmp_path)
  path = tmp_path / 'records.jsonl'
  lines = [json.loads(line) for line in path.read_text().splitlines()]
  for record in lines:
    if record['distortion']:
      record['distortion'] *= 1.5
  write_records(tmp_path, lines)
  page = parsed.Page(studies.write_html(tmp_path, pictures=1))
  assert 'give other messages' in page.texts['body'][0]
  assert not page.pixels('What arrives')


def test_a_run_that_is_not_finished(run, tmp_path):
  records = evaluation.read_records(run[0])
  cut = write_records(tmp_path / 'cut', records[: len(records) // 2 + 3])
  shutil.copy(run[0] / 'records.settings.json', cut)
  page = parsed.Page(studies.write_html(cut, clusters=False))
  assert 'This run is not finished' in page.texts['header'][0]
  assert 'Figures' in page.texts['h2']
  # The scenes are drawn by their name, as no config was written yet.
  assert page.pixels('Picture')
  whole = write_records(tmp_path / 'whole', records)
  page = parsed.Page(studies.write_html(whole, clusters=False))
  assert 'no report was written yet' in page.texts['header'][0]
  assert page.texts['details'][-1]  # Captions; settings are unknown.


def test_records_after_the_last_report(run, tmp_path):
  copy(run[0], tmp_path)
  summary = json.loads((tmp_path / 'summary.json').read_text())
  summary['rows'] = summary['rows'][1:]
  (tmp_path / 'summary.json').write_text(json.dumps(summary))
  page = parsed.Page(studies.write_html(tmp_path, clusters=False))
  assert 'since the last report' in page.texts['header'][0]


def test_records_of_an_older_version(tmp_path):
  page = parsed.Page(
    studies.write_html(OLD, tmp_path / 'old.html', clusters=False)
  )
  assert len(page.texts['article']) == 2
  assert page.pixels('Picture')
  assert 'Scores' in page.texts['h2']


def test_no_records(tmp_path):
  with pytest.raises(ValueError, match='records: got'):
    studies.write_html(tmp_path)
  (tmp_path / 'records.jsonl').write_text('')
  with pytest.raises(ValueError, match='no record yet'):
    studies.write_html(tmp_path)
  with pytest.raises(FileNotFoundError):
    studies.write_html(tmp_path / 'none')


def test_records_without_references(run, tmp_path):
  records = evaluation.read_records(run[0])
  full = next(r for r in records if labels.is_full(r))
  for record in records:
    record['references'] = []
  page = parsed.Page(studies.write_html(write_records(tmp_path, records)))
  said = page.texts['body'][0]
  assert 'No picture has captions to compare with.' in said
  assert ' '.join(full['caption'].split()) in page.texts['article'][0]
  assert 'No references' in page.texts['article'][0]
  # All vectors' caption is what others are compared with.
  assert 'nothing to compare with' not in said
  records = [r for r in records if not labels.is_full(r)]
  folder = write_records(tmp_path / 'not full', records)
  page = parsed.Page(studies.write_html(folder, clusters=False))
  assert 'nothing to compare with' in page.texts['article'][0]
  assert page.texts['mark'] == ['Marked']


@pytest.mark.parametrize('field', ['task', 'data'])
def test_classes_that_a_config_names_are_not_imported(field, run, tmp_path):
  folder = tmp_path / 'run'
  folder.mkdir()
  copy(run[0], folder)
  config = json.loads((folder / 'config.json').read_text())
  config[field] = 'no_such_module:Reader'
  (folder / 'config.json').write_text(json.dumps(config))
  page = parsed.Page(studies.write_html(folder, clusters=False))
  said = page.texts['body'][0]
  assert f"{field}: got 'no_such_module:Reader', but classes outside" in said


def test_names_of_files_are_titles(tmp_path):
  records = synthetic.make(images=2, ks=(2,), seeds=(0,))
  for record in records:
    record['file'] = f'beach/{record["image_id"]}.jpg'
  page = parsed.Page(studies.write_html(write_records(tmp_path, records)))
  assert page.texts['h3'] == ['beach/0.jpg', 'beach/1.jpg']


BOX = '<loc0000><loc0000><loc0511><loc0511> ring'
LOW = '<loc0511><loc0511><loc1023><loc1023> ring'
HIDDEN = '<i> & "ring"'


def ask_all(records, questions):
  """Records of questions about each picture, out of those of captions."""
  asked = []
  for record in records:
    for number, (prompt, references, answers) in enumerate(questions):
      answer = answers[record['image_id'] % len(answers)]
      asked.append(
        {
          **record,
          'caption': answer,
          'answer': answer,
          'references': list(references),
          'task': 'scenes',
          'question': f'{record["image_id"]}/{number}',
          'kind': 'count',
          'prompt': prompt,
          'questions': len(questions),
          'question_bytes': record['total_bytes'] / len(questions),
          'scores': {'exact': float(answer in references)},
        }
      )
  return asked


def test_all_questions_of_a_picture_are_shown(tmp_path):
  records = ask_all(
    synthetic.make(images=2, ks=(2, 4), seeds=(0, 1)),
    [
      ('answer en how many', ('2', 'two'), ('2', '3')),
      (f'answer en {HIDDEN}', ('yes',), (HIDDEN,)),
      ('detect ring', (BOX,), (BOX, LOW)),
    ],
  )
  page = parsed.Page(studies.write_html(write_records(tmp_path, records)))
  said = page.texts['body'][0]
  assert 'all of its questions; answers are right or wrong by exact' in said
  names = {record['name'] for record in records}
  for entry, answer in zip(page.texts['article'], '23', strict=True):
    for prompt in ('answer en how many', f'answer en {HIDDEN}', 'detect ring'):
      assert prompt in entry
    assert '2; two' in entry
    assert f'{answer}' in entry
    # In words, no tokens.
    assert 'ring' in entry.replace('detect ring', '').replace(HIDDEN, '')
    assert '<loc' not in entry
  html = (tmp_path / 'report.html').read_text()
  # Of each picture and codec one answer of three or two is right.
  columns = sum(html.count(f'class="{mark}"') for mark in ('right', 'wrong'))
  assert columns == 2 * 3 * len(names)
  assert html.count('class="right"') == 2 * len(names)


def test_masks_of_answers_are_drawn(tmp_path):
  mask = np.zeros((300, 200), bool)
  mask[50:200, 20:180] = True
  region = regions.write(
    regions.Region(boxes.Box(0.1, 0.1, 0.7, 0.9), masks.encode(mask))
  )
  records = ask_all(
    synthetic.make(images=1, ks=(2,), seeds=(0,)),
    [('segment cat', (region,), (region, '{no region')), ('b', ('c',), ('{',))],
  )
  example = data.Example(np.zeros((64, 64, 3), np.uint8), 0, ())
  for record in records:
    record['pixels'] = pictures.pixels.fingerprint(example.image)
  made = gallery.make(
    records,
    evaluation.summarize(records, resamples=2),
    gallery.Source(lambda: [example], None, {}),
    1,
  )
  (entry,) = made.entries
  links = [i.get('href') for i in entry.iter('image')]
  assert len([link for link in links if link.startswith('data:image/png')]) > 2
  assert {i.get('href') for i in entry.iter('use')} == {'#picture-0-0'}
  assert '1 mask' in ''.join(entry.itertext())
  assert '{' in ''.join(entry.itertext())


def test_many_questions_stay_a_page_that_opens(monkeypatch):
  """Codecs that are folded away are left out where there are too many."""
  questions = [
    (f'answer en question {i} about a thing', ('two',), ('two', 'three'))
    for i in range(20)
  ]

  def gallery_of(ks):
    records = ask_all(synthetic.make(images=100, ks=ks, seeds=(0,)), questions)
    rows = choice.codecs_of(records)
    source = gallery.Source(lambda: [], None, {})
    made = gallery.make(records, rows, source, 100)
    assert len(made.entries) == 100
    text = ''.join(made.entries[7].itertext())
    assert 'answer en question 19 about' in text
    size = len(markup.document('many', made.entries))
    return size, ' '.join(made.notes)

  size, notes = gallery_of((2, 4))  # 16 codecs, 32,000 answers.
  assert 'for the size of the page' not in notes
  assert size < 3e6
  monkeypatch.setattr(gallery, '_MOST_ANSWERS', 30_000)
  size, notes = gallery_of((2, 4))
  assert 'for the size of the page' in notes
  assert size < 1e6


def test_pictures_beside_features(tmp_path):
  records = synthetic.make(images=4, pictures=synthetic.PICTURES)
  folder = write_records(tmp_path, records)
  page = parsed.Page(studies.write_html(folder, clusters=False))
  assert 'figure-rate' in page.ids
  assert 'AVIF 64 px, stripped, quality 60' in page.texts['article'][0]


def test_image_codecs_show_what_was_decoded(tmp_path):
  config = rate.get_config('mode=smoke')
  config.model, config.limit = str(standin.folder()), 2
  config.methods, config.blind = (), ()
  config.codecs = ('kmeans(k=4)', 'jpeg(quality=30)', 'jpeg(quality=60)')
  study = studies.RateStudy(config)
  study.report(study.run(tmp_path / 'records.jsonl', False), tmp_path)
  page = parsed.Page(tmp_path / 'report.html')
  decoded = page.pixels('What arrives with JPEG')
  assert decoded
  picture = data.scenes('test')[0].image
  assert decoded[0].shape == picture.shape
  error = np.abs(decoded[0].astype(float) - picture).mean()
  assert 0 < error < 40


@pytest.mark.parametrize(
  ('count', 'texts'), [(0, 'captions'), (1, 'answers'), (2, 'answers')]
)
def test_pictures_unlike_those_of_the_training(tmp_path, count, texts):
  records = synthetic.make(images=3, ks=(2,), seeds=(0,))
  for record in records:
    if record['image_id'] == 1:
      record['unlike'] = True
  if count:
    asked = [(f'what {i}', ('red',), 'red') for i in range(count)]
    records = ask_all(records, asked)
  folder = write_records(tmp_path, records)
  page = parsed.Page(studies.write_html(folder, clusters=False))
  said = (
    f'unlike those that the model was trained on: its {texts} mean nothing.'
  )
  assert [said in entry for entry in page.texts['article']] == [0, 1, 0]
  assert evaluation.unlike_pictures(
    evaluation.summarize(records, resamples=2)
  ) in ' '.join(page.texts['section'][0].split())


def test_several_models(run, tmp_path):
  records = evaluation.read_records(run[0])
  for name in ('training-free', 'trained_through'):
    write_records(tmp_path / name, records)
  page = parsed.Page(studies.write_html(tmp_path, pictures=2, clusters=False))
  assert page.texts['h3'].count('trained through') == 3
  assert len(page.texts['article']) == 4


@pytest.mark.parametrize(
  'text',
  [
    *test_user_text.TEXTS[:6],
    '<script>alert(1)</script>',
    '"><img src=http://example.com/x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    '</style></title></section><iframe src=//example.com>',
    '<!--',
    ']]>',
    '&lt;b&gt; &#x3c;',
    'javascript:alert(1)',
    'long ' * 20_000,
  ],
)
def test_any_text_is_shown_as_it_is(text, tmp_path):
  records = synthetic.make(images=2, ks=(2, 4), seeds=(0,))
  for record in records:
    record |= {'model': text, 'data': text, 'caption': f'{text} end'}
    record |= {'references': [text, 'a ring'], 'decoding': text, 'file': text}
  folder = write_records(tmp_path / 'run', records)
  settings = {
    'model': {'name': text},
    'captioner': {'prompt': text},
    text: text,
  }
  (folder / 'records.settings.json').write_text(json.dumps(settings))
  summary = {'findings': [text], 'made_with': {'device': text, 'commit': text}}
  summary |= {'settings': {text: text}, 'rows': []}
  (folder / 'summary.json').write_text(json.dumps(summary))
  path = studies.write_html(folder)
  page = parsed.Page(path)
  first = ' '.join(text.split())[:40]
  if first.isprintable():
    assert first in ' '.join(page.texts['article'][0].split())
  else:
    assert all(c.isprintable() or c in ' \n' for c in page.texts['article'][0])
  assert path.stat().st_size < 1e6


def test_a_folder_of_any_name(run, tmp_path):
  folder = tmp_path / '<b> & "quotes" $x'
  folder.mkdir()
  copy(run[0], folder)
  page = parsed.Page(studies.write_html(folder, clusters=False))
  assert page.texts['h1'] == ['Run <b> & "quotes" $x']


def test_figures_of_the_folder_are_embedded(run):
  folder, _, _ = run
  page = parsed.Page(folder / 'report.html')
  source = next(
    image['src']
    for image in page.images
    if 'share of the vectors' in image['alt']
  )
  drawn = base64.b64decode(source.split(',')[1])
  assert drawn == (folder / 'fig3.svg').read_bytes()


def test_what_is_sent_has_one_colour():
  features = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
  colours = codecs.colours_by_axes(features)
  x = features[np.repeat([0, 5], 8)]
  image = pictures.draw_map(colours, 16, x, np.ones(16, bool), np.arange(16))
  shades = np.unique(image.reshape(-1, 3), axis=0)
  assert len(shades) == 3  # Two vectors, and the line between them.
  assert [255, 255, 255] in shades.tolist()
  valid = np.arange(16) < 4
  image = pictures.draw_map(colours, 16, features, valid, np.arange(16))
  assert (image[-1] == 237).all()


def test_codecs_are_chosen_and_bounded():
  rows = evaluation.summarize(
    synthetic.make(images=3, ks=range(1, 40), seeds=(0,)), resamples=2
  )
  chosen = choice.choose_codecs(rows)
  assert len(chosen.drawn) == choice.MOST_DRAWN
  assert len(chosen.listed) == choice.MOST_LISTED
  assert chosen.left_out == len(rows) - 50
  assert chosen.drawn[0].title == 'all vectors'
  ks = [line.row['sent'] for line in chosen.drawn[1:]]
  assert ks == sorted(ks, reverse=True)
  assert (ks[0], ks[-1]) == (39, 1)
  names = [line.row['name'] for line in [*chosen.drawn, *chosen.listed]]
  assert len(names) == len({*names})


def test_a_codec_on_a_front_is_chosen_once():
  kinds = {
    ('jpeg', quality, 64, False): (300 + 10 * quality, 0.3 + 0.006 * quality)
    for quality in range(10, 100, 10)
  }
  records = synthetic.make(images=6, pictures=kinds, seeds=(0,))
  rows = evaluation.summarize(records, resamples=2)
  chosen = choice.choose_codecs(rows)
  names = [line.row['name'] for line in [*chosen.drawn, *chosen.listed]]
  assert sorted(names) == sorted(row['name'] for row in rows)
  assert chosen.left_out == 0


@pytest.mark.skipif(browser.chromium() is None, reason='no Chromium here')
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_in_a_browser(run, scheme):
  path = run[0] / 'report.html'

  async def look():
    async with browser.browser(browser.chromium()) as tab:
      await tab.show(390, 800, dark=scheme == 'dark', mobile=True)
      await tab.open(f'file://{path}')
      return await tab.run(
        """({
          width: document.documentElement.scrollWidth,
          loaded: [...document.images].every(i => i.naturalWidth > 0),
          requests: performance.getEntriesByType('resource')
            .map(e => e.name).filter(n => !n.startsWith('data:')),
          background: getComputedStyle(document.body).backgroundColor,
          drawn: getComputedStyle(document.querySelector('.lines-only')).filter,
          sign: getComputedStyle(
            document.querySelector('.drawing figcaption'), '::before').display,
        })"""
      )

  seen = asyncio.run(look())
  assert seen['width'] == 390
  assert seen['loaded']
  assert not seen['requests']
  dark = sum(map(int, re.findall(r'\d+', seen['background'])[:3])) < 384
  assert dark == (scheme == 'dark')
  assert ('invert' in seen['drawn']) == dark  # As bright as the page.
  assert seen['sign'] == 'block'  # Of a figure that scrolls.


def test_photographs_in_figures_keep_their_colours(tmp_path):
  plots.save(style.new_figure(2, 1), tmp_path / 'lines')
  figure = style.new_figure(2, 1)
  figure.add_axes((0, 0, 1, 1)).imshow(np.eye(9))
  plots.save(figure, tmp_path / 'shown')
  lines, shown = sections.figures(sections.saved_figures(tmp_path))
  assert lines.find('.//img').get('class') == 'lines-only'
  assert shown.find('.//img').get('class') == 'with-pictures'
