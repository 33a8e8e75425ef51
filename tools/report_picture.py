r"""Takes the picture of a report's gallery that the documentation shows.

python tools/report_picture.py --run=runs/demo --out=docs/images/report.png

Needs Chromium (apt-get install chromium) and the extra 'serving'.
"""

import asyncio
from pathlib import Path
import tempfile

from absl import app, flags
import browser

from collab_jax import studies

_RUN = flags.DEFINE_string('run', 'runs/demo', 'Folder of a run.')
_OUT = flags.DEFINE_string('out', 'docs/images/report.png', 'PNG to write.')
_ENTRY = flags.DEFINE_integer('entry', 2, 'Which picture of the gallery.')
_WIDTH = flags.DEFINE_integer('width', 1000, 'Of the window, in pixels.')
_SCHEME = flags.DEFINE_enum('scheme', 'light', ['light', 'dark'], 'Colours.')


async def _shoot(path: str, report: Path) -> bytes:
  async with browser.browser(path) as tab:
    width, dark = _WIDTH.value, _SCHEME.value == 'dark'
    await tab.show(width, 900, dark=dark, mobile=width < 500)
    await tab.open(f'file://{report}')
    place = await tab.run(
      f"""(() => {{
        const entry = document.querySelectorAll('article')[{_ENTRY.value}];
        const {{x, y, width, height}} = entry.getBoundingClientRect();
        return {{x, y: y + scrollY, width, height}};
      }})()"""
    )
    return await tab.png(whole=True, clip=place)


def main(argv):
  """Writes the report anew, and the picture of one entry."""
  if argv[1:]:
    raise app.UsageError(f'unexpected arguments: {argv[1:]}')
  with studies.runtime():
    path = browser.find_chromium()
    with tempfile.TemporaryDirectory() as folder:
      report = studies.write_html(_RUN.value, Path(folder) / 'report.html')
      data = asyncio.run(_shoot(path, report.resolve()))
    Path(_OUT.value).write_bytes(data)
    print(f'{_OUT.value}: {len(data):,} bytes')


if __name__ == '__main__':
  app.run(main)
