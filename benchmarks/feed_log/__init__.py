"""What the kuairand benchmark is made of: the log with its counters, the online ranker, its peer."""
