"""Intake's rules, pure functions on values: who may be treated, how a course moves, what an order must say."""
