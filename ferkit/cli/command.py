"""A command of ``fer``: options in groups, settings, and what every command has (config, log, quiet, help)."""

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, get_origin

import click

from ferkit.cli.settings import Chosen, Fields, Setting, kind_words, suggestion
from ferkit.core.console import width
from ferkit.core.errors import DataError, printable, require_extra
from ferkit.core.spellings import new_name
from ferkit.core.texts import LANGUAGES, current_language, speaking, translated

logger = logging.getLogger(__name__)

SET_KEY = "--set"

VARIABLES = {
    "FER_DEVICE": "what runs networks, as --device: auto, cpu, cuda, cuda:1, tensorrt, coreml, directml, openvino",
    "FER_PRECISION": "of networks, as --precision: float32, bfloat16, float16, int8 or auto",
    "FER_OFFLINE": "1 fetches nothing from the network",
    "FER_WEIGHTS_DIR": "folder of fetched weights",
}
"""Environment variables that belong to no command."""


class _Help(click.HelpFormatter):
    """Writes a help text in the language that is spoken."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        super().write_usage(prog, args, prefix or f"{translated('Usage:')} ")

    def write_heading(self, heading: str) -> None:
        super().write_heading(translated(heading))

    def write_text(self, text: str) -> None:
        super().write_text(_by_paragraph(text))

    def write_dl(self, rows: Iterable[tuple[str, str]], *args: Any, **kwargs: Any) -> None:
        super().write_dl([(term, _by_paragraph(text)) for term, text in rows], *args, **kwargs)

    def getvalue(self) -> str:
        return super().getvalue().replace("\0", "")


def _by_paragraph(text: str) -> str:
    """The translation of a help text; a zero character behind wide letters, so that lines break where they should."""
    texts = [
        "\n".join(map(translated, part.split("\n")))
        if part.startswith("\b")
        else translated(part.replace("\n", " "))
        for part in text.split("\n\n")
    ]
    return "".join(c + "\0" * (width(c) - 1) for c in "\n\n".join(texts))


class Context(click.Context):
    """What a command or group runs in."""

    formatter_class = _Help


class Group(click.Group):
    """A group of commands, which are listed with their whole summaries."""

    context_class = Context

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names of the commands and what they do."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, one.get_short_help_str(1000)) for name, one in sorted(self.commands.items())]
            )


class Option(click.Option):
    """An option that stands in a group of the help text.

    Args:
        group: heading in the help text.
        rare: only ``--help-all`` shows it.
        extra: of :data:`ferkit.core.errors.EXTRAS`, which has to be installed where the option is given.
    """

    def __init__(
        self, *args: Any, group: str = "Options", rare: bool = False, extra: str | None = None, **kwargs: Any
    ) -> None:
        shown = kwargs.get("default") is not None
        super().__init__(*args, **{"show_default": shown, **kwargs})
        self.group, self.rare, self.extra = group, rare, extra

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """The value; refused before the command begins where it needs what is not installed."""
        value = super().process_value(ctx, value)
        if any(one != one for one in (value if isinstance(value, tuple) else (value,))):
            raise click.BadParameter("expected a number, found nan", ctx, self)
        if value and self.extra is not None:
            require_extra(self.extra, f"fer {ctx.info_name} {self.opts[0]}")
        return value


@dataclass(frozen=True)
class _Target:
    """What a name means to a command: one of its options, or the key of a setting.

    Attributes:
        option: the option; None for a setting.
        key: of the setting.
        flag: it takes no value on the command line; ``negated``: and means the opposite.
        template: what the value is put into.
    """

    option: click.Option | None
    key: str = ""
    flag: bool = False
    negated: bool = False
    template: str = "{}"

    def value(self, value: Any) -> Any:
        """The value as the option or setting takes it."""
        if self.negated:
            return not click.BOOL.convert(value, None, None)
        return self.template.format(value) if self.template != "{}" else value

    def spelled(self, value: Any) -> list[str]:
        """The words of the command line that say it."""
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if self.option is None:
            return [SET_KEY, f"{self.key}={text}"]
        if self.option.is_flag:
            words = self.option.opts if value else self.option.secondary_opts
            return words[-1:]
        return [self.option.opts[-1], text]


class Command(click.Command):
    """A command with options in groups, and settings.

    Args:
        settings: dataclasses whose fields are settings, and single ones.
        rest: other keys are settings too, and are passed on as they are.
    """

    context_class = Context

    def __init__(
        self, *args: Any, settings: tuple[Fields | Setting, ...] = (), rest: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.fields, self.rest = settings, rest

    @cached_property
    def settings(self) -> dict[str, Setting]:
        """The settings by key."""
        return {setting.key: setting for setting in self._settings(listed=False)}

    @cached_property
    def listed(self) -> dict[str, Setting]:
        """The keys that are passed on as they are, as far as they are known."""
        return {setting.key: setting for setting in self._settings(listed=True)}

    def _settings(self, *, listed: bool) -> Iterator[Setting]:
        for one in self.fields:
            if isinstance(one, Setting) and not listed:
                yield one
            elif isinstance(one, Fields) and one.listed == listed:
                yield from one.settings()

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Its own options, and those of every command, which are declared once."""
        own = {param.name for param in self.params}
        common = [
            o
            for o in COMMON
            if o.name not in own
            and (o.name != "set" or self.fields)
            and (o.name != "precision" or not self.rest)
        ]
        return [*self.params, *common, *filter(None, [self.get_help_option(ctx)])]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line, the environment and the configuration."""
        values = ctx.meta["ferkit.settings"] = {}
        notices: list[str] = []
        args = list(self._renamed(ctx, args, notices))
        from_environment = self._read_environment(ctx, notices) if ctx.auto_envvar_prefix else {}
        rest = super().parse_args(ctx, args)
        for notice in dict.fromkeys(notices + ctx.meta.get("ferkit.notices", [])):
            logger.warning(notice)
        if self.fields and not ctx.resilient_parsing:
            given = dict(_pair(text) for text in ctx.params.pop("set"))
            values |= from_environment | given
            ctx.params["settings"] = Chosen(self.fields, self.settings, self._keys(ctx, values), self.rest)
        return rest

    def find(self, ctx: click.Context, name: str) -> _Target | None:
        """What a name (with underscores) means: an option, a setting, or what 0.1 called so."""
        found = self._find_new(ctx, name)
        if found is not None:
            return found
        new = new_name(_path(ctx), name)
        if new is None:
            return self._find_new(ctx, name.removeprefix("no_"), off=True) if name.startswith("no_") else None
        name, sign, template = new.partition("=")
        found = self._find_new(ctx, name.rstrip("?!"))
        if found is None:
            return None
        flag = found.flag or name[-1] in "?!" or (bool(sign) and "{}" not in template)
        return _Target(found.option, found.key, flag, name.endswith("!"), template or "{}")

    def _find_new(self, ctx: click.Context, name: str, *, off: bool = False) -> _Target | None:
        for param in self.get_params(ctx):
            if isinstance(param, click.Option) and param.name == name:
                return _Target(param, flag=bool(param.is_flag), negated=off)
        # The environment has no dots in its names.
        name = next((key for key in (*self.settings, *self.listed) if key.replace(".", "_") == name), name)
        if name in self.settings:
            return _Target(None, name, self.settings[name].kind is bool, off)
        if self.rest and ("." in name or name in self.listed):
            kind = self.listed[name].kind if name in self.listed else None
            return _Target(None, name, kind is bool, off)
        return None

    def _renamed(self, ctx: click.Context, args: list[str], notices: list[str]) -> Iterator[str]:
        """The command line with the spellings of 0.1, and settings that were options, in the words of today."""
        known = {text for param in self.get_params(ctx) for text in (*param.opts, *param.secondary_opts)}
        joined: dict[str, str] = {}
        words = iter(args)
        for word in words:
            name, sign, value = word.partition("=")
            target = None
            if word == "--":
                yield word
                yield from words
                return
            if name.startswith("-") and name not in known:
                target = self.find(ctx, name[2:].replace("-", "_") if name.startswith("--") else name)
            if target is None:
                yield word
                continue
            given: Any = True if target.flag else value if sign else next(words, None)
            if given is None:
                raise click.BadOptionUsage(name, f"Option {name!r} requires an argument.", ctx)
            spelled = target.spelled(target.value(given))
            notices.append(f"{name} is now {' '.join(spelled)}")
            if target.template == "{}":
                yield from spelled
            else:
                joined[spelled[0]] = ",".join(filter(None, [joined.get(spelled[0]), spelled[1]]))
        for option, value in joined.items():
            yield from (option, value)

    def _read_environment(self, ctx: click.Context, notices: list[str]) -> dict[str, Any]:
        """Settings from the environment; options of 0.1's names are given today's for this run."""
        prefix, found = f"{ctx.auto_envvar_prefix}_", {}
        for variable in [name for name in os.environ if name.startswith(prefix) and os.environ[name].strip()]:
            name, value = variable.removeprefix(prefix).lower(), os.environ[variable]
            target = self.find(ctx, name) or self.find(ctx, variable.removeprefix(prefix))
            if target is None or (target.option is not None and target.option.name == name):
                continue
            now = prefix + ((target.option.name or "") if target.option else "SET").upper()
            if target.option is not None:
                if now not in os.environ:
                    os.environ[now] = str(target.value(value))
                    ctx.call_on_close(lambda now=now: os.environ.pop(now, None))
            else:
                found[target.key] = target.value(value)
            if target.key.lower() != name:
                example = now if target.option else f"{now}={target.key}={value}"
                notices.append(f"{variable} is now {example}")
        return found

    def _keys(self, ctx: click.Context, values: Mapping[str, Any]) -> dict[str, Any]:
        """Settings under today's keys."""
        found = {}
        for key, value in values.items():
            target = self.find(ctx, key.replace("-", "_")) if key not in self.settings else None
            if target is not None and target.option is not None:
                raise click.BadParameter(f"{key} is an option of its own: {target.option.opts[-1]}")
            found[target.key if target else key] = target.value(value) if target else value
        return found

    def known_variables(self, ctx: click.Context) -> list[str]:
        """The names of the environment variables that it reads."""
        options = [p.name for p in self.get_params(ctx) if isinstance(p, click.Option) and p.name]
        return [
            f"{ctx.auto_envvar_prefix}_{name.upper().replace('.', '_')}"
            for name in [*options, *self.settings, *self.listed]
        ]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in their groups; with ``--help-all`` also rare ones and settings."""
        everything = bool(ctx.meta.get("ferkit.help_all"))
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is None or not isinstance(param, click.Option):
                continue
            if everything or not getattr(param, "rare", False):
                groups.setdefault(getattr(param, "group", "Help"), []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)
        if everything:
            for heading, settings in (("Settings", self.settings), ("Settings of the recipe", self.listed)):
                if settings:
                    with formatter.section(f"{heading}, given by {SET_KEY} KEY=VALUE"):
                        formatter.write_dl([setting_record(setting) for setting in settings.values()])
            prefix = ctx.auto_envvar_prefix
            formatter.write_paragraph()
            formatter.write_text(
                f"Every option and setting can stand in a TOML file (--config), and in the environment or a file .env "
                f"under its own name: {prefix}_{(self.params[-1].name or '').upper() if self.params else 'QUIET'}=…"
            )


def commands(
    command: click.Command, parent: click.Context | None = None, name: str = "fer"
) -> Iterator[tuple[str, click.Command, click.Context]]:
    """A command and all below it, with the words that call it."""
    context = click.Context(command, info_name=name.split()[-1], parent=parent, **command.context_settings)
    yield name, command, context
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from commands(found, context, f"{name} {inner}")


def setting_text(setting: Setting) -> str:
    """The default of a setting as a user would write it; empty where there is none."""
    value = setting.default
    if isinstance(value, tuple):
        value = ("x" if setting.key.endswith(("size", "_wh", "pool")) else ",").join(map(str, value))
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def setting_record(setting: Setting) -> tuple[str, str]:
    """``key=default`` of a setting, and what it means."""
    text = setting_text(setting)
    shown = f"={text}" if text else ""
    choices = f"  ({kind_words(setting.kind)})" if get_origin(setting.kind) is Literal else ""
    return f"{setting.key}{shown}", f"{setting.help.strip() or kind_words(setting.kind)}{choices}"


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise click.BadParameter(f"expected KEY=VALUE for {SET_KEY}, found {text!r}")
    return key.strip(), value.strip()


def _path(ctx: click.Context) -> str:
    """``embed``, ``dataset import``: the command without what the program itself is called."""
    return ctx.command_path.removeprefix(f"{ctx.find_root().info_name} ")


def _flat(values: Mapping[str, Any], under: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{under}{key}.")
        else:
            yield under + key.replace("-", "_"), value


def _read_config(ctx: click.Context, param: click.Parameter, path: Path | None) -> None:
    from ferkit.core.files import read_toml

    command = ctx.command
    if path is None or not isinstance(command, Command):
        return
    try:
        values = read_toml(path)
    except DataError as error:
        raise click.BadParameter(str(error)) from None
    top = {key: value for key, value in values.items() if not isinstance(value, dict)}
    own: Any = values
    for name in _path(ctx).split():
        own = own.get(name, {}) if isinstance(own, dict) else {}
    own = own or values.get(ctx.info_name or "", {})  # 0.1 read [split] where it is [dataset.split] now
    defaults: dict[str, Any] = {}
    unknown = []
    for key, value in _flat({**top, **(own if isinstance(own, dict) else {})}):
        target = command.find(ctx, key)
        if target is None:
            unknown.append(key)
            continue
        name = target.option.name if target.option else target.key
        if target.option is not None:
            defaults[name or ""] = target.value(value)
        else:
            ctx.meta["ferkit.settings"][target.key] = target.value(value)
        if name != key:
            ctx.meta.setdefault("ferkit.notices", []).append(f"{path}: {key} is now {name}")
    if unknown:
        hint = suggestion(unknown[0], [*(p.name or "" for p in command.params), *command.settings])
        raise click.BadParameter(f"{path}: fer {_path(ctx)} has no option {', '.join(sorted(unknown))}{hint}")
    ctx.default_map = {**(ctx.default_map or {}), **defaults}


def set_language(ctx: click.Context, param: click.Parameter | None = None, value: str | None = None) -> str:
    """Speak the language that an option names, or that is spoken already."""
    language = value or current_language()
    ctx.find_root().with_resource(speaking(language))
    return language


def echo(text: str = "", *, err: bool = False) -> None:
    """Print what is meant for people, in their language; what programs read goes through ``click.echo``."""
    click.echo(printable(translated(text)), err=err)


def _set_quiet(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    from ferkit.core.console import hidden_progress

    root = ctx.find_root()  # a context whose words are wrong is never closed
    ctx.meta["ferkit.quiet"] = value
    log = logging.getLogger("ferkit")
    for handler in [one for one in log.handlers if isinstance(one, _StandardError)]:
        log.removeHandler(handler)  # of a command of this process that ended in wrong usage
    if value:
        root.with_resource(hidden_progress())
        return
    handler, level = _StandardError(), log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    root.call_on_close(partial(log.setLevel, level))
    root.call_on_close(partial(log.removeHandler, handler))


class _StandardError(logging.Handler):
    """Prints remarks to standard error, so that results can be piped; errors are click's to print."""

    def emit(self, record: logging.LogRecord) -> None:
        log_only = getattr(record, "log_only", False)
        if record.levelno < logging.ERROR and record.exc_info is None and not log_only:
            echo(record.getMessage(), err=True)


