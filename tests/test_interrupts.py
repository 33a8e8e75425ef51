"""Programs that are interrupted end in one line."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from collab_jax import _interrupts
from tests import launching

# A program that waits; in C, as a compiler does, where no handler can run:
# numbers are sorted for minutes. Libraries print errors of their imports.
PROGRAM = """
import ctypes, sys, threading, time, traceback
from collab_jax import _interrupts
with _interrupts.in_one_line('interrupted; told once'):
  print('ready', flush=True)
  if sys.argv[1] == 'c':
    size, libc = 1 << 28, ctypes.CDLL(None)
    numbers = ctypes.create_string_buffer(size)
    count = ctypes.c_size_t(size)
    libc.qsort(numbers, count, ctypes.c_size_t(1), libc.memcmp)
  if sys.argv[1] == 'import':
    with _interrupts.in_one_line('interrupted; told once', at_once=True):
      try:
        time.sleep(60)
      except BaseException:
        traceback.print_exc()
  if sys.argv[1] == 'threads':
    threading.Thread(target=time.sleep, args=(60,)).start()
  time.sleep(60)
"""


LAUNCHERS = sorted((launching.ROOT / 'experiments').glob('*.py'))


def _interrupted(*arguments, signum, folder=launching.ROOT):
  process = subprocess.Popen(
    [sys.executable, *map(str, arguments)],
    cwd=launching.ROOT,
    env={**os.environ, 'PYTHONPATH': f'{folder}:{launching.ROOT}'},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    # A shell's background job would ignore SIGINT.
    preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
  )
  try:
    assert process.stdout.readline() == 'ready\n'
    time.sleep(0.2)
    process.send_signal(signum)
    _, err = process.communicate(timeout=30)
  finally:
    process.kill()
  return process.returncode, err


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('where', ['python', 'threads', 'import'])
def test_a_signal_ends_a_program_in_one_line(where, signum):
  code, err = _interrupted('-c', PROGRAM, where, signum=signum)
  assert code == 128 + signum
  assert err.strip() == 'interrupted; told once'


@pytest.mark.parametrize('launcher', LAUNCHERS, ids=lambda path: path.stem)
def test_a_signal_ends_a_launcher_that_imports_in_one_line(tmp_path, launcher):
  # What all of them import first waits.
  text = "import time; print('ready', flush=True); time.sleep(60)"
  (tmp_path / 'absl.py').write_text(text)
  number = LAUNCHERS.index(launcher)
  signum = (signal.SIGINT, signal.SIGTERM)[number % 2]
  code, err = _interrupted(launcher, signum=signum, folder=tmp_path)
  assert code == 128 + signum
  assert err.strip() in (_interrupts.GOES_ON, _interrupts.BEGINS_ANEW)


def test_a_program_that_compiles_is_ended_too():
  code, err = _interrupted('-c', PROGRAM, 'c', signum=signal.SIGINT)
  assert code == 130
  assert err.strip() == 'interrupted; told once'


def test_signals_that_are_ignored_stay_so():
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with _interrupts.in_one_line('unsaid'):
      assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
      assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
  finally:
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_without_a_signal(capsys):
  handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
  with (
    pytest.raises(SystemExit) as ended,
    _interrupts.in_one_line('interrupted'),
  ):
    raise KeyboardInterrupt
  assert ended.value.code == 130
  assert capsys.readouterr().err == 'interrupted\n'
  assert handlers == [
    signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)
  ]


def test_other_threads_change_nothing():
  raised = []

  def run():
    try:
      with _interrupts.in_one_line('unsaid'):
        raise KeyboardInterrupt
    except KeyboardInterrupt as error:
      raised.append(error)

  thread = threading.Thread(target=run)
  thread.start()
  thread.join()
  assert raised
