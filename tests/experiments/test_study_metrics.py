"""Studies whose config names its metrics."""

import json

import pytest

from collab_jax import studies
from configs import baselines, rate, tradeoff
from tests.evaluation import synthetic

MISSES = 'tests.misses:Misses'


@pytest.mark.parametrize(
  ('study', 'config', 'figures'),
  [
    (studies.TradeoffStudy, tradeoff, {'fig3', 'fig3_bytes'}),
    (studies.BaselineStudy, baselines, {'selectors'}),
    (studies.RateStudy, rate, {'rate', 'rate_Misses', 'rate_fields'}),
  ],
)
def test_tables_and_figures_are_of_the_first(study, config, figures, tmp_path):
  fields = config.get_config('mode=smoke')
  fields.metrics = ('cider', MISSES)
  records = synthetic.make(images=8, pictures=synthetic.PICTURES)
  text = study(fields).report(records, tmp_path)
  assert 'CIDEr' in text
  assert 'BLEU' not in text + (tmp_path / 'table.txt').read_text()
  assert 'misses' in (tmp_path / 'table.txt').read_text()
  assert {f'{name}.svg' for name in figures} <= {
    path.name for path in tmp_path.iterdir()
  }
  rows = json.loads((tmp_path / 'summary.json').read_text())['rows']
  assert [*rows[0]['metrics']] == ['cider', MISSES]
  assert 'bleu4' not in rows[0]
