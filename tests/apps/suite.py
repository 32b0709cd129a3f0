#!/usr/bin/env python3
"""Runs applications' checks natively and in local mode and compares what they print.

usage: gpu-suite apps [--app a,b] [--json FILE] [--no-native] [--softgpu] [--python FILE]
  --app a,b      only these (default: all)
  --json FILE    where the table goes as JSON (default build/log/gpu-suite/apps.json)
  --no-native    leaves the native run out; then nothing is compared
  --softgpu      in local mode on softgpu, without the native run: a trial of this script; much cannot work there
  --python FILE  the interpreter that has the applications (default: this one)
Exit code 0 when every check of every application that is installed is equal both ways.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("VGPU_BUILD_DIR") or os.path.join(ROOT, "build")
# name, file, seconds for one run, GPUs
APPLICATIONS = [
    ("pytorch", "pytorch.py", 180, 1),
    ("pytorch_compile", "pytorch_compile.py", 180, 1),
    ("triton", "triton_app.py", 100, 1),
    ("cupy", "cupy_app.py", 120, 1),
    ("numba", "numba_app.py", 120, 1),
    ("jax", "jax_app.py", 150, 1),
    ("llama_cpp", "llama_cpp.py", 180, 1),
    ("nccl", "nccl_app.py", 200, 2),
]


def say(text):
    print(text, file=sys.stderr, flush=True)


def equal(left, right):
    """Whether two values are equal, word by word; "~NUMBER@TOLERANCE" allows a relative difference."""
    if left.startswith("time:") and right.startswith("time:"):
        return True
    a, b = left.split(), right.split()
    return len(a) == len(b) and all(x == y or close(x, y) for x, y in zip(a, b))


def close(x, y):
    if not (x.startswith("~") and y.startswith("~")):
        return False
    (a, tolerance), (b, _) = (word[1:].split("@") for word in (x, y))
    a, b = float(a), float(b)
    return abs(a - b) <= float(tolerance) * max(abs(a), abs(b), 1e-30)


def run_one(command, limit, output, errors, environment):
    """Runs a program's checks: a dict of name to value, seconds, and whether it ended by itself."""
    start = time.monotonic()
    with open(output, "wb") as out, open(errors, "wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True, env=environment)
        try:
            code = process.wait(limit)
            ended = "ended" if code in (0, 77) else f"exit code {code}"
        except subprocess.TimeoutExpired:
            ended = f"took longer than {limit} s"
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)  # children that outlived it, too
            except ProcessLookupError:
                pass
            process.wait()
    values = {}
    with open(output, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            name, tab, value = line.rstrip("\n").partition("\t")
            if tab and re.fullmatch(r"\w+", name):
                values[name] = value
    return {"values": values, "seconds": round(time.monotonic() - start, 1), "ended": ended}


def environment_in(folder, shim_log):
    environment = dict(os.environ)
    for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUPY_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "TMPDIR", "MPLCONFIGDIR"):
        path = os.path.join(folder, name.lower())
        os.makedirs(path, exist_ok=True)
        environment[name] = path
    environment.update(PYTHONDONTWRITEBYTECODE="1", VGPU_LOG_FILE=shim_log)
    environment.setdefault("VGPU_LOG", "warn")
    return environment


