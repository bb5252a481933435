"""What `retrieval_cost` measures on: a synthetic catalogue on a structure, and a peer that searches it."""
