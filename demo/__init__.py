"""The demo: drives the whole loop, shows it live and reports on it. Knows the roles by their reports."""
