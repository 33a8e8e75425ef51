"""The notebooks run, in their small mode, and hold no outputs."""

from pathlib import Path

import jupyter_client
import nbclient
import nbformat
import pytest

from collab_jax.models import zoo
from tests import standin

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / 'colab').glob('*.ipynb'))
# How many pictures each shows.
PICTURES = {
  'edge_and_server': 2,
  'extend_a_quantizer': 3,
  'fig2_fig3': 5,
  'finetune_through_the_bottleneck': 2,
  'quickstart': 6,
  'rate_and_channels': 3,
}


@pytest.fixture(scope='module')
def kernel():
  """A kernel as Jupyter starts it: in the notebooks' folder, what is installed.

  All of them run in it, one after the other, each in an empty namespace: nearly
  all of a kernel's start are imports.
  """
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('COLLAB_JAX_SMOKE', '1')
    patch.delenv('PYTHONPATH', raising=False)
    manager = jupyter_client.KernelManager(kernel_name='python3')
    manager.start_kernel(cwd=str(ROOT / 'colab'))
    yield manager
    manager.shutdown_kernel(now=True)


def _run(notebook, kernel):
  """Runs a notebook, whatever one before has left or ended."""
  if not kernel.is_alive():
    kernel.restart_kernel(now=True)
  client = nbclient.NotebookClient(notebook, timeout=600, km=kernel)
  with client.setup_kernel():
    for i, cell in enumerate(notebook.cells):
      client.execute_cell(cell, i)
    client.kc.execute_interactive("get_ipython().run_line_magic('reset', '-f')")


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, kernel):
  notebook = nbformat.read(path, as_version=4)
  for cell in notebook.cells:
    cell.source = cell.source.replace(
      "cj.load('tiny')", f'cj.load({standin.shipped()!r})'
    )
  _run(notebook, kernel)
  shown = [
    output
    for cell in notebook.cells
    for output in cell.get('outputs', [])
    if 'image/png' in output.get('data', {})
  ]
  assert len(shown) == PICTURES[path.stem]


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_clean_and_short(path):
  notebook = nbformat.read(path, as_version=4)
  nbformat.validate(notebook)
  assert len(notebook.cells) <= 25
  code = [cell for cell in notebook.cells if cell.cell_type == 'code']
  assert not any(cell.outputs or cell.execution_count for cell in code)
  assert 'colab-badge.svg' in notebook.cells[0].source
  assert "if 'google.colab' in sys.modules" in code[0].source
  # Installs what is missing, and leaves Colab's jax alone.
  assert '--format=freeze' in code[0].source
  assert ' -c /tmp/installed.txt ' in code[0].source
  assert 'jax.devices()' in code[0].source


def test_a_model_that_kaggle_lacks_is_refused_before_the_login():
  path = ROOT / 'colab' / 'fig2_fig3.ipynb'
  cells = nbformat.read(path, as_version=4).cells
  cell = next(cell for cell in cells if 'def login' in cell.source)
  chosen = {'MODEL': 'paligemma-3b-ft-cococap-224', 'SOURCE': 'kaggle'}
  with pytest.raises(ValueError, match='which has no paligemma-3b-ft-cococap'):
    exec(cell.source, {'zoo': zoo, **chosen})


def test_there_are_notebooks():
  assert {path.stem for path in NOTEBOOKS} == PICTURES.keys()
