"""What this project's tests use, and what tests of programs built on it can use.

``ssmnet.testing.pytest_plugin`` holds the pytest fixtures; nothing else here needs pytest.
"""
