"""Supernets: one network that holds every architecture of a space, weighted by a continuous choice."""

from __future__ import annotations
