"""What this project's tests use, and what tests of programs built on it can use.

``clock`` is an asyncio event loop in virtual time, ``link`` a bad network without IO, in virtual or
real time; ``pytest_plugin`` holds the pytest fixtures, and nothing else here needs pytest.
``simulation`` plays whole sessions on such a network; what it needs for that stands beside it.
"""
