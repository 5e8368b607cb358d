"""Devices: measured here, or elsewhere and kept by name, or predicted from a few measurements."""

from archscout.devices.few_shot import choose as choose
from archscout.devices.few_shot import few_shot as few_shot
