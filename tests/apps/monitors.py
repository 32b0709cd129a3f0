"""Programs that watch a GPU, on vgpu's management library: nvidia-ml-py, gpustat and nvitop, while this process uses a device.

PASS or FAIL lines, as the programs of tests/programs.
"""

import ctypes
import os
import subprocess
import sys
import time

import pynvml

TAKEN = 96 << 20


def check(name, condition, detail=""):
    print(("PASS " if condition else "FAIL ") + name + (f" {detail}" if detail else ""), flush=True)
    if not condition:
        sys.exit(1)


def take_memory():
    """Has this process use a device: a context, and memory in it."""
    cuda = ctypes.CDLL("libcuda.so.1")
    context, place = ctypes.c_void_p(), ctypes.c_uint64()
    for code in (
        cuda.cuInit(0),
        cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0),
        cuda.cuCtxSetCurrent(context),
        cuda.cuMemAlloc_v2(ctypes.byref(place), ctypes.c_size_t(TAKEN)),
        cuda.cuCtxSynchronize(),
    ):
        check("cuda", code == 0, code)
    time.sleep(0.3)


def ml_py():
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    uuid = pynvml.nvmlDeviceGetUUID(device)
    check("uuid", pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByUUID(uuid)) == uuid, uuid)
    bus = pynvml.nvmlDeviceGetPciInfo(device).busId
    check("pci", pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByPciBusId(bus)) == uuid, bus)
    memory = pynvml.nvmlDeviceGetMemoryInfo(device)
    check("memory", memory.used >= TAKEN and memory.used + memory.free == memory.total, memory)
    processes = {p.pid: p.usedGpuMemory for p in pynvml.nvmlDeviceGetComputeRunningProcesses(device)}
    check("processes", processes.get(os.getpid(), 0) >= TAKEN, processes)
    check("graphics", pynvml.nvmlDeviceGetGraphicsRunningProcesses(device) == [])
    rates = pynvml.nvmlDeviceGetUtilizationRates(device)
    check("utilization", 0 <= rates.gpu <= 100, rates.gpu)
    check("temperature", 0 < pynvml.nvmlDeviceGetTemperature(device, pynvml.NVML_TEMPERATURE_GPU) < 120)
    check("power", pynvml.nvmlDeviceGetPowerUsage(device) > 0)
    check("clock", pynvml.nvmlDeviceGetClockInfo(device, pynvml.NVML_CLOCK_SM) > 0)
    samples = pynvml.nvmlDeviceGetProcessUtilization(device, 0)
    check("samples", os.getpid() in [s.pid for s in samples])
    events = pynvml.nvmlEventSetCreate()
    try:
        pynvml.nvmlEventSetWait_v2(events, 10)
        check("events", False, "an event came")
    except pynvml.NVMLError_Timeout:
        check("events", True)
    pynvml.nvmlEventSetFree(events)
    try:
        pynvml.nvmlDeviceGetFanSpeed(device)
    except pynvml.NVMLError_NotSupported as error:
        check("not supported", str(error) == "Not Supported")


def program(name, arguments, *expected):
    done = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=60, env={**os.environ, "TERM": "xterm"}
    )
    output = done.stdout + done.stderr
    missing = [text for text in expected if text not in output]
    check(name, done.returncode == 0 and not missing, f"{missing} not in:\n{output}" if missing else "")


pynvml.nvmlInit()
take_memory()
ml_py()
device_name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
program("gpustat", ["gpustat", "--show-pid"], device_name, str(os.getpid()))
program("nvitop", ["nvitop", "--once"], device_name, str(os.getpid()))
pynvml.nvmlShutdown()
print("PASS monitors")
