import pytest

from commands import run


@pytest.fixture
def fails(capsys):
    """Runs a command that has to fail as a user error; its message."""

    def check(*words) -> str:
        assert run(*words) == 2
        out, err = capsys.readouterr()
        assert err.startswith("morse-engine: error: ")
        assert "Traceback" not in err + out
        return err.removeprefix("morse-engine: error: ").strip()

    return check
