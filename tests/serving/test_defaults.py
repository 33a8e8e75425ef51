"""Defaults of the programs, which agree, and the spelling of their flags."""

import itertools
import json
from pathlib import Path
import re

import grpc
import pytest

import collab_jax as cj
from collab_jax import __main__ as dispatcher
from collab_jax.exporters import run
from collab_jax.serving import collab_pb2, protocol
from tests import launching, standin
from tests.serving import harness

ROOT = Path(__file__).parents[2]
# Flags that mean the same wherever they stand.
MODEL = 'model', 'model_path', 'dtype', 'compute_dtype', 'precision'
CONNECTION = 'server', 'token_file', 'ca', 'cert', 'key', 'server_name'
SHARED = {
  'serve': MODEL,
  'caption': (*MODEL, *CONNECTION),
  'page': (*MODEL, *CONNECTION),
  'export': MODEL,
}


@pytest.mark.parametrize('command', SHARED)
def test_commands_share_their_flags(command):
  texts = launching.flags_of(command)
  assert set(SHARED[command]) <= set(texts)
  for name in SHARED[command]:
    assert texts[name] == launching.flags_of('caption')[name]


def test_all_ends_agree_without_flags():
  config = cj.serving.ServerConfig()
  assert protocol.SERVER == run.SERVER == f'localhost:{config.port}'
  listed = config.quantizers.split(';')
  defaults = cj.codecs.choose('', 'kmeans', 8)
  assert defaults.name == listed[0] == 'kmeans(k=8)'
  assert listed[1:] == ['any']
  texts = {
    name: launching.flags_of(name) for name in ('caption', 'page', 'export')
  }
  assert "'localhost:50051'" in texts['caption']['server']
  assert "'kmeans'" in texts['caption']['quantizer']
  assert texts['caption']['k'].startswith('=8\n')
  for name in ('quantizer', 'k'):
    assert texts['export'][name] == texts['caption'][name]
  assert cj.codecs.make_quantizer('kmeans', 8, False) == defaults.quantizer
  assert "'tiny'" in texts['page']['model']


def test_documents_spell_flags_with_underscores():
  """`--max-bytes` is read, too, but one spelling is written."""
  names = itertools.chain(*map(launching.flags_of, dispatcher._COMMANDS))
  known = {name.replace('_', '-') for name in names if '_' in name}
  files = [ROOT / 'README.md', *ROOT.glob('docs/*.md'), *ROOT.glob('colab/*')]
  files += [*ROOT.glob('experiments/*.py'), *ROOT.glob('collab_jax/**/*.py')]
  for path in files:
    if path.is_dir() or path.name in ('__main__.py', 'run.py'):
      continue
    text = path.read_text('utf-8').replace('`--token-file` is read as', '')
    dashed = set(re.findall(r'--([a-z]+-[a-z-]+)', text))
    assert not dashed & known, path


def test_a_listed_codec_and_any_other(model, made):
  """'any' beside a name: the one is compiled at the start, others are made."""
  config = harness.make_config(quantizers='kmeans(k=4);any')
  with cj.serving.Server(model, config) as server:
    assert server.metrics.value('sessions') == 2  # In both codings.
    caller = harness.Caller(server.address)
    for name in ('kmeans', 'close'):
      codec, messages = made[name]
      caller.handshake(codec)
      assert caller.caption(codec, messages[0]).tokens > 0
    own = json.loads(made['kmeans'][0].to_json())
    own['spec']['quantizer'] = 'mine:KMeans(k=4)'
    with harness.refused(grpc.StatusCode.FAILED_PRECONDITION):
      caller.handshake(json.dumps(own))


def test_metadata_says_what_is_admitted(shared):
  caller = harness.Caller(shared.address)
  reply = caller.stub.Metadata(collab_pb2.MetadataRequest())
  assert reply.quantizers == ';'.join(harness.QUANTIZERS)
  assert reply.images == 'webp(quality=40)'
  assert reply.version == cj.__version__
  assert reply.model == 'stand-in'
  assert reply.max_message_bytes == shared.max_message_bytes


def test_an_npz_is_an_edge(tmp_path):
  """`--model_path` is that of `serve`; what it holds is checked as there."""
  picture = tmp_path / 'a.png'
  picture.write_bytes(b'')
  done = launching.run(
    *('-m', 'collab_jax', 'caption', picture, '--model=paligemma-3b-mix-224'),
    f'--model_path={standin.folder()}',
  )
  assert done.returncode == 1
  assert 'is not paligemma-3b-mix-224' in done.stderr
