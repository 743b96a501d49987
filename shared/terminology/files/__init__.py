"""Readers of the files that terminologies are published in; each gives a `shared.terminology.release` value.

Nothing of such files is shipped: a clinic obtains SNOMED CT, LOINC, RxNorm and VSAC under its own licences.
"""
