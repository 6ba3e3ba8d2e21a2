"""Losses as pure functions, named by their mathematics.

A loss takes tensors and gives a tensor: no state, no configuration, no network. Every normalisation
(temperature squared, reduction) is inside the function and stated in its docstring. Half precision is
raised to float32; float64 stays, so gradients can be checked. Gradients flow to both arguments: a method
detaches its teacher once, in ``Method.pair``.
"""

from sapling.losses.attention import attention_error, attention_map
from sapling.losses.correlation import inter_class, intra_class, pearson
from sapling.losses.divergence import decoupled, kl_divergence, sigmoid_kl, spatial_kl, standardize_logits
from sapling.losses.maps import as_map, as_vectors, same_size
from sapling.losses.regression import squared_error
from sapling.losses.relation import affinity_divergence, angle_error, distance_error, similarity_error
from sapling.losses.spectral import (
    class_nuclear_norm,
    column_norm,
    effective_rank,
    frobenius_norm,
    nuclear_norm,
    singular_values,
)

__all__ = [
    "affinity_divergence",
    "angle_error",
    "as_map",
    "as_vectors",
    "attention_error",
    "attention_map",
    "class_nuclear_norm",
    "column_norm",
    "decoupled",
    "distance_error",
    "effective_rank",
    "frobenius_norm",
    "inter_class",
    "intra_class",
    "kl_divergence",
    "nuclear_norm",
    "pearson",
    "same_size",
    "sigmoid_kl",
    "similarity_error",
    "singular_values",
    "spatial_kl",
    "squared_error",
    "standardize_logits",
]
