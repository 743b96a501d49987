"""Sessions' rules, pure functions on values: visits, the gate before a dose, doses, readings, alarms, leaving."""
