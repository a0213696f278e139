"""Pages: one HTML file each that needs no other file, no script and no network; light and dark (page.css)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def render(template: Path, filters: Mapping[str, Callable[..., Any]], values: Mapping[str, Any]) -> str:
    """HTML of a Jinja template, which may include page.css and its neighbours. UndefinedError: a name has no value."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader([template.parent, Path(__file__).parent])
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters.update(filters)
    return environment.get_template(template.name).render(values)
