"""The issuer's rules, pure functions on values: what clients get, what apps may ask people for, how people log in."""
