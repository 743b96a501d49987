"""`./kap timeline`: one patient's record as text, in the order in which it happened."""
