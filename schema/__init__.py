"""What every role agrees on: wire records and their codec, feature slots and ids, typed configs.

Knows no process: nothing here opens a file except the config loader, and nothing opens a socket.
"""
