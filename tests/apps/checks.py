"""What the applications' checks share. A check is a function; it prints one line "name<TAB>value", or "name<TAB>error: …".

A word "~NUMBER@TOLERANCE" of a value may differ by the relative tolerance; a value "time:…" is shown and not compared; everything else
must be equal natively and virtually.
"""

import hashlib
import sys
import time
import traceback

_checks = []


class Skip(Exception):
    """Raised by a check that this machine or version cannot run: printed as "skip: …", which must be the same both ways."""


def check(function):
    """Adds the function to the list, by its name."""
    _checks.append((function.__name__, function))
    return function


def near(values, tolerance=1e-5):
    """A value that may differ by the relative tolerance."""
    if hasattr(values, "detach"):
        values = values.detach()
    if not hasattr(values, "__len__") or getattr(values, "ndim", 1) == 0:  # an array of no dimension has a length that raises
        values = [values]
    return " ".join(f"~{float(value):.9g}@{tolerance:g}" for value in values)


def digest(*arrays):
    """A hash of the bytes of host arrays or of bytes."""
    state = hashlib.sha256()
    for array in arrays:
        state.update(array if isinstance(array, bytes) else array.tobytes())
    return "sha:" + state.hexdigest()[:16]


def report(name, value):
    print(f"{name}\t{value}", flush=True)


def run(application, version):
    """Runs every check, or those named in the arguments, and returns how many failed. A failing one does not end the run."""
    report("application", f"{application} {version}")
    failed = 0
    for name, function in _checks:
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        start = time.monotonic()
        try:
            value = function()
        except Skip as reason:
            value = f"skip: {reason}"
        except BaseException as error:  # a check may also call exit
            if isinstance(error, KeyboardInterrupt):
                raise
            failed += 1
            text = str(error).strip().splitlines() or [""]
            value = f"error: {type(error).__name__}: {text[0][:160]}"
            traceback.print_exc()
        report(name, str(value).replace("\t", " ").replace("\n", " "))
        print(f"{name}: {time.monotonic() - start:.2f} s", file=sys.stderr, flush=True)
    return failed


def must_pass(application, version):
    """For tests that need no native run to compare with: exit code 1 if a check failed."""
    failed = run(application, version)
    print(f"FAIL {application}: {failed} checks" if failed else f"PASS {application} {version}: {len(_checks)} checks", flush=True)
    sys.exit(1 if failed else 0)
