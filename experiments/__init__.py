"""Experiments on real logs that reproduce published claims. Know all parts of the system; none knows them."""
