"""Report of a run as a self-contained HTML file, with a gallery."""

from collab_jax.studies.html_report.gallery import Source
from collab_jax.studies.html_report.page import write, write_html
from collab_jax.studies.html_report.run_folder import model_folder

__all__ = ['Source', 'model_folder', 'write', 'write_html']
__dir__ = __all__.copy