class _WithoutSecrets(logging.Formatter):
    """Lines of a log file; passwords in addresses are left out, also of the command itself."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _start_log(ctx: click.Context, param: click.Parameter, folder: Path | None) -> None:
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(folder / f"fer-{date.today():%Y-%m-%d}.log", encoding="utf-8")
    except OSError as error:
        raise click.BadParameter(f"{folder} cannot be written: {error.strerror}") from None
    handler.setFormatter(_WithoutSecrets("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    log = logging.getLogger("ferkit")
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    log.info("fer %s", " ".join(sys.argv[1:]))
    # With the whole command, so that the error that ends it is written too; what is added last is called first.
    ctx.find_root().call_on_close(handler.close)
    ctx.find_root().call_on_close(partial(log.removeHandler, handler))


def _help_all(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        ctx.meta["ferkit.help_all"] = True
        click.echo(ctx.get_help())
        ctx.exit()


def _ask_for_engine(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value is not None:
        from ferkit.embedder.engines import requested_engine

        ctx.with_resource(requested_engine(**{str(param.name): value}))


COMMON: tuple[Option, ...] = (
    Option([SET_KEY], multiple=True, metavar="KEY=VALUE", group="Help", help="Any other setting; several times."),
    Option(
        ["--config"], type=click.Path(path_type=Path, dir_okay=False), is_eager=True, expose_value=False,
        callback=_read_config, rare=True, group="Every command",
        help="TOML file with options and settings: at its top, or in a table named like the command.",
    ),
    Option(
        ["--log-dir"], type=click.Path(path_type=Path, file_okay=False), is_eager=True, expose_value=False,
        callback=_start_log, rare=True, group="Every command",
        help="Also write messages to one file a day in this folder.",
    ),
    Option(
        ["-q", "--quiet"], is_flag=True, is_eager=True, expose_value=False, callback=_set_quiet, rare=True,
        group="Every command", help="No progress and no remarks, only results and errors.",
    ),
    Option(
        ["--lang"], type=click.Choice(LANGUAGES), is_eager=True, expose_value=False, callback=set_language, rare=True,
        group="Every command", help="Language of messages, tables and reports; also before the command: fer --lang ko.",
    ),
    Option(
        ["--device"], metavar="NAME", expose_value=False, callback=_ask_for_engine, rare=True, group="Every command",
        help="What runs networks: auto, cpu, cuda, cuda:1, tensorrt, coreml, directml, openvino.",
    ),
    Option(
        ["--precision"], metavar="NAME", expose_value=False, callback=_ask_for_engine, rare=True,
        group="Every command",
        help="Of networks: float32, bfloat16, float16, int8, or auto for the fastest that is close.",
    ),
    Option(
        ["--help-all"], is_flag=True, is_eager=True, expose_value=False, callback=_help_all, group="Help",
        help="Also rare options, settings, and the names in the environment.",
    ),
)  # fmt: skip
"""The options of every command."""
