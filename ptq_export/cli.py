"""The command `ptq-export`: the main job without a subcommand, and what one does with its run folders.

Heavy imports happen inside the commands, so that `--help`, `targets` and a mistyped target answer at once.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ptq_export import __version__
from ptq_export.command_options import Fleet, Packaging, Sampling, Serving
from ptq_export.console import Output, Screen
from ptq_export.engines import availability
from ptq_export.engines.registry import check_target, find_runtime
from ptq_export.errors import InputError, PtqExportError, explained
from ptq_export.flags import flags_from_dataclasses
from ptq_export.options import Options
from ptq_export.run_tables import show_run, step_tables
from ptq_export.schemas import read_part
from ptq_export.scratch import find_room
from ptq_export.signals import Interrupted, announce, interrupted_note
from ptq_export.targets import TARGETS, find_target

__all__ = [
    "app",
    "bench",
    "build",
    "compare",
    "inspect",
    "main",
    "package",
    "quantise",
    "sample",
    "sensitivity",
    "serve",
    "targets",
    "verify",
]

INTERRUPTED, NO_READER = 130, 141
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)]
Checkpoint = Annotated[
    str | None,
    typer.Option(
        "--ckpt",
        metavar="FILE|FOLDER|NAME",
        help="The run's checkpoint, in place of the manifest's. A factory runs only if you name it here.",
        show_default="the manifest's",
    ),
]


class _Command(TyperGroup):
    """The command, whose usage errors look like all others, on streams that may fail."""

    def main(self, *arguments: Any, **keywords: Any) -> None:
        """Run the command and end the process."""
        try:
            code = super().main(*arguments, **keywords | {"standalone_mode": False})
            sys.stdout.flush()
        except BrokenPipeError:
            _forget_streams()
            code = NO_READER
        except Exception as error:
            words = keywords.get("args") or sys.argv[1:]
            screen = Screen(Output(json="--json" in words, verbose=2 * ("-vv" in words)))
            code = _told(screen, _usage_error(error))
        sys.exit(code if isinstance(code, int) else 0)


app = typer.Typer(
    cls=_Command,
    invoke_without_command=True,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line of this process."""
    app(prog_name="ptq-export")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"ptq-export {__version__}")
        raise typer.Exit


