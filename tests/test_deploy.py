"""Files of deploy/: flags, metrics and code that they name exist.

Their own linters are tools that are not installed here; docs/serving.md has the
commands.
"""

import functools
import json
from pathlib import Path
import re
import shlex
import shutil
import stat
import subprocess
import sys

import pytest
import yaml

from collab_jax.serving import tls
from collab_jax.serving.server import metrics, security
from tests import launching
from tests.serving import haproxy
from tools import grafana_board

DEPLOY = Path(__file__).parents[1] / 'deploy'
UNITS = sorted(DEPLOY.glob('systemd/*.service'))
BOARD = DEPLOY / 'grafana' / 'collab_jax.json'
COMPOSE = DEPLOY / 'compose.yaml'
RAY = DEPLOY / 'kubernetes' / 'rayservice.yaml'
RULES = DEPLOY / 'prometheus' / 'collab_jax.rules.yml'


_flags_of = functools.cache(launching.flags_of)


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
  starts += [c['args'] for c in _containers() if 'args' in c]
  starts += [s['command'] for s in _services().values() if 'command' in s]
  return [start for start in starts if start[0] in ('serve', 'page')]


def _containers():
  """Returns the containers of all manifests of Kubernetes."""
  containers = []
  for path in DEPLOY.glob('kubernetes/*.yaml'):
    for item in yaml.safe_load_all(path.read_text()):
      if item['kind'] == 'Deployment':
        containers += item['spec']['template']['spec']['containers']
      if item['kind'] == 'RayService':
        cluster = item['spec']['rayClusterConfig']
        for group in (cluster['headGroupSpec'], *cluster['workerGroupSpecs']):
          containers += group['template']['spec']['containers']
  return containers


def _services():
  """Returns the services of the compose file."""
  return yaml.safe_load(COMPOSE.read_text())['services']


def test_flags_exist():
  commands = _commands()
  assert [c[0] for c in commands].count('serve') == 5
  assert [c[0] for c in commands].count('page') == 3
  for name, *flags in commands:
    for flag in flags:
      match = re.fullmatch('--([a-z_.]+)(=.*)?', flag)
      assert match, flag
      assert match[1] in _flags_of(name), (name, flag)


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


@pytest.fixture(scope='module')
def secrets(tmp_path_factory):
  """Folder of the files that deploy/make_secrets.sh makes."""
  if shutil.which('openssl') is None:
    pytest.skip('openssl is not installed')
  folder = tmp_path_factory.mktemp('made') / 'secrets'
  done = subprocess.run(
    ['sh', DEPLOY / 'make_secrets.sh', folder, 'example.org'],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  return folder


def test_secrets_fit_each_other(secrets):
  """Servers take theirs, and nobody else reads them."""
  server = {
    'cert': str(secrets / 'server.pem'),
    'key': str(secrets / 'server.key'),
  }
  path = str(secrets / 'proxy_secret')
  chosen = security.Security(**server, proxy_secret_file=path)
  chosen.check('0.0.0.0')
  chosen.certificates()
  (secret,) = chosen.proxy_secrets()
  assert (
    f'PROXY_SECRET={secret.decode()}' in (secrets / 'proxy.env').read_text()
  )
  for name in ('edge', 'proxy', 'server'):
    tls.check_files(
      secrets / f'{name}.pem', secrets / f'{name}.key', secrets / 'ca.pem'
    )
  for made in secrets.iterdir():
    assert not made.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO), made
  again = subprocess.run(
    ['sh', DEPLOY / 'make_secrets.sh', secrets], capture_output=True, text=True
  )
  assert again.returncode == 1
  assert 'has an authority already' in again.stderr


