from hypothesis import settings

# The same examples on each run and each machine; a slow machine is no failure.
settings.register_profile("deterministic", derandomize=True, database=None, deadline=None)
settings.load_profile("deterministic")

# Many, and others each time: --hypothesis-profile=fuzz --timeout=0
settings.register_profile("fuzz", max_examples=20_000, deadline=None)
