"""Every task is one named command: ``nox -s NAME``."""

import nox

nox.options.sessions = ["tests", "lint", "types", "docs"]
nox.options.default_venv_backend = "venv"


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests; arguments go to pytest."""
    session.install(".[test]")
    session.run("python", "-m", "pytest", "-n", "auto", *session.posargs)


@nox.session
def nightly(session: nox.Session) -> None:
    """Run the property tests with 10,000 examples each."""
    session.install(".[test]")
    session.run("python", "-m", "pytest", "-n", "auto", *session.posargs, env={"HYPOTHESIS_PROFILE": "nightly"})


@nox.session
def long(session: nox.Session) -> None:
    """Compare lazy and stepwise on 100,000 examples of each generator; a difference becomes a plan file."""
    session.install(".[test]")
    session.run(
        "python",
        "-m",
        "pytest",
        "-n",
        "auto",
        "tests/test_lazy.py",
        *session.posargs,
        env={"HYPOTHESIS_PROFILE": "long"},
    )


@nox.session
def mutants(session: nox.Session) -> None:
    """Take the lazy engine's guards out one at a time; the tests must notice."""
    build = ("scikit-build-core>=0.11", "Cython>=3.2,<3.4", "cython-cmake>=0.3", "cmake", "ninja")
    session.install(*build, ".[test]")
    session.run("python", "tools/mutants.py", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Lint Python and Cython; cython -Wextra must be silent."""
    session.install(".[lint]")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("cython-lint", "src")
    session.run("python", "tools/cython_warnings.py")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of the package, and the stubs against the compiled modules."""
    session.install(".[test,lint]")
    session.run("mypy")
    session.run("stubtest", "--ignore-disjoint-bases", "--allowlist", "tools/stubtest_allowlist.txt", "vpmu_core")


@nox.session
def docs(session: nox.Session) -> None:
    """Run the examples of README, of the documentation and of the docstrings."""
    session.install(".[test]")
    session.run(
        "python", "-m", "pytest", "--doctest-modules", "--doctest-glob=*.md", "README.md", "docs", "python/vpmu"
    )
    session.run("python", "examples/embed_pmu.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Run the benchmarks and write benchmarks.json; compare ratios within one run."""
    session.install(".[test]")
    session.run(
        *("python", "-m", "pytest", "benchmarks", "--benchmark-enable", "--benchmark-group-by=group"),
        *("--benchmark-json=benchmarks.json", *session.posargs),
    )


@nox.session
def instructions(session: nox.Session) -> None:
    """Count instructions of the hottest loops with callgrind; 5 % more than recorded is an error."""
    session.install(".[test]")
    session.run("python", "benchmarks/instructions.py", *session.posargs)
