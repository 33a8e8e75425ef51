"""Writes a report of a run as one HTML file, with a gallery.

python experiments/report.py runs/demo
python experiments/report.py runs/rate --out=rate.html --pictures=20

It opens from the file, without a network. The launchers write it too, as
report.html in their workdir.
"""

if __name__ == '__main__':  # Imports take seconds.
  from collab_jax import _interrupts

  _interrupts.watch_imports(_interrupts.BEGINS_ANEW)

from absl import app, flags

from collab_jax import launcher, studies

_OUT = flags.DEFINE_string(
  'out', None, "File to write; by default report.html in the run's folder."
)
_PICTURES = flags.DEFINE_integer(
  'pictures', 12, 'Number of pictures in the gallery.', lower_bound=0
)
_CLUSTERS = flags.DEFINE_bool(
  'clusters', True, "Load the model's edge half, to draw what arrives."
)


def main(argv):
  """Reads the run, writes the report, and says where it is."""
  if len(argv) != 2:
    raise app.UsageError('expected one folder of a run, or file of records')
  with studies.runtime(resumes=False):
    path = studies.write_html(
      argv[1], _OUT.value, _PICTURES.value, _CLUSTERS.value
    )
    print(f'{path}: {path.stat().st_size / 1e6:.1f} MB')


if __name__ == '__main__':
  launcher.start(main)
