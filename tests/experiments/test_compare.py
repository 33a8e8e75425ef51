"""The launcher that compares runs."""

from tests.evaluation import test_comparison


def test_two_folders(launch, tmp_path):
  records = test_comparison.make()
  runs = [
    test_comparison.write(tmp_path / name, group)
    for name, group in (
      ('one', records),
      ('two', test_comparison.worse(records, 0.5)),
    )
  ]
  flags = [f'--out={tmp_path / "both"}', '--resamples=20', '--y=cider']
  done = launch('compare', *map(str, runs), *flags, '--x=vectors')
  assert done.returncode == 0, done.stderr
  assert 'CIDEr' in done.stdout
  assert 'worse' in done.stdout
  assert 'compare.png compare.svg summary.json table.txt' in done.stdout


def test_mistakes_are_one_line(launch, tmp_path):
  for arguments, said in (
    ([str(tmp_path)], 'expected two or more runs'),
    ([str(tmp_path / 'a'), str(tmp_path / 'b')], 'check the path'),
    ([str(tmp_path), '--y=blue4', str(tmp_path / 'b')], "did you mean 'bleu4'"),
  ):
    done = launch('compare', *arguments, f'--out={tmp_path / "out"}')
    assert done.returncode != 0
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
