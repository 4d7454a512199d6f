"""Every task is one named command: ``nox -s NAME``."""

import nox

nox.options.sessions = ["tests", "lint", "types", "docs"]
nox.options.default_venv_backend = "venv"

PROJECT = nox.project.load_toml("pyproject.toml")


def _group(name: str) -> list[str]:
    return nox.project.dependency_groups(PROJECT, name)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; arguments go to pytest."""
    session.install(".[cli]", *_group("test"))
    session.run("pytest", *session.posargs)


@nox.session
def nightly(session: nox.Session) -> None:
    """Run the property tests with 10,000 examples each."""
    session.install(".[cli]", *_group("test"))
    session.run("pytest", *session.posargs, env={"HYPOTHESIS_PROFILE": "nightly"})


@nox.session
def lint(session: nox.Session) -> None:
    """Lint Python and Cython; cython -Wextra must be silent."""
    session.install(*_group("lint"))
    session.run("ruff", "check")
    session.run("cython-lint", "src")
    session.run("python", "tools/cython_warnings.py")


@nox.session
def types(session: nox.Session) -> None:
    """Check types of the package, and its stubs against the compiled modules."""
    session.install(".[cli]", *_group("test"), *_group("lint"))
    session.run("mypy")
    session.run("stubtest", "vpmu_core", "--allowlist", "tools/stubtest_allowlist.txt")


@nox.session
def docs(session: nox.Session) -> None:
    """Run the examples of the documentation."""
    session.install(".[cli]", *_group("test"))
    session.run("pytest", "--doctest-modules", "--doctest-glob=*.md", "--pyargs", "vpmu", "README.md", "docs")


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks; each group has its reference, compare ratios within one run."""
    session.install(".[cli]", *_group("test"))
    session.run("pytest", "benchmarks", "--benchmark-enable", "--benchmark-group-by=group", *session.posargs)
