"""What codes mean: code systems, value sets and their hierarchies.

Two sources answer together. HL7's own code systems and value sets, and the project's, are shipped as tables and need
no database (`shared.terminology.shipped`). Licensed content (SNOMED CT, LOINC, RxNorm, VSAC) is never shipped: a clinic
loads it from its own files by ``kap terminology load`` into each service's database (`shared.store.terminology`).

Guards, reactions and operations reach both as ``record.terminology``, a `shared.terminology.port.Terminology`. They ask
before they judge, and hand the answer to their pure rules. What is not loaded is not known: the answer then is that a
code has no ancestor but itself, and that a value set is None, never a guess.
"""
