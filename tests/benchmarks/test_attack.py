"""Machinery of the attack, some seconds of it against a server in here."""

import asyncio
import base64
import json
import random

import jax
import pytest

from benchmarks import attack, attackers, session_names
from collab_jax import captioner, checkpoints, codecs, data, serving
from collab_jax.serving.server import security
from tests.serving import certificates, harness

_OWNER, _OTHER = 'o' * 32, 'a' * 32


@pytest.fixture(scope='module')
def order(tmp_path_factory):
  """The order of an attacker, of a server that is up."""
  folder = tmp_path_factory.mktemp('attack')
  authority = certificates.Authority(folder, 'ca')
  cert, key = authority.issue('server')
  tokens = folder / 'tokens'
  tokens.write_text(f'{_OWNER}\n{_OTHER}')
  tokens.chmod(0o600)
  identity = security.Security(
    cert=str(cert), key=str(key), token_file=str(tokens)
  )
  model = checkpoints.load('tiny')
  codec = codecs.FeatureCodec(model, harness.QUANTIZERS[0])
  scenes = data.scenes('test', limit=2)
  images = jax.numpy.stack([scenes[i].image for i in range(2)])
  packets = codec.encode(images, jax.random.key(0))
  want = captioner.Captioner(model, max_tokens=12)(codec.decode(packets))
  name = session_names.for_codec(codec)
  encode = lambda part: base64.b64encode(part).decode()  # noqa: E731
  config = harness.make_config(security=identity)
  with serving.Server(model, config) as server:
    with serving.EdgeClient(
      server.address, codec, ca=authority.path, token=_OWNER, timeout=120.0
    ) as client:
      client.handshake()
    yield {
      **{'to': server.address, 'ca': str(authority.path), 'token': _OTHER},
      **{'seed': 0, 'seconds': 2.0, 'at_once': 8},
      'sessions': [codec.to_json()],
      'messages': [
        [encode(name), encode(packet), encode(right.encode())]
        for packet, right in zip(packets, want, strict=True)
      ],
      'owned': [encode(bytes([i] * 16)) for i in range(4)],
    }


@pytest.mark.parametrize('who', ['stranger', 'user'])
def test_tries_against_a_server(order, who):
  """Tries are made and refused; nothing is taken, and no caption is wrong."""
  counts = asyncio.run(attackers.attack({**order, 'who': who}))
  assert counts
  assert all(kind.startswith(who) for kind in counts)
  assert sum(sum(c.values()) for c in counts.values()) > len(counts)
  for kind, outcomes in counts.items():
    assert not outcomes['taken'], kind
    assert not outcomes['wrong'], kind


def test_what_was_taken_is_counted(order):
  """A caption that is not as it should be is found."""
  other = [
    [*m[:2], base64.b64encode(b'another').decode()] for m in order['messages']
  ]

  async def ask():
    attacker = attackers.Attacker({**order, 'messages': other})
    outcome = await attacker._caption()
    # With the right token, a stranger is none.
    attacker._token = order['token'] + 'x'
    refused = await attacker.stranger()
    await attacker.close()
    return outcome, refused

  assert asyncio.run(ask()) == ('wrong', 'refused')


def test_frames():
  assert attackers.frame(6, 1, 3, b'abc') == b'\0\0\3\6\1\0\0\0\3abc'
  assert attackers.headers('t').startswith(b'\0\7:method\4POST')


def test_tables(capsys):
  counts = dict.fromkeys(attackers.OUTCOMES, 1)
  owner = attack.Owner.__new__(attack.Owner)
  draw = random.Random(0)
  owner.lost = 1
  owner.seconds = {p: [draw.random() for _ in range(9)] for p in attack._PHASES}
  result = {
    'kinds': {'user: x': counts},
    'events': {'a full disk': [1, 2]},
    'owner': owner.summary(),
    'memory': [400.0, 410.0],
    'minutes': 60.0,
  }
  # One of the owner, two of the event, and one each taken and wrong.
  result = json.loads(json.dumps(result))
  assert attack.show(result) == 5
  out = capsys.readouterr().out
  for words in ('| user: x | 5 |', 'strangers', 'p99', '400 MB', 'all 5 lost'):
    assert words in out


def test_table_of_latency(capsys):
  """The ratio is the median of the turns'."""
  turns = [[[90, 10.0, 20.0], [80, 12.0, ms]] for ms in (30.0, 40.0, 400.0)]
  result = {'latency': {'stranger: calls': turns}, 'lost': 0, 'seconds': 6.0}
  result['tries'] = {'stranger: calls': 180}
  assert attack.show_latency(result) == 0
  row = capsys.readouterr().out.splitlines()[2]
  assert row == (
    '| stranger: calls | 10 | 12.0 | 40.0 | 20.0 | 2.00 | 1.5 2.0 20.0 |'
  )
