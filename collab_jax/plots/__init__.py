"""The paper's figures, drawn from records and from a model."""

from collab_jax.plots.curves import tradeoff
from collab_jax.plots.maps import fig2
from collab_jax.plots.style import save

__all__ = ['fig2', 'save', 'tradeoff']
