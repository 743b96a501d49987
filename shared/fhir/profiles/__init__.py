"""Profiles: what a resource must hold beyond R4 where it claims to, in `meta.profile`, or where `$validate` asks.

`table` knows the profiles: HL7's (compiled into tables by `tools/generate_profiles.py`) and the project's own
(`own`, from `project.yaml`). `engine` checks a resource against one. A profile that is not known here binds nobody.

Source: https://hl7.org/fhir/R4/profiling.html, https://hl7.org/fhir/us/core/STU7/
"""
