"""How differently the network reacts to different images of one class."""

from __future__ import annotations

import torch

from archscout.probe import NotDefined, Probe, Proxy
from archscout.proxies.jacob_cov import input_correlations

EPSILON = 1e-5
MANY = 100


def epe_nas(probe: Probe) -> float:
    """How uncorrelated the input gradients within each class are: sum_c |s_c|, s_c = sum_ij log(|C_ij| + k), k = 1e-5.

    C: correlation matrix of the rows J_n of one class, J_n = derivative of the sum of all outputs by image n, batch
    normalisation in train mode. With more than 100 classes: sum_cd |s_c / n_c - s_d / n_d| / (classes seen), n_c images
    of class c. Lopes et al. 2021, arXiv 2102.08099; with the sums over classes of its released code.
    Data: one batch with labels. Larger is better. Scale: positive; a few units per pair of images of one class, so
    compare only under one batch. Cost: one forward, one backward to the input.
    Fails with many classes and few images of each: a class of one image says nothing, and the rank correlation with
    accuracy on NAS-Bench-201 falls from .77 on 10 classes to .32 on 120. Undefined without two images of one class.
    """
    correlations = input_correlations(probe)
    labels = probe.batches[0][1].to(correlations.device)
    classes = labels.unique()
    if len(classes) == len(labels):
        raise NotDefined("needs two images of one class")
    same = labels[:, None] == labels
    logs = torch.where(same, (correlations.abs() + EPSILON).log(), 0).sum(1)
    scores = torch.stack([logs[labels == each].sum() for each in classes])
    if probe.classes <= MANY:
        return float(scores.abs().sum())
    scores = scores / torch.stack([(labels == each).sum() for each in classes])
    return float((scores[:, None] - scores).abs().sum() / len(classes))


PROXY = Proxy(
    epe_nas,
    ("input_gradient@batch0",),
    paper="Lopes et al. 2021, arXiv 2102.08099",
    cost="one forward, one backward to the input",
)
