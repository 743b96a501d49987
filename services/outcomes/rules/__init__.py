"""Outcomes' rules, by subject: facts in, verdict out. Instruments, schedules and limits are policy."""
