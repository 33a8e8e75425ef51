"""Report of a run as a self-contained HTML file, with a gallery."""

from collab_jax.studies.html_report.gallery import Source
from collab_jax.studies.html_report.page import (
  write,
  write_html,
  write_tasks,
)
from collab_jax.studies.html_report.run_folder import model_folder
from collab_jax.studies.html_report.task_lines import records_of

__all__ = [
  'Source',
  'model_folder',
  'records_of',
  'write',
  'write_html',
  'write_tasks',
]
__dir__ = __all__.copy
