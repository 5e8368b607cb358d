"""Zero-shot proxies: one file, one function, one word each."""

from __future__ import annotations

from archscout.probe import Proxy
from archscout.proxies import flops, grad_norm, jacob_cov, macs, naswot, params, snip, synflow, zen, zico

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
}

DEFAULT = ("macs", "naswot", "jacob_cov", "zen", "synflow")
