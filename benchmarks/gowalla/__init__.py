"""Parts of the benchmark `retrieval`: check-ins and their metrics, the base model, the structure on top."""
