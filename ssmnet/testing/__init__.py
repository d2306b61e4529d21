"""What this project's tests use, and what tests of programs built on it can use.

``link`` is a bad network without IO, in virtual or real time; ``pytest_plugin`` holds the pytest
fixtures, and nothing else here needs pytest.
"""
