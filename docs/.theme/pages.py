"""Pages of the site that are made from what is there already: README, change log, Python API and every command."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import ferkit
from ferkit.cli.command import VARIABLES
from ferkit.cli.main import main
from ferkit.cli.reference import Page, Row, pages

ROOT = Path(__file__).resolve().parents[2]
SOURCE = "https://github.com/ferkit/ferkit/blob/main/"
"""Where links go to files that are no pages; setup.cfg names the same repository."""

TOP = {
    "index.md": "README.md",
    "index.ko.md": "README.ko.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "security-policy.md": "SECURITY.md",
}
"""Page to the file at the top of the repository that it is."""

RESULTS = {
    "What predict returns": "ferkit.classifiers.predict",
    "What evaluate and compare return": "ferkit.api",
    "In scikit-learn's pipelines": "ferkit.sklearn",
}
"""Heading to the module of the classes that public functions return."""

RESULT_CLASSES = {
    "ferkit.classifiers.predict": ("Predictions", "ImageResult", "FaceResult"),
    "ferkit.api": ("Report",),
    "ferkit.sklearn": ("FaceEmbedder",),
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put a page of each command into the navigation."""
    for section in config.nav or []:
        for entry in section.get("Reference", []) if isinstance(section, dict) else []:
            if "Commands" in entry:
                made = [{page.name: address(page)} for page in pages(main) if page.name != "fer"]
                entry["Commands"] = ["reference/commands.md", *made]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    made = {page: from_top(ROOT / source) for page, source in TOP.items()}
    made["reference/python.md"] = python_page()
    made["reference/commands.md"] = commands_page()
    made |= {address(page): command_page(page) for page in pages(main) if page.name != "fer"}
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_context(context: Any, page: Any, config: MkDocsConfig, nav: Any) -> Any:
    """Show a Korean page in Korean, and offer each page in its other language where it has one."""
    source = page.file.src_uri
    korean = source.endswith(".ko.md")
    other = source.removesuffix(".ko.md") + ".md" if korean else source.removesuffix(".md") + ".ko.md"
    by_source = {one.file.src_uri: one for one in nav.pages}
    languages = [
        ("English", "en", other if korean else source),
        ("한국어", "ko", source if korean else other),
    ]
    config.theme["language"] = "ko" if korean else "en"
    config.extra["alternate"] = [
        {"name": name, "lang": lang, "link": by_source[path].url}
        for name, lang, path in languages
        if other in by_source and path in by_source
    ]
    return context


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Let links that lead out of docs/ go to the page made of that file, or to the repository."""

    def link(match: re.Match[str]) -> str:
        made = next((made for made, source in TOP.items() if source == match[1]), None)
        return f"]({made or SOURCE + match[1]})"

    return re.sub(r"\]\(\.\./([^)\s]+)\)", link, markdown)


def on_page_content(html: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Show the roles of docstrings as the code that they name."""
    return re.sub(r":(?:func|class|mod|meth|data):<code>~?\.?", "<code>", html)


def from_top(path: Path) -> str:
    """A file at the top of the repository, with links as they are from docs/."""

    def link(match: re.Match[str]) -> str:
        start, target, end = match.groups()
        page = next((page for page, source in TOP.items() if source == target), None)
        if page or target.startswith(("http", "#", "mailto:")):
            return f"{start}{page or target}{end}"
        if target.startswith("docs/"):
            return f"{start}{target.removeprefix('docs/')}{end}"
        return f"{start}{SOURCE}{target}{end}"

    return re.sub(r"(\]\(|src=\")([^)\"\s]+)([)\"])", link, path.read_text(encoding="utf-8"))


def python_page() -> str:
    """Everything in ``ferkit.__all__``, and what its functions return."""
    parts = [
        "# Python\n\nAll that `import ferkit` offers; made from the docstrings.\n",
        '`pip install ferkit`, then `import ferkit`. Remarks go to `logging.getLogger("ferkit")`, errors that you '
        "can mend are `ferkit.FerkitError`.\n",
    ]
    names = [name for name in ferkit.__all__ if name != "__version__"]
    functions = [name for name in names if not isinstance(getattr(ferkit, name), type)]
    for heading, group in (("Functions", functions), ("Classes", [n for n in names if n not in functions])):
        parts.append(f"## {heading}\n")
        for name in group:
            thing: Any = getattr(ferkit, name)
            parts.append(
                f"::: {thing.__module__}.{thing.__qualname__}\n    options:\n      heading: ferkit.{name}\n"
                f"      toc_label: {name}\n"
            )
    for heading, module in RESULTS.items():
        parts.append(f"## {heading}\n")
        parts += [f"::: {module}.{name}\n" for name in RESULT_CLASSES[module]]
    return "\n".join(parts)


def address(page: Page) -> str:
    """Where the page of a command lies."""
    return f"reference/{page.name.replace(' ', '-')}.md"


def commands_page() -> str:
    """All commands in a table, and the environment variables of none of them."""
    rows = [
        f"| [`{page.name}`]({address(page).removeprefix('reference/')}) | {page.summary} |"
        for page in pages(main)
        if page.name != "fer"
    ]
    common = [f"| `{name}` | {text} |" for name, text in VARIABLES.items()]
    return "\n".join(
        [
            "# Commands\n\nEvery command of `fer` with its options and settings; made from the commands themselves.\n",
            "An option or setting can be given on the command line, in the environment or a file `.env` under the name "
            "that its table gives, or in a TOML file (`--config`), in this order of precedence. "
            "Exit codes: 0 done, 1 something you can mend, 2 wrong usage. "
            "`fer completion bash` prints what makes the Tab key complete names.\n",
            "| command | what it does |\n|---|---|",
            *rows,
            "\n## Environment variables of no command\n\n| variable | meaning |\n|---|---|",
            *common,
        ]
    )


def command_page(page: Page) -> str:
    """One command."""
    parts = [f"# {page.name}\n", "\n\n".join(map(escape, page.text)), f"\n```\n{page.usage}\n```\n"]
    if page.examples:
        parts.append("```sh\n" + "\n".join(page.examples) + "\n```\n")
    for heading, rows in page.groups.items():
        parts.append(f"## {heading}\n\n| | default | meaning, and name in the environment |\n|---|---|---|")
        parts += map(table_row, rows)
        parts.append("")
    return "\n".join(parts)


def table_row(row: Row) -> str:
    """An option or setting as a line of a table."""
    default = f"`{row.default}`" if row.default else ""
    variable = f"<br><small>{row.variable}</small>" if row.variable else ""
    name = row.name.replace("|", "&#124;").replace("<", "&lt;")
    return f"| <code>{name}</code> | {default} | {escape(row.text)}{variable} |"


def escape(text: str) -> str:
    """Plain text as Markdown."""
    return re.sub(r"([*_`\[\]|])", r"\\\1", text).replace("<", "&lt;")