@app.callback()
@flags_from_dataclasses
def quantise(
    context: typer.Context,
    options: Options,
    output: Output,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Turn a trained diffusion denoiser into an int8 engine, prove it, and time each denoising step against FP32.

    [bold]ptq-export --ckpt embedded:digits --target ort-int8[/]

    Exit codes: 0 done, 1 a proof or a bound did not hold, 2 usage or input, 3 environment, 130 interrupted (143 by
    SIGTERM), 70 a fault of ptq-export.
    """
    with _screen(output, "interrupted; the same command resumes this run") as screen:
        if context.invoked_subcommand is not None:
            _pass_on(context, options, output)
            return
        _check(options)
        from ptq_export import pipeline

        screen.note(_estimate_line(pipeline.estimate(options)))
        with screen.progress() as progress:
            result = pipeline.try_run(options, progress)
        show_run(screen, result.path)
        result.folder()


def _pass_on(context: typer.Context, options: Options, output: Output) -> None:
    """Let a subcommand inherit the output flags that stand before it; the main job's options mean nothing to it."""
    if options != Options():
        cause = f"{context.invoked_subcommand} takes no options of the main job"
        raise InputError(cause, f"see `ptq-export {context.invoked_subcommand} --help`")
    context.default_map = {str(context.invoked_subcommand): asdict(output)}


def _check(options: Options) -> None:
    """Refuse at once what needs no model to be refused."""
    if not options.ckpt:
        raise InputError("--ckpt is missing", "the demonstration model comes with the package: --ckpt embedded:digits")
    check_target(find_target(options.target), options)


@app.command()
@flags_from_dataclasses
def bench(run: RunFolder, output: Output) -> None:
    """Measure the latency per denoising step of a run again, on this machine."""
    with _screen(output) as screen:
        from ptq_export import pipeline

        with screen.progress() as progress:
            latency = pipeline.bench(run, progress)
        screen.result(latency, step_tables(latency))


@app.command()
@flags_from_dataclasses
def build(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE|RUN", help="A run's folder jetson/, or the run folder.")],
    output: Output,
    batch: Annotated[str | None, typer.Option(metavar="N|MIN:OPT:MAX", show_default="the bundle's")] = None,
    dla: Annotated[int | None, typer.Option(metavar="CORE", help="Prefer this DLA core.", show_default="GPU")] = None,
    workspace: Annotated[
        int | None,
        typer.Option(metavar="MIB", min=1, help="Limit of the builder's memory.", show_default="half of what is free"),
    ] = None,
    no_baseline: Annotated[bool, typer.Option("--no-baseline", help="Leave out the float16 engine.")] = False,
) -> None:
    """Build the engines of a Jetson bundle on this Jetson, as the bundle's own build.py does."""
    with _screen(output) as screen:
        from ptq_export import pipeline

        flags = {"--batch": batch, "--dla": dla, "--workspace": workspace}
        given = [str(part) for pair in flags.items() if pair[1] is not None for part in pair]
        given += ["--no-baseline"] if no_baseline else []
        screen.facts(pipeline.build_bundle(bundle, given))


@app.command()
@flags_from_dataclasses
def sample(run: RunFolder, sampling: Sampling, output: Output) -> None:
    """Draw samples with the engine of a run and write them as one picture."""
    with _screen(output) as screen:
        from ptq_export import pipeline

        with screen.progress() as progress:
            screen.facts(pipeline.sample(run, sampling, progress))


@app.command()
@flags_from_dataclasses
def serve(run: RunFolder, serving: Serving, fleet: Fleet, output: Output) -> None:
    """Serve pictures of a run's engine over HTTP, in OpenAI's form.

    SIGTERM or Ctrl-C ends it with exit code 0 after the requests that it has accepted; a second signal at once.
    """
    with _screen(output, "interrupted; accepted requests were not finished") as screen:
        from ptq_export.serving import require_packages

        require_packages()
        if fleet.ray:
            from ptq_export.serving.fleet import require_ray

            require_ray()
            from ptq_export.serving.fleet.server import serve_fleet

            serve_fleet(run, serving, fleet, screen.note)
            return
        from ptq_export.serving.server import serve as serve_run

        serve_run(run, serving, screen.note)


@app.command()
@flags_from_dataclasses
def package(run: RunFolder, packaging: Packaging, output: Output) -> None:
    """Write the engine of a run as what a service takes over: a folder, or a model repository of Triton."""
    with _screen(output) as screen:
        from ptq_export import packaging as formats

        screen.facts(formats.package(run, packaging))


@app.command()
@flags_from_dataclasses
def inspect(
    path: Annotated[Path, typer.Argument(metavar="FILE|RUN", help="A checkpoint, an ONNX file or a run folder.")],
    output: Output,
) -> None:
    """Say what a checkpoint, an ONNX file or a run folder holds."""
    with _screen(output) as screen:
        from ptq_export import pipeline

        screen.facts(pipeline.inspect(path))


@app.command()
@flags_from_dataclasses
def verify(run: RunFolder, output: Output, ckpt: Checkpoint = None) -> None:
    """Prove a run again on the machine that will serve it: identity, hashes and parity; of a package, its hashes."""
    with _screen(output) as screen:
        from ptq_export import packaging, pipeline

        if packaging.is_package(run):
            screen.facts(packaging.check_package(run))
            return

        with screen.progress() as progress:
            facts = pipeline.verify(run, progress, ckpt)
        screen.facts(facts)


@app.command()
@flags_from_dataclasses
def sensitivity(run: RunFolder, output: Output, ckpt: Checkpoint = None) -> None:
    """Rank the int8 layers of a run by what each costs in fidelity and saves in time."""
    with _screen(output) as screen:
        from ptq_export import pipeline
        from ptq_export.report import tables

        with screen.progress() as progress:
            value = pipeline.sensitivity(run, progress, ckpt)
        screen.result(value, {"Sensitivity": tables.sensitivity_table(value, read_part(run, "layers.json"))})


@app.command()
@flags_from_dataclasses
def compare(run: RunFolder, other: RunFolder, output: Output) -> None:
    """Set two runs side by side: their options, latency and fidelity."""
    with _screen(output) as screen:
        from ptq_export import pipeline

        screen.facts(pipeline.compare(run, other))


@app.command()
@flags_from_dataclasses
def targets(output: Output) -> None:
    """List the targets: which run on this machine, and what is missing for the others."""
    with _screen(output) as screen:
        found = {name: availability(target.engine) for name, target in TARGETS.items()}
        why = {name: find_runtime(it.engine).recommendation() if it.scheme else "" for name, it in TARGETS.items()}
        value = {
            name: {"available": available, "missing": missing, "recommended": why[name]}
            for name, (available, missing) in found.items()
        }
        rows = [[name, TARGETS[name].summary, _available(*found[name], why[name])] for name in found]
        screen.result({"targets": value}, {"Targets": [["target", "what it is", "available here"], *rows]})


def _available(available: bool, missing: str, recommended: str) -> str:
    if not available:
        return missing
    return f"yes, but {missing}" if missing else f"yes, recommended: {recommended}" if recommended else "yes"


@contextmanager
def _screen(output: Output, interrupted: str = "interrupted") -> Iterator[Screen]:
    """The screen of one command; ends the process with the exit code of whatever went wrong in the block."""
    screen = Screen(output)
    interrupted_note("" if output.quiet else interrupted)
    find_room()
    try:
        yield screen
    except Interrupted as end:
        announce(screen.note)
        raise typer.Exit(end.exit_code) from None
    except KeyboardInterrupt:
        screen.note(interrupted)
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        _forget_streams()
        raise typer.Exit(NO_READER) from None
    except typer.Exit:
        raise
    except Exception as error:
        raise typer.Exit(_told(screen, error)) from None


def _told(screen: Screen, error: Exception) -> int:
    """The exit code of an error, which is told as far as the streams allow."""
    failure = explained(error)
    if failure is not error:
        failure.__cause__ = error
    if not failure.cause:  # without arguments the help is shown, which is no success
        return failure.exit_code
    try:
        screen.error(failure)
        sys.stdout.flush()
    except (OSError, PtqExportError):
        _forget_streams()
    return failure.exit_code


def _usage_error(error: Exception) -> Exception:
    """What typer, or the click within it, has against the arguments, as an error of ours; others as they are."""
    message, context = getattr(error, "format_message", None), getattr(error, "ctx", None)
    if message is None:
        return error
    return InputError(message(), f"see `{context.command_path} --help`" if context else "")


def _forget_streams() -> None:
    """Let nothing more be said: the interpreter would try again when it ends, and fail with a trace."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _estimate_line(estimate: Any) -> str:
    from ptq_export.report.units import duration, size

    memory, disk = size(estimate.memory_bytes), size(estimate.disk_bytes)
    return f"estimate: {duration(estimate.seconds)}, {memory} of memory, {disk} of disk"
