# What developers run. `python3 run.py` sets up all that is missing; see CONTRIBUTING.md.

run := "python3 run.py"

# List the recipes.
default:
    @just --list

# Run the tests, or some: just test tests/protocol -k smux
test *arguments:
    {{run}} pytest {{arguments}}

# Put the code into shape.
format:
    {{run}} ruff format
    {{run}} ruff check --fix

# Check style and types, as CI does.
check:
    {{run}} ruff check
    {{run}} ruff format --check
    {{run}} mypy --strict --platform linux
    {{run}} mypy --strict --platform win32
    {{run}} mypy --strict --platform darwin

# Check that every branch of protocol/ is covered, all together and module by module.
coverage *modules:
    {{run}} coverage run --branch -m pytest -q tests/protocol
    {{run}} coverage report --include='ssmnet/protocol/*' --fail-under=100
    {{run}} python tests/protocol/coverage_by_module.py {{modules}}

# Build the site of documents into .tools/site; or show it, and follow changes: just site serve
site *arguments="build":
    {{run}} --group docs mkdocs {{arguments}}

# Build the sdist and the wheel into dist/.
build:
    {{run}} uv build

# Check every commit from now on.
hooks:
    {{run}} pre-commit install

# Everything that must pass before a change goes in.
ci:
    .ci/run
