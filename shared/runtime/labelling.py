"""The labels of the clinic's policy, read once."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from shared.fhir.cited import ValueSet
from shared.runtime.policy import PolicyError, load_policy
from shared.security.labels import LabelPolicy, Labels


@cache
def labels_of_policy(override: Path | None) -> Labels:
    """Return what resources are labelled with, by the shipped policy and a clinic's file over it.

    Raises:
        PolicyError: the section cannot be used.

    """
    policy = load_policy(override)
    try:
        return Labels(policy.section("labels", LabelPolicy), policy.section("value-sets", dict[str, ValueSet]))
    except ValueError as error:
        raise PolicyError(f"The policy's section 'labels' cannot be used: {error}") from None
