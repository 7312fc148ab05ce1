import click
from click.testing import CliRunner

from ferkit.cli.options import engine_options, settled_options
from ferkit.inference.engine import EngineOptions


def test_what_the_command_line_does_by_default_is_what_the_library_does() -> None:
    settled = []

    @click.command()
    @engine_options
    def command(**values: object) -> None:
        settled.append(settled_options(values, detect_every=1))
        assert not values

    assert CliRunner().invoke(command, []).exit_code == 0
    assert settled == [EngineOptions()]
