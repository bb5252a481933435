"""Parts of the benchmark `recovery`: a stream like a real one, its log, what is trained, and the clocks."""