@pytest.mark.skipif(haproxy.BINARY is None, reason=haproxy.MISSING)
def test_the_proxy_takes_its_settings(secrets):
  env = dict(
    line.split('=') for line in (secrets / 'proxy.env').read_text().split()
  )
  pem = {
    'CERTIFICATE': str(secrets / 'proxy.pem'),
    'CLIENT_CA': str(secrets / 'ca.pem'),
    'SERVER_CA': str(secrets / 'ca.pem'),
  }
  for changes in ({}, {'SERVER_TLS': 'proto h2'}):
    said, status = haproxy.check({**env, **pem, **changes})
    assert status == 0, said
    assert 'WARNING' not in said, said


def test_compose_keeps_servers_behind_the_proxy(secrets):
  whole = yaml.safe_load(COMPOSE.read_text())
  services, networks = whole['services'], whole['networks']
  assert networks['servers']['internal']
  for name, service in services.items():
    on = set(service['networks'])
    assert on <= set(networks), name
    if 'servers' in on:
      assert name in ('server1', 'server2', 'proxy', 'prometheus')
    assert set(service.get('secrets', [])) <= set(whole['secrets'])
    assert set(service.get('depends_on', [])) <= set(services)
  assert 'ports' not in services['server1']
  # Each part has its own key alone.
  keys = {
    name: {s for s in service.get('secrets', []) if s.endswith('key')}
    for name, service in services.items()
  }
  assert keys['edge'] == {'edge.key'}
  assert keys['server1'] == {'server.key'}
  assert not keys['proxy']
  for secret in whole['secrets'].values():
    assert (secrets.parent / secret['file']).is_file(), secret
  for service in services.values():
    for volume in service.get('volumes', []):
      source = volume.partition(':')[0]
      known = source in whole['volumes'] or (DEPLOY / source).exists()
      assert known, volume


def test_settings_of_the_proxy_exist():
  known = set(
    re.findall(r'^  presetenv (\w+)', haproxy.CONFIG.read_text(), re.M)
  )
  known.add('PROXY_SECRET')
  assert set(_services()['proxy']['environment']) <= known
  (container,) = (c for c in _containers() if c['name'] == 'haproxy')
  assert {entry['name'] for entry in container['env']} <= known


def test_the_ray_service_names_what_exists():
  spec = yaml.safe_load(RAY.read_text())['spec']
  serve = yaml.safe_load(spec['serveConfigV2'])
  paths = [
    *serve['grpc_options']['grpc_servicer_functions'],
    serve['applications'][0]['import_path'].replace(':', '.'),
  ]
  # In a process of its own: it defines the flags of `serve`.
  check = 'import pkgutil, sys; assert all(map(callable, map('
  check += 'pkgutil.resolve_name, sys.argv[1:])))'
  subprocess.run([sys.executable, '-c', check, *paths], check=True)
  arguments = serve['applications'][0]['args']
  assert set(arguments) <= set(_flags_of('serve'))
  (mount,) = {
    entry['mountPath']
    for c in _containers()
    if c['name'] == 'ray'
    for entry in c['volumeMounts']
    if entry['name'] == 'files'
  }
  assert str(Path(arguments['proxy_secret_file']).parent) == mount
  ports = [
    {port['name']: port['containerPort'] for port in c['ports']}
    for c in _containers()
    if c['name'] == 'ray'
  ]
  for named in ports:
    assert named['serve'] == serve['http_options']['port']
    assert named['serve-grpc'] == serve['grpc_options']['port']


def test_pods_outlive_their_drain():
  """Kubernetes and Docker wait longer than a server takes to end."""
  (container,) = (c for c in _containers() if c['name'] == 'server')
  flags = [a for a in container['args'] if 'lame_duck' in a]
  pod = yaml.safe_load_all((DEPLOY / 'kubernetes/server.yaml').read_text())
  seconds = next(iter(pod))['spec']['template']['spec'][
    'terminationGracePeriodSeconds'
  ]
  assert seconds > int(flags[0].partition('=')[2]) + 30
  for name in ('server1', 'server2'):
    service = _services()[name]
    (lame,) = (a for a in service['command'] if 'lame_duck' in a)
    assert int(service['stop_grace_period'][:-1]) > int(lame[-1]) + 30
