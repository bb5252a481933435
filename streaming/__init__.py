"""The streaming job: feature logs joined with actions by request, in event time, into training samples.

Knows neither torch nor the parameter server. The join, its clock and its acknowledgements are pure; Faust and
Kafka live in `app`, `job` and `outlet`.
"""
