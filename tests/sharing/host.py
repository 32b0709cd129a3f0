"""Brokers, agents and clients for suite.py, and what the device says."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("VGPU_BUILD_DIR", os.path.join(ROOT, "build"))


class Client:
    """A process of client.py."""

    def __init__(self, role, options, socket=None):
        environment = dict(os.environ)
        if socket:
            environment["LD_LIBRARY_PATH"] = os.path.join(BUILD, "lib/vgpu")
            environment["VGPU_AGENT_SOCKET"] = socket
        self.role = role
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(HERE, "client.py"), role, json.dumps(options)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the client for {self.role} ended with {self.process.wait()}")
        return line.strip()

    def ready(self):
        line = self.line()
        if line != "ready":
            raise RuntimeError(f"the client for {self.role} said {line}")
        return self

    def go(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def answer(self):
        return json.loads(self.line())

    def end(self):
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self):
        self.process.kill()
        self.process.wait()


class Host:
    """One broker, with a VM for each list of options."""

    def __init__(self, suite, vms, options=(), operator=False):
        self.folder = tempfile.mkdtemp(prefix="vgpu-sharing.")
        self.daemons = []
        command = [os.path.join(BUILD, "bin/vgpu-backend"), *options, "--warm", str(min(4, len(vms)))]
        command += ["--softgpu"] if suite.soft else []
        command += ["--operator-socket", self.path("operator.sock")] if operator else []
        for vm, settings in enumerate(vms):
            command += ["--socket", self.path(f"vm{vm}.sock"), *settings]
        self.start("broker", command, [self.path(f"vm{vm}.sock") for vm in range(len(vms))])
        for vm in range(len(vms)):
            agent = [os.path.join(BUILD, "bin/vgpu-agent"), "--backend", self.path(f"vm{vm}.sock"), "--socket",
                     self.socket(vm)]
            self.start(f"agent{vm}", agent, [self.socket(vm)])

    def path(self, name):
        return os.path.join(self.folder, name)

    def socket(self, vm):
        return self.path(f"agent{vm}.sock")

    def start(self, name, command, sockets):
        with open(self.path(f"{name}.log"), "w") as log:
            daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.daemons.append(daemon)
        deadline = time.time() + 60
        # The broker binds its sockets before it has a worker: it listens when it says so.
        while not all(map(os.path.exists, sockets)) or not self.says(name):
            if daemon.poll() is not None or time.time() > deadline:
                raise RuntimeError(f"the {name} did not start: {open(self.path(f'{name}.log')).read()[-2000:]}")
            time.sleep(0.02)

    def says(self, name):
        with open(self.path(f"{name}.log")) as log:
            text = log.read()
        return ("listening on" if name == "broker" else "ready") in text

    def command(self, *arguments):
        """A command of the operator: exit code, text, seconds."""
        start = time.perf_counter()
        done = subprocess.run([os.path.join(BUILD, "bin/vgpu-backend"), *arguments, "--operator-socket",
                               self.path("operator.sock")], capture_output=True, text=True, timeout=600)
        return done.returncode, done.stdout + done.stderr, time.perf_counter() - start

    def presences(self):
        vms = json.loads(self.command("status", "--json")[1])["vms"]
        return [vm["presence"] for vm in sorted(vms, key=lambda vm: vm["name"])]

    def client(self, vm, role, options):
        return Client(role, options, self.socket(vm))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
        if os.environ.get("VGPU_SHARING_LOGS"):
            shutil.copytree(self.folder, os.path.join(os.environ["VGPU_SHARING_LOGS"], os.path.basename(self.folder)),
                            ignore=shutil.ignore_patterns("*.sock"))
        shutil.rmtree(self.folder, ignore_errors=True)


def device_used():
    """Bytes that the device's processes use, all of the host; None without NVML."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        device, memory = ctypes.c_void_p(), (ctypes.c_ulonglong * 3)()
        if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)):
            return None
        return None if nvml.nvmlDeviceGetMemoryInfo(device, memory) else memory[2]
    except OSError:
        return None
