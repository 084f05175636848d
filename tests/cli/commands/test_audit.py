"""What `fedsim audit` asks for on its command line."""

import pytest
from typer.testing import CliRunner

from fedsim.cli.main import app
from fedsim.core.errors import FedsimError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tests.audit.clients:make", "--batch-sizes", "1,x"), "--batch-sizes is '1,x', expected numbers from 1"),
        (
            ("tests.audit.clients:make", "--knows", "label"),
            "--knows: there is no knowledge 'label'. Did you mean 'labels'?",
        ),
        (("tests.audit.clients:make", "--weights", "w.npz"), "--weights goes with --gradients"),
    ],
)
def test_a_wrong_option_is_a_mistake_of_the_user(arguments: tuple[str, ...], message: str) -> None:
    done = CliRunner().invoke(app, ["audit", *arguments])
    assert isinstance(done.exception, FedsimError)
    assert message in str(done.exception)
    assert done.exception.exit_code == 2
