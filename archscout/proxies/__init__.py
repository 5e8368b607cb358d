"""Zero-shot proxies: one file, one function, one word each."""

from __future__ import annotations

from archscout.aggregate import INPUTS
from archscout.probe import Proxy
from archscout.proxies import (
    dss,
    expressivity,
    flops,
    grad_norm,
    jacob_cov,
    layers,
    linear_regions,
    macs,
    meco,
    naswot,
    near,
    params,
    participation,
    progressivity,
    snip,
    swap,
    synflow,
    trainability,
    variance_growth,
    vkdnw,
    zen,
    zico,
)

PROXIES: dict[str, Proxy] = {
    "params": params.PROXY,
    "macs": macs.PROXY,
    "flops": flops.PROXY,
    "grad_norm": grad_norm.PROXY,
    "snip": snip.PROXY,
    "synflow": synflow.PROXY,
    "naswot": naswot.PROXY,
    "jacob_cov": jacob_cov.PROXY,
    "zen": zen.PROXY,
    "zico": zico.PROXY,
    "expressivity": expressivity.PROXY,
    "progressivity": progressivity.PROXY,
    "trainability": trainability.PROXY,
    "variance_growth": variance_growth.PROXY,
    "dss": dss.PROXY,
    "vkdnw": vkdnw.PROXY,
    "layers": layers.PROXY,
    "swap": swap.PROXY,
    "meco": meco.PROXY,
    "near": near.PROXY,
    "linear_regions": linear_regions.PROXY,
    "participation": participation.PROXY,
}

DEFAULT = INPUTS
