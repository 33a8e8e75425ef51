"""The page of flags is what its tool makes."""

from pathlib import Path
import subprocess
import sys

from tests import launching


def test_the_page_of_flags_is_current():
  # In a process of its own: the programs define flags of the same names.
  code = 'from tools import flags; print(flags.page(), end="")'
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=launching.ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  page = Path(launching.ROOT, 'docs', 'flags.md').read_text('utf-8')
  assert done.stdout == page, 'python tools/flags.py makes docs/flags.md anew'
  for said in (
    '### collab-jax serve\n',
    '### experiments/evaluate.py\n',
    "- `--config.model='tiny'` ",
    '### configs/train_tiny.py\n',
  ):
    assert said in page
