"""Studies of pictures from a path, with and without captions."""

import json

import pytest

from collab_jax import evaluation, plots, studies
from configs import tradeoff
from tests import standin
from tests.data import photos


def run(path, workdir):
  config = tradeoff.get_config('mode=smoke')
  config.model, config.data = str(standin.folder()), str(path)
  config.ks, config.methods = (2,), ('top_norm(rebuild=keep)',)
  study = studies.TradeoffStudy(config)
  study.validate()
  headline = study.describe()
  records = study.run(workdir / 'records.jsonl', progress=False)
  return headline, records, study.report(records, workdir)


@pytest.fixture
def folder(tmp_path):
  path = tmp_path / 'mine'
  path.mkdir()
  for name in 'abc':
    (path / f'{name}.jpg').write_bytes(photos.jpeg())
  return path


def test_pictures_without_captions_are_captioned(folder, tmp_path):
  headline, records, text = run(folder, tmp_path)
  assert 'mine, 3 pictures, without captions\n' in headline
  assert '(2) x 3 pictures = 6\n' in headline  # No blind baselines.
  assert {r['file'] for r in records} == {'a.jpg', 'b.jpg', 'c.jpg'}
  assert {tuple(r['references']) for r in records} == {()}
  assert '3 pictures without captions to compare with' in text
  assert 'a.jpg\n' in text
  assert 'BLEU' not in text
  summary = json.loads((tmp_path / 'summary.json').read_text())
  assert summary['rows'] == []
  assert summary['mesh']
  assert summary['made_with']['device']
  assert not list(tmp_path.glob('*.svg'))
  assert evaluation.read_records(tmp_path / 'records.jsonl') == records
  with pytest.raises(ValueError, match='pictures without captions, expected'):
    evaluation.summarize(records)


def test_some_captions_are_scored(folder, tmp_path):
  (folder / 'captions.txt').write_text('a.jpg,A cat.\nb.jpg,A dog.\n')
  headline, records, text = run(folder, tmp_path)
  assert '3 pictures, 2 with captions (captions.txt)' in headline
  assert len(records) == 3 * (2 + 3)
  rows = evaluation.summarize(records)
  assert {row['images'] for row in rows} == {2}
  assert '1 of 3 pictures have no captions to compare with' in ' '.join(
    text.split()
  )
  # A random model: nothing in common.
  assert 'next to nothing in common with the' in ' '.join(text.split())
  assert 'the paper' not in text


@pytest.mark.parametrize('captioned', [True, False])
def test_unlike_pictures_are_told_once(tmp_path, caplog, captioned):
  config = tradeoff.get_config('mode=smoke')
  config.ks, config.methods, config.blind = (
    (2,),
    ('top_norm(rebuild=keep)',),
    (),
  )
  config.data, config.limit = 'photos', 2
  if not captioned:
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'a.jpg').write_bytes(photos.jpeg())
    config.data = str(tmp_path / 'mine')
  study = studies.TradeoffStudy(config)
  path = tmp_path / 'records.jsonl'
  records = study.run(path, progress=False)
  said = 'unlike those that the tiny model was trained on'
  assert caplog.text.count(said) == 1  # In the terminal, above the summary.
  assert said not in ' '.join(study.report(records, tmp_path).split())
  for name in ('table.txt', 'summary.json'):
    assert said in (tmp_path / name).read_text()
  if captioned:
    text = studies.report_records(records, tmp_path / 'drawn')
    assert said in ' '.join(text.split())


def test_marks_of_the_paper_need_a_score():
  def row(name, sent, bleu4):
    codec = {'codec': 'feature', 'quantizer': name, 'coding': 'fixed'}
    return {
      'name': f'{name}{sent}',
      'codec': codec | ({} if name == 'identity' else {'k': sent}),
      'settings': None,
      'sent': sent,
      'vectors': 256,
      'ratio': sent / 256,
      'images': 9,
      'seeds': 1,
      'bleu4': bleu4,
      'bleu4_low': bleu4,
      'bleu4_high': bleu4,
      'kept': 1.0,
      'kept_low': 1.0,
      'kept_high': 1.0,
      'level': 0.95,
      'bytes': 9.0,
    }

  for full, marked in ((90.0, True), (0.4, False)):
    rows = [row('kmeans', k, full) for k in (4, 16)]
    figure = plots.tradeoff([*rows, row('identity', 256, full)])
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert any('the paper' in text for text in texts) == marked
