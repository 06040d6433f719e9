import pytest

from commands import run


@pytest.fixture
def fails(capsys):
    """Runs a command that has to fail as a user error; its message."""

    def check(*words) -> str:
        assert run(*words) == 2
        out, err = capsys.readouterr()
        # Loading a pipeline may have shown bars before.
        _, found, message = err.rpartition("morse-engine: error: ")
        assert found, err
        assert "Traceback" not in err + out
        return message.strip()

    return check
