"""The Session Manager data-channel protocol, without IO.

No module here opens a socket, reads a clock or draws a random number: time comes in as ``now``,
randomness and the wall clock as callables, bytes as arguments, and bytes, events and deadlines go
out as return values.
"""
