"""A command line in this process."""

from morse_engine.cli import app


def run(*words) -> int:
    """Run a command; its status."""
    return app.main([str(word) for word in words])