def unsupported(shim_log):
    """Functions that the guest's library refused, with how often."""
    names = {}
    try:
        with open(shim_log, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if "not supported" in line:
                    found = re.search(r"\b(cu[A-Z]\w+|nvml[A-Z]\w+)", line)
                    key = found.group(1) if found else line.strip()[-100:]
                    names[key] = names.get(key, 0) + 1
    except OSError:
        pass
    return names


def run_application(name, file, limit, options, logs):
    results = {}
    for way in ("native", "virtual"):
        if way == "native" and options.no_native:
            continue
        folder = tempfile.mkdtemp(prefix="vgpu-apps.")
        shim_log = os.path.join(logs, f"{name}.shim.log")
        if way == "virtual" and os.path.exists(shim_log):
            os.remove(shim_log)
        command = [options.python, os.path.join(HERE, file)]
        if way == "virtual":
            command = [os.path.join(ROOT, "scripts", "with-vgpu"), *(["--softgpu"] if options.softgpu else []), "--logs", os.path.join(logs, f"{name}.broker")] + command
        say(f"{name}: {way}")
        try:
            # Working in the temporary folder keeps what an application writes beside itself out of the tree.
            results[way] = run_one(["env", "-C", folder] + command, limit, os.path.join(logs, f"{name}.{way}.tsv"),
                                   os.path.join(logs, f"{name}.{way}.err"), environment_in(folder, shim_log))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if results[way]["values"].get("application", "skip:").startswith("skip:") and way == "native":
            break
    return results, unsupported(os.path.join(logs, f"{name}.shim.log"))


def compared(results):
    """A row of the table: how many checks are equal, and the differences. A check that fails natively too has nothing to be compared with."""
    native, virtual = results.get("native"), results.get("virtual")
    if native and not virtual:
        reason = native["values"].get("application", f"skip: {native['ended']}")
        return {"state": "skipped" if reason.startswith("skip:") else "failed", "reason": reason.removeprefix("skip: ")}
    left = native["values"] if native else virtual["values"]
    right = virtual["values"]
    names = [n for n in left if n != "application"]
    names += [n for n in right if n not in left and n != "application"]
    differences, times, same, incomparable = {}, {}, 0, {}
    for name in names:
        a, b = left.get(name, "missing"), right.get(name, "missing")
        if a.startswith("time:") or b.startswith("time:"):
            times[name] = [a.removeprefix("time:"), b.removeprefix("time:")]
        elif native and a.startswith("error:") and b.startswith("error:"):
            incomparable[name] = [a, b]
        elif a.startswith("error:") or not equal(a, b):
            differences[name] = [a, b]
        else:
            same += 1
    complete = virtual["ended"] == "ended" and (not native or native["ended"] == "ended")
    row = {"state": "equal" if complete and not differences else "different", "version": right.get("application") or left.get("application"),
           "checks": same + len(differences) + len(incomparable), "equal": same, "differences": differences, "times": times,
           "failed_natively": incomparable,
           "seconds": {way: result["seconds"] for way, result in results.items()}, "ended": {way: r["ended"] for way, r in results.items()}}
    return row


def show(rows):
    print(f"{'application':<16} {'version':<34} {'checks':>6} {'equal':>6} {'failed natively':>15} {'native s':>9} {'virtual s':>9}  result")
    for name, row in rows.items():
        if "checks" not in row:
            print(f"{name:<16} {row['state']}: {row['reason'][:90]}")
            continue
        seconds = [f"{row['seconds'].get(way, '-')}" for way in ("native", "virtual")]
        print(f"{name:<16} {str(row['version'])[:34]:<34} {row['checks']:>6} {row['equal']:>6} {len(row['failed_natively']):>15} {seconds[0]:>9} {seconds[1]:>9}  {row['state']}")
    for name, row in rows.items():
        for way, ended in row.get("ended", {}).items():
            if ended != "ended":
                print(f"  {name}: {way}: {ended}")
        for check, (a, b) in row.get("differences", {}).items():
            print(f"  {name}.{check}: native {a[:120]} | virtual {b[:120]}")
        for check, (a, b) in row.get("failed_natively", {}).items():
            print(f"  {name}.{check}: fails natively too: {a[:120]} | virtual {b[:120]}")
        for check, (a, b) in row.get("times", {}).items():
            print(f"  {name}.{check}: native {a}, virtual {b}")
        if row.get("unsupported"):
            print(f"  {name}: refused by the guest's library: " + ", ".join(f"{n} ×{c}" for n, c in sorted(row["unsupported"].items())))


def main():
    parser = argparse.ArgumentParser(prog="gpu-suite apps", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--app")
    parser.add_argument("--json", default=os.path.join(BUILD, "log", "gpu-suite", "apps.json"))
    parser.add_argument("--no-native", action="store_true")
    parser.add_argument("--softgpu", action="store_true")
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    options.no_native |= options.softgpu
    wanted = options.app.split(",") if options.app else [name for name, *_ in APPLICATIONS]
    for name in wanted:
        if name not in (known for known, *_ in APPLICATIONS):
            parser.error(f"there is no application '{name}': {', '.join(known for known, *_ in APPLICATIONS)}")
    logs = os.path.join(BUILD, "log", "gpu-suite", "apps")
    os.makedirs(logs, exist_ok=True)
    rows = {}
    signal.signal(signal.SIGTERM, stop)
    try:
        for name, file, limit, gpus in APPLICATIONS:
            if name not in wanted:
                continue
            if gpus > max(count_gpus(), 1):
                rows[name] = {"state": "skipped", "reason": f"needs {gpus} GPUs"}
                continue
            rows[name] = {"state": "failed", "reason": "this run was ended before it"}
            results, refused = run_application(name, file, limit, options, logs)
            rows[name] = compared(results) | ({"unsupported": refused} if refused else {})
    except Stopped:
        say("ended from outside: what was done so far")
    table = {"date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"), "device": device_name(),
             "kernel": platform.release(), "python": platform.python_version(), "compared_with_native": not options.no_native, "applications": rows}
    os.makedirs(os.path.dirname(os.path.abspath(options.json)), exist_ok=True)
    with open(options.json, "w", encoding="utf-8") as file:
        json.dump(table, file, indent=1, ensure_ascii=False)
    print(f"\n{table['date']}, {table['device']}, Linux {table['kernel']}, Python {table['python']}")
    show(rows)
    ran = [row for row in rows.values() if row["state"] != "skipped"]
    good = sum(row["state"] == "equal" for row in ran)
    print(f"{good} of {len(ran)} applications equal, {sum(r.get('equal', 0) for r in ran)} of {sum(r.get('checks', 0) for r in ran)} checks; "
          f"{len(rows) - len(ran)} skipped")
    return 0 if good == len(ran) else 1


class Stopped(Exception):
    """The suite was asked to end; it still shows its table."""


def stop(_number, _frame):
    raise Stopped


def nvidia_smi(query):
    try:
        answer = subprocess.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], capture_output=True, text=True, timeout=30)
        return answer.stdout.strip().splitlines() if answer.returncode == 0 else []
    except (OSError, subprocess.TimeoutExpired):
        return []


def device_name():
    lines = nvidia_smi("name,driver_version")
    return f"{len(lines)} × {lines[0]}" if len(lines) > 1 else (lines or ["unknown device"])[0]


def count_gpus():
    return len(nvidia_smi("name")) or len([n for n in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", n)])


if __name__ == "__main__":
    sys.exit(main())
