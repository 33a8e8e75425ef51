r"""Writes the Grafana board of a server.

python tools/grafana_board.py
"""

import json
from pathlib import Path
from typing import Any

from absl import app

_BOARD = Path(__file__).parents[1] / 'deploy' / 'grafana' / 'collab_jax.json'

_SOURCE = {'type': 'prometheus', 'uid': '${source}'}
_ME = 'instance=~"$instance"'
_CAPTIONS = f'method=~"Caption.*",{_ME}'


def _rate(metric: str, by: str = '', labels: str = _ME) -> str:
  return (
    f'sum by ({by}) (rate(collab_jax_{metric}{{{labels}}}[$__rate_interval]))'
  )


def _mean(metric: str, by: str = '') -> str:
  return f'{_rate(f"{metric}_sum", by)} / {_rate(f"{metric}_count", by)}'


def _quantile(share: float, metric: str, labels: str = _ME) -> str:
  return (
    f'histogram_quantile({share}, {_rate(f"{metric}_bucket", "le", labels)})'
  )


def _gauge(metric: str) -> str:
  return f'sum(collab_jax_{metric}{{{_ME}}})'


# Title, unit, and queries with their legends; three panels a row.
_PANELS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
  (
    'Captions a second',
    'reqps',
    ((_rate('requests_total', labels=f'code="OK",{_CAPTIONS}'), 'captions'),),
  ),
  (
    'Errors a second, by status',
    'reqps',
    ((_rate('requests_total', 'code', f'code!="OK",{_ME}'), '{{code}}'),),
  ),
  (
    'Seconds of a caption',
    's',
    tuple(
      (_quantile(share, 'request_seconds', _CAPTIONS), f'p{share * 100:g}')
      for share in (0.5, 0.9, 0.99)
    ),
  ),
  (
    'Mean seconds by stage',
    's',
    ((_mean('stage_seconds', 'stage'), '{{stage}}'),),
  ),
  (
    'Seconds of waiting',
    's',
    tuple(
      (
        _quantile(share, 'stage_seconds', f'stage="queue",{_ME}'),
        f'p{share * 100:g}',
      )
      for share in (0.5, 0.99)
    ),
  ),
  (
    'Requests that wait, captions in decoding',
    'short',
    (
      (_gauge('queue'), 'waiting'),
      (_gauge('rows'), 'decoding'),
      (_quantile(0.99, 'queue_length'), 'waiting at an arrival, p99'),
    ),
  ),
  (
    'Captions of a prefill, mean',
    'short',
    ((_mean('batch'), 'captions'),),
  ),
  (
    'Mean seconds of a program',
    's',
    ((_mean('program_seconds', 'program'), '{{program}}'),),
  ),
  (
    'Tokens a second',
    'short',
    ((_rate('tokens_total'), 'tokens'),),
  ),
  (
    'Bytes of messages a second',
    'Bps',
    ((_rate('received_bytes_total'), 'bytes'),),
  ),
  (
    'Calls, health streams, codecs',
    'short',
    (
      (_gauge('calls'), 'calls'),
      (_gauge('watches'), 'health streams'),
      (_gauge('sessions'), 'codecs'),
    ),
  ),
  (
    'Pictures kept for more questions',
    'short',
    ((_gauge('pictures'), 'pictures'),),
  ),
  (
    'Bytes of kept pictures',
    'bytes',
    ((_gauge('picture_bytes'), 'bytes'),),
  ),
  (
    'Questions about kept pictures a second',
    'reqps',
    ((_rate('asked_pictures_total', 'picture'), '{{picture}}'),),
  ),
  (
    'Ended by a limit, a second',
    'reqps',
    ((_rate('rejections_total', 'reason'), '{{reason}}'),),
  ),
  (
    'Compilations in an hour',
    'short',
    (
      (
        f'sum by (when) (increase(collab_jax_compilations_total{{{_ME}}}[1h]))',
        '{{when}}',
      ),
    ),
  ),
  (
    'Takes requests',
    'short',
    ((f'collab_jax_serving{{{_ME}}}', '{{instance}}'),),
  ),
  (
    'Version, device and model',
    'short',
    (
      (
        f'collab_jax_build_info{{{_ME}}}',
        '{{instance}}: {{version}}, jax {{jax}}, {{device}}, {{model}}',
      ),
    ),
  ),
)


def _panel(number: int, title: str, unit: str, queries) -> dict[str, Any]:
  return {
    'id': number + 1,
    'type': 'timeseries',
    'title': title,
    'datasource': _SOURCE,
    'gridPos': {
      'x': number % 3 * 8,
      'y': number // 3 * 8,
      'w': 8,
      'h': 8,
    },
    'fieldConfig': {
      'defaults': {'unit': unit, 'min': 0},
      'overrides': [],
    },
    'options': {
      'legend': {
        'displayMode': 'list',
        'placement': 'bottom',
        'showLegend': True,
        'calcs': [],
      },
      'tooltip': {'mode': 'multi', 'sort': 'desc'},
    },
    'targets': [
      {
        'refId': chr(ord('A') + i),
        'datasource': _SOURCE,
        'expr': query,
        'legendFormat': legend,
      }
      for i, (query, legend) in enumerate(queries)
    ],
  }


def board() -> dict[str, Any]:
  """Returns the board, as Grafana imports it."""
  return {
    'uid': 'collab-jax',
    'title': 'collab_jax server',
    'tags': ['collab_jax'],
    'schemaVersion': 39,
    'editable': True,
    'graphTooltip': 1,
    'refresh': '30s',
    'time': {'from': 'now-3h', 'to': 'now'},
    'templating': {
      'list': [
        {
          'name': 'source',
          'label': 'Prometheus',
          'type': 'datasource',
          'query': 'prometheus',
        },
        {
          'name': 'instance',
          'label': 'Server',
          'type': 'query',
          'datasource': _SOURCE,
          'query': 'label_values(collab_jax_serving, instance)',
          'refresh': 2,
          'multi': True,
          'includeAll': True,
          'allValue': '.*',
        },
      ]
    },
    'panels': [_panel(i, *panel) for i, panel in enumerate(_PANELS)],
  }


def text() -> str:
  """Returns the board's file."""
  return json.dumps(board(), indent=2) + '\n'


def main(argv):
  """Writes the board."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  _BOARD.write_text(text(), 'utf-8')
  print(f'{_BOARD}: {len(_PANELS)} panels')


if __name__ == '__main__':
  app.run(main)
