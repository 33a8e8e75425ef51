"""Files of deploy/: flags, metrics and code that they name exist.

Their own linters are tools that are not installed here; docs/serving.md has the
commands.
"""

import functools
import json
from pathlib import Path
import re
import shlex

import pytest
import yaml

from collab_jax.serving.server import metrics
from tests import launching
from tools import grafana_board

DEPLOY = Path(__file__).parents[1] / 'deploy'
UNITS = sorted(DEPLOY.glob('systemd/*.service'))
BOARD = DEPLOY / 'grafana' / 'collab_jax.json'
RULES = DEPLOY / 'prometheus' / 'collab_jax.rules.yml'


def _instructions(name):
  """Returns the JSON arrays of a Dockerfile's instructions of one kind."""
  text = (DEPLOY / 'Dockerfile').read_text().replace('\\\n', '')
  lines = (line for line in text.splitlines() if name in line.split())
  return [json.loads(line[line.index('[') :]) for line in lines]


def _commands():
  """Returns the commands of all files, from the subcommand on."""
  commands = _instructions('CMD')
  starts = [c for c in commands if c[0] in ('serve', 'page')]
  for unit in UNITS:
    text = unit.read_text().replace('\\\n', '')
    (line,) = re.findall(r'^ExecStart=(.*)$', text, re.M)
    starts.append(shlex.split(line.replace('(', r'\(').replace(')', r'\)'))[1:])
  for path in DEPLOY.glob('kubernetes/*.yaml'):
    for item in yaml.safe_load_all(path.read_text()):
      if item['kind'] == 'Deployment':
        containers = item['spec']['template']['spec']['containers']
        starts += [container['args'] for container in containers]
  return starts


def test_flags_exist():
  commands = _commands()
  assert [c[0] for c in commands].count('serve') == 3
  assert [c[0] for c in commands].count('page') == 2
  for name, *flags in commands:
    for flag in flags:
      match = re.fullmatch('--([a-z_]+)(=.*)?', flag)
      assert match, flag
      assert match[1] in launching.flags_of(name), (name, flag)


def test_health_checks_parse():
  checks = [c for c in _instructions('HEALTHCHECK') if c[0] == 'python']
  assert len(checks) == 2
  for _, option, code in checks:
    assert option == '-c'
    compile(code, 'Dockerfile', 'exec')


@functools.cache
def _samples():
  """Returns the names of all samples, and the labels of each metric."""
  names, labels = set(), {}
  for family in metrics.Metrics().registry.collect():
    if family.type == 'histogram':
      kinds = '_bucket', '_sum', '_count'
    else:
      kinds = {'counter': ('_total',), 'info': ('_info',)}.get(
        family.type, ('',)
      )
    names |= {family.name + kind for kind in kinds}
    labels[family.name] = {n for s in family.samples for n in s.labels}
  return names, labels


def _expressions():
  for group in yaml.safe_load(RULES.read_text())['groups']:
    yield from (rule['expr'] for rule in group['rules'])
  for panel in json.loads(BOARD.read_text())['panels']:
    yield from (target['expr'] for target in panel['targets'])


def test_metrics_exist():
  names, _ = _samples()
  used = set()
  for expression in _expressions():
    used |= set(re.findall(r'collab_jax_[a-z_]+', expression))
  assert used
  assert used <= names
  # The board shows every metric but what follows from others.
  families = {re.sub('_(bucket|sum|count|total|info)$', '', n) for n in used}
  assert set(_samples()[1]) - families == set()


def test_label_values_exist():
  stages = re.findall(r'stage="([a-z_]+)"', ' '.join(_expressions()))
  assert set(stages) == {'queue'}
  whens = re.findall(r'when="([a-z-]+)"', ' '.join(_expressions()))
  assert set(whens) <= {'serving', 'warm-up'}


def test_board_is_current():
  assert BOARD.read_text() == grafana_board.text(), (
    'python tools/grafana_board.py'
  )


def test_every_alert_is_tried():
  rules = yaml.safe_load(RULES.read_text())['groups'][0]['rules']
  trials = yaml.safe_load((RULES.parent / 'collab_jax.test.yml').read_text())[
    'tests'
  ]
  fired = {
    trial['alertname']
    for test in trials
    for trial in test['alert_rule_test']
    if trial.get('exp_alerts')
  }
  assert fired == {rule['alert'] for rule in rules}


@pytest.mark.parametrize('unit', UNITS, ids=lambda path: path.stem)
def test_units_restrict_the_service(unit):
  lines = unit.read_text().splitlines()
  assert 'User=collab_jax' in lines
  assert 'NoNewPrivileges=yes' in lines
  assert 'ProtectSystem=strict' in lines
  # XLA's programs are written to memory, and run.
  assert not any(line.startswith('MemoryDenyWrite') for line in lines)


def test_images_run_as_nobody_in_particular():
  text = (DEPLOY / 'Dockerfile').read_text()
  assert re.search(r'^USER 10001$', text, re.M)
  ignored = (DEPLOY / 'Dockerfile.dockerignore').read_text().split()
  copied = re.findall(r'^COPY (?!--from)(.*) \S+$', text, re.M)
  for name in ' '.join(copied).split():
    assert (DEPLOY.parent / name).exists()
    assert f'!{name.partition("/")[0]}' in ignored
