"""Command line flags from dataclasses: a parameter that is a dataclass of options becomes one flag per field."""

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

import typer

__all__ = ["flags_from_dataclasses"]


def flags_from_dataclasses(function: Callable[..., None]) -> Callable[..., None]:
    """`function` with each dataclass parameter replaced by its fields, as typer wants to see it.

    Called with the values of the flags, it builds the dataclasses again; so each is declared once, in its dataclass.
    """
    hints = get_type_hints(function, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if is_dataclass(kind) and isinstance(kind, type)}

    @functools.wraps(function)
    def command(**values: Any) -> None:
        for name, kind in groups.items():
            values[name] = kind(**{field.name: values.pop(field.name) for field in fields(kind)})
        function(**values)

    parameters = []
    for name, parameter in inspect.signature(function).parameters.items():
        parameters += list(_flags(groups[name])) if name in groups else [parameter.replace(annotation=hints[name])]
    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    command.__signature__ = inspect.Signature(keywords)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in keywords}
    return command


def _flags(kind: type[Any]) -> Iterator[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        plain, flag = get_args(hints[field.name])
        option = typer.Option(*flag.names, help=flag.help, rich_help_panel=flag.panel, **flag.details)
        annotation = Annotated[plain, option]  # type: ignore[valid-type]
        keyword = inspect.Parameter.KEYWORD_ONLY
        yield inspect.Parameter(field.name, keyword, default=field.default, annotation=annotation)
