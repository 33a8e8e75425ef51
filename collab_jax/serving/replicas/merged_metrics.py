"""Metrics of all replicas on one page, each sample with its replica's name."""

from collections.abc import Iterator, Mapping
import time

import prometheus_client as prometheus
from prometheus_client import metrics_core, parser

LABEL = 'replica'


class MetricsPages:
  """Newest page of metrics of each replica.

  pages = MetricsPages()
  pages.put('a1b2', prometheus.generate_latest(registry).decode())
  text = pages.merged()
  """

  def __init__(self, seconds: float = 5.0):
    """Makes an empty collection.

    Args:
      seconds: Time after which a replica that has put no page is left out.
    """
    self._seconds = seconds
    self._pages: dict[str, tuple[float, str]] = {}

  def put(self, replica: str, page: str) -> None:
    """Keeps a page of Prometheus' text format, instead of the last one."""
    now = time.monotonic()
    self._pages[replica] = now, page
    for name, (since, _) in list(self._pages.items()):
      if now - since > self._seconds:
        del self._pages[name]

  def merged(self) -> str:
    """Returns all pages as one."""
    oldest = time.monotonic() - self._seconds
    return merge(
      {name: page for name, (t, page) in self._pages.items() if t > oldest}
    )


class MetricsStore:
  """Newest metrics of all replicas, in a process of their own."""

  def __init__(self):
    """Makes an empty store."""
    self._pages = MetricsPages()

  async def put(self, replica: str, page: str) -> None:
    """Keeps a replica's page."""
    self._pages.put(replica, page)

  async def merged(self) -> str:
    """Returns all pages as one."""
    return self._pages.merged()


def merge(pages: Mapping[str, str]) -> str:
  """Merges pages of metrics.

  Args:
    pages: Texts in Prometheus' format by the name of the replica.

  Returns:
    Such a text, in which every sample has the label `replica`.
  """
  registry = prometheus.CollectorRegistry()
  registry.register(_Merged(pages))
  return prometheus.generate_latest(registry).decode()


class _Merged:
  """Collector of the samples of several pages."""

  def __init__(self, pages: Mapping[str, str]):
    self._pages = pages

  def collect(self) -> Iterator[metrics_core.Metric]:
    families: dict[str, metrics_core.Metric] = {}
    for replica, page in sorted(self._pages.items()):
      for family in parser.text_string_to_metric_families(page):
        merged = families.setdefault(
          family.name,
          metrics_core.Metric(family.name, family.documentation, family.type),
        )
        for sample in family.samples:
          labels = {**sample.labels, LABEL: replica}
          merged.add_sample(sample.name, labels, sample.value)
    yield from families.values()
