"""Scheduling's rules: pure functions of what is held, under `policies/scheduling.yaml`.

* `policy`: the form of the policy's section.
* `booking`: what a booking takes of whom, and when a change is one.
* `ground`: what a visit stands on, each prerequisite met or not.
* `availability`: when somebody works, in his own time zone; time as bits of a grid.
* `finding`: who and what is free together, best first.
* `series`: the visits of a whole course, laid one after the other.
"""
