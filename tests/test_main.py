"""The command `collab-jax` and its table of subcommands."""

import sys

import pytest

import collab_jax
from collab_jax import __main__ as dispatcher


def _said(capsys, *arguments):
  with pytest.raises(SystemExit) as ended:
    dispatcher.run(['collab-jax', *arguments])
  return ended.value.code, capsys.readouterr().out


def test_help_lists_every_command(capsys):
  code, out = _said(capsys, '--help')
  assert code == 0
  for name in dispatcher._COMMANDS:
    (line,) = (x for x in out.splitlines() if x.startswith(f'  {name} '))
    assert line.rstrip().endswith('.')


def test_no_command_prints_help_and_fails(capsys):
  code, out = _said(capsys)
  assert code == 1
  assert 'usage: collab-jax COMMAND' in out


def test_missing_extra_is_one_line(monkeypatch, capsys, tmp_path):
  (tmp_path / 'needs_grpc.py').write_text('import grpc\n')
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setitem(sys.modules, 'grpc', None)
  monkeypatch.setitem(dispatcher._COMMANDS, 'caption', 'needs_grpc')
  code, _ = _said(capsys, 'caption', '--server=x')
  assert code == (
    "error: caption needs the extra 'serving': pip install"
    " 'collab_jax[serving]'"
  )


def test_mistyped_command_suggests_the_nearest(capsys):
  code, _ = _said(capsys, 'convret')
  assert code == "error: command: got 'convret'; did you mean 'convert'?"


@pytest.mark.parametrize('flag', ['--version', '-V', 'version'])
def test_version(capsys, flag):
  code, out = _said(capsys, flag)
  assert code == 0
  assert out.startswith(f'collab_jax {collab_jax.__version__}, jax ')


@pytest.mark.parametrize('command', ['serve', 'inspect'])
def test_version_of_a_command_is_that_of_all(capsys, command):
  code, out = _said(capsys, command, '--version')
  assert code == 0
  assert out.startswith(f'collab_jax {collab_jax.__version__}, jax ')
