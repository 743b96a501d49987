"""The version of this release: of the distribution, of the CapabilityStatement, of `./kap --version`."""

from __future__ import annotations

VERSION = "0.1.0"
