"""What happened, as an exit code and a message with its way out; or as one JSON object for those who asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import typer

DONE, SOME_FAILED, BAD_INPUT, ALREADY_RUNNING, BUDGET_REACHED, UNAVAILABLE, BUG = 0, 1, 2, 3, 4, 5, 70


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def run_command(command: Callable[[], Any]) -> int:
    """Runs a command and gives its exit code; errors are printed with their way out."""
    try:
        result = command()
    except typer.Exit as error:
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        return SOME_FAILED
    except Exception as error:  # noqa: BLE001 - the outermost frame: every error becomes an exit code
        show = getattr(error, "show", None)  # the command line's own errors print their usage
        if callable(show):
            show()
            _print_error(error, BAD_INPUT, [getattr(error, "format_message", error.__str__)()])
            return BAD_INPUT
        return _explain(error)
    return result if isinstance(result, int) else DONE


def _explain(error: Exception) -> int:
    from assetmill.engines.protocols import EngineError
    from assetmill.operate.lock import AlreadyRunning
    from assetmill.operate.nights import NightDone
    from assetmill.operate.produce import BreakerTripped
    from assetmill.records import InputError
    from assetmill.storage.catalog import CatalogHeld
    from assetmill.storage.decisions import StaleDecision
    from assetmill.storage.store import CorruptObject, StoreRefused, StoreUnavailable

    codes: list[tuple[type[Exception] | tuple[type[Exception], ...], int]] = [
        (InputError, BAD_INPUT),
        (AlreadyRunning, ALREADY_RUNNING),
        (NightDone, DONE),
        (CatalogHeld, BAD_INPUT),
        (StaleDecision, BAD_INPUT),
        (BreakerTripped, SOME_FAILED),
        ((StoreRefused, StoreUnavailable, EngineError, CorruptObject), UNAVAILABLE),
    ]
    code = next((c for kinds, c in codes if isinstance(error, kinds)), BUG)
    _print_error(error, code, list(map(str, error.problems)) if isinstance(error, InputError) else [str(error)])
    if code == BUG:
        import logging

        logging.getLogger("assetmill").exception("a bug in assetmill: please report it with the lines above")
    else:
        sys.stderr.write(f"assetmill: {error}\n")
    return code


def _print_error(error: Exception, code: int, problems: list[str]) -> None:
    """An error as one JSON object, for those who asked for one."""
    if "--json" in sys.argv:
        print_json({"error": type(error).__name__, "exit_code": code, "problems": problems})
