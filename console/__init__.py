"""The console: live plots of a deployment, an operator's controls, and a phone to scroll a feed on.

Knows the roles by their HTTP reports alone, and the replicas by their API.
"""
