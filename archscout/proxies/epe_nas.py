"""How differently the network reacts to different images of one class."""

from __future__ import annotations

import torch

from archscout.probe import NotDefined, Probe, Proxy

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
    rows = probe["input_gradient@batch0"].flatten(1).double()
    labels = probe.batches[0][1].to(rows.device)
    classes = labels.unique()
    if len(classes) == len(labels):
        raise NotDefined("needs two images of one class")
    rows = rows - rows.mean(1, keepdim=True)
    norms = rows.norm(dim=1, keepdim=True)
    if not (torch.isfinite(norms).all() and (norms > 0).all()):
        raise NotDefined("the input gradient of an image is constant, NaN or infinite, so it correlates with nothing")
    rows = rows / norms
    same = labels[:, None] == labels
    logs = torch.where(same, ((rows @ rows.T).abs() + EPSILON).log(), 0).sum(1)
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
