"""Every released task, from files in its own format to the figure.

The model is small, random and in a released layout; the commands themselves
run in `benchmarks.task_runs`.
"""

import json
from pathlib import Path

import pytest

from benchmarks import task_runs
from collab_jax import studies, tasks
from configs import paligemma_tasks
from tests.checkpoints import released

FIGURES = {'fig3.png', 'fig3.svg', 'fig3_bytes.png', 'fig3_bytes.svg'}


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  folder = tmp_path_factory.mktemp('downloads') / 'huggingface'
  return released.downloaded('huggingface', folder, 56)


def study_of(model, run):
  name = f'task={run.base},protocol=smoke,model={model}'
  config = paligemma_tasks.get_config(name)
  config.task, config.data_dir = run.task, run.folder
  config.resamples = 20
  # Answers of up to 512 tokens take long, and need a program for each length.
  config.max_tokens = 4
  return studies.TradeoffStudy(config)


@pytest.mark.parametrize('name', task_runs.names())
def test_from_folder_to_figure(model, tmp_path, name):
  folder, workdir = tmp_path / 'data', tmp_path / 'run'
  folder.mkdir()
  run = task_runs.write(name, folder)
  study = study_of(model, run)
  records = study.run(workdir / 'records.jsonl', progress=False)
  printed = study.report(records, workdir)
  row = task_runs.row(name, workdir, 0)
  assert row[1] == str(task_runs.PICTURES)
  assert {path.name for path in workdir.iterdir()} >= FIGURES
  assert {r['name'] for r in records} == {'kmeans(k=8,init=++)', 'identity'}
  summary = json.loads((workdir / 'summary.json').read_text())
  (score,) = {next(iter(r['metrics'])) for r in summary['rows']}
  assert score == tasks.make(run.task).metrics[0]
  label = summary['rows'][0]['metrics'][score]['label']
  assert label in printed
  assert str(Path(folder)) not in json.dumps([r['file'] for r in records[:1]])


@pytest.mark.parametrize('protocol', paligemma_tasks.PROTOCOLS)
def test_protocols_fit_a_model_of_224_pixels(tmp_path, protocol):
  model = released.at_224('npz', tmp_path / 'npz')
  (tmp_path / 'data').mkdir()
  run = task_runs.write('okvqa', tmp_path / 'data')
  name = f'task={run.base},protocol={protocol},model={model}'
  config = paligemma_tasks.get_config(name)
  config.data_dir = run.folder
  study = studies.TradeoffStudy(config)
  study.validate()
  assert len(study.data) >= task_runs.PICTURES


def test_every_task_of_the_config_is_there():
  bases = {name.partition('(')[0] for name in task_runs.names()}
  assert bases == {*paligemma_tasks.CHECKPOINTS}
  assert len({*tasks.NAMES} - bases) == 3  # Captions and scenes.
