"""Losses as pure functions, named by their mathematics.

A loss takes tensors and gives a tensor: no state, no configuration, no network. Every normalisation
(temperature squared, reduction) is inside the function and stated in its docstring. Half precision is
raised to float32; float64 stays, so gradients can be checked. Gradients flow to both arguments: a method
detaches its teacher once, in ``Method.pair``.
"""

from sapling.losses.correlation import inter_class, intra_class, pearson
from sapling.losses.divergence import decoupled, kl_divergence, sigmoid_kl, spatial_kl, standardize_logits

__all__ = [
    "decoupled",
    "inter_class",
    "intra_class",
    "kl_divergence",
    "pearson",
    "sigmoid_kl",
    "spatial_kl",
    "standardize_logits",
]
