#!/usr/bin/env python3
"""Measures how VMs share one GPU: throughput, fairness, weights, caps, latency, memory limits, isolation.

usage: gpu-suite sharing [--softgpu] [--only PART[,PART…]] [--seconds S] [--rounds N] [--gib N] [--json FILE]
Parts: throughput, weights, cap, idle, latency, memory, isolation, suspend.
VMs are vgpu-agents in local mode, each on a socket of its own of one vgpu-backend. With --softgpu everything is smaller, and there is no
native run: it shows that limits are met, not how fast.
Exit status: 1 if something that must hold does not.
"""

import argparse
import json
import sys
import time

from host import Client, Host, device_used

PARTS = ["throughput", "weights", "cap", "idle", "latency", "memory", "isolation", "suspend"]
MIB = 1 << 20
# Seconds in which a broker has warm workers again: it begins to make them after a quarter of one, two at a time, and each takes about 0.3.
SETTLE = 2


def jain(values):
    return sum(values) ** 2 / (len(values) * sum(v * v for v in values))


class Suite:
    def __init__(self, options):
        self.soft, self.seconds, self.results, self.failures = options.softgpu, options.seconds, {}, []
        self.gib, self.rounds = options.gib, options.rounds
        # Blocks of 256 threads: enough for all of a large GPU.
        self.work = {"blocks": 2 if self.soft else 1056, "rounds": 1, "small": 1}

    def say(self, text):
        print(text, flush=True)

    def expect(self, holds, what):
        if not holds:
            self.failures.append(what)
            self.say(f"  does not hold: {what}")

    def options(self, **more):
        return {**self.work, "seconds": self.seconds, **more}

    def calibrate(self):
        wanted = {**self.work, "microseconds": 500 if self.soft else 60}
        if self.soft:
            with Host(self, [[]]) as host:
                client = host.client(0, "calibrate", wanted).ready()
                client.go()
                found = client.answer()
                client.end()
        else:
            client = Client("calibrate", wanted).ready()
            client.go()
            found = client.answer()
            client.end()
        self.work["rounds"] = found["rounds"]
        # A small inference has kernels of a quarter of that; on a CPU they must be much smaller to be small.
        self.work["small"] = max(1, found["rounds"] // (32 if self.soft else 4))
        self.results["kernel_microseconds"] = found["microseconds"]
        self.say(f"kernels of {found['microseconds']:.1f} µs")

    def together(self, clients):
        """Has them begin together; their answers. First the next contexts are made for those that were taken, which disturbs what runs."""
        for client in clients:
            client.ready()
        time.sleep(0 if self.soft else SETTLE)
        for client in clients:
            client.go()
        answers = [client.answer() for client in clients]
        for client in clients:
            client.end()
        return answers

    def rates(self, clients):
        """Launches per second of each of these clients, which are busy."""
        answers = self.together(clients)
        for answer in answers:
            self.expect(answer["right"], "results are right")
        return [answer["launches"] / answer["seconds"] for answer in answers]

    def busy(self, count, options):
        """Rates of `count` busy VMs on a broker with these options, or natively with None."""
        if options is None:
            return self.rates([Client("busy", self.options()) for _ in range(count)])
        with Host(self, [[]] * count, options) as host:
            return self.rates([host.client(vm, "busy", self.options()) for vm in range(count)])

    def throughput(self):
        """Medians of rounds in which native processes and VMs alternate."""
        counts, rounds = ([1, 2], 1) if self.soft else ([1, 2, 4], self.rounds)
        ways = {"native": None, "VMs": [], "VMs, turns off": ["--turns", "off"]}
        table = {}
        for count in counts:
            for _ in range(rounds):
                for way, options in ways.items():
                    if (self.soft and options is None) or (count == 1 and options):
                        continue
                    rates = self.busy(count, options)
                    table.setdefault(f"{way} {count}", []).append({"sum": sum(rates), "jain": jain(rates)})
        for name, results in table.items():
            sums = sorted(result["sum"] for result in results)
            middle = sums[len(sums) // 2]
            table[name] = {"sum": middle, "least": sums[0], "greatest": sums[-1], "jain": min(r["jain"] for r in results)}
        for name, row in table.items():
            native = table.get(f"native {name.split()[-1]}")
            row["to_native"] = row["sum"] / native["sum"] if native else None
            self.say(f"  {name:18} {row['sum']:8.0f} launches/s ({row['least']:.0f} – {row['greatest']:.0f}), Jain {row['jain']:.4f}" +
                     (f", {row['to_native']:.3f} of native" if native else ""))
        self.results["throughput"] = table
        last = counts[-1]
        self.expect(table[f"VMs {last}"]["jain"] >= (0.8 if self.soft else 0.98), f"{last} equal VMs get equal shares")
        if not self.soft:
            self.expect(table["VMs 4"]["to_native"] >= 1.08, "4 VMs do 1.08 of what 4 native processes do")

    def weights(self):
        weights = [100, 200, 400]
        with Host(self, [["--weight", str(w)] for w in weights]) as host:
            more = self.options(seconds=self.seconds * 2)
            rates = self.rates([host.client(vm, "busy", more) for vm in range(3)])
        shares = [rate / sum(rates) * 7 / (w / 100) for rate, w in zip(rates, weights)]
        self.results["weights"] = {"rates": rates, "share_to_weight": shares}
        self.say("  1:2:4 got " + " : ".join(f"{rate / rates[0]:.2f}" for rate in rates) +
                 ", to their weights " + ", ".join(f"{share:.3f}" for share in shares))
        if self.soft:
            # The clients' own processors are scarce too.
            self.expect(rates[0] < rates[2] and all(0.4 < s < 2 for s in shares), "shares follow weights")
        else:
            self.expect(all(abs(s - 1) <= 0.05 for s in shares), "shares are as weights, within 5 %")

    def cap(self):
        with Host(self, [["--cap", "30"], []]) as host:
            capped = self.rates([host.client(0, "busy", self.options())])[0]
            free = self.rates([host.client(1, "busy", self.options())])[0]
            both = self.rates([host.client(vm, "busy", self.options()) for vm in range(2)])
        self.results["cap"] = {"alone": capped / free, "beside": both[0] / sum(both)}
        self.say(f"  a cap of 30 %: {capped / free:.3f} alone, {both[0] / sum(both):.3f} beside another")
        self.expect(capped / free < (0.5 if self.soft else 0.32), "a cap holds alone")

    def idle(self):
        with Host(self, [[], []]) as host:
            alone = self.rates([host.client(0, "busy", self.options())])[0]
            neighbour = host.client(1, "idle", {}).ready()
            beside = self.rates([host.client(0, "busy", self.options())])[0]
            neighbour.go()
            neighbour.end()
        self.results["idle"] = {"beside_to_alone": beside / alone}
        self.say(f"  beside an idle VM: {beside / alone:.4f} of alone")
        self.expect(beside / alone > (0.4 if self.soft else 0.98), "an idle VM costs nothing")

    def latency(self):
        heavy = 2 if self.soft else 3
        table = {}
        ways = [("alone", 0, []), ("turns", heavy, []), ("turns off", heavy, ["--turns", "off"])]
        for name, count, options in ways:
            with Host(self, [[]] * (count + 1), options) as host:
                clients = [host.client(vm + 1, "busy", self.options()) for vm in range(count)]
                table[name] = self.together([host.client(0, "small", self.options()), *clients])[0]
        if not self.soft:
            clients = [Client("busy", self.options()) for _ in range(heavy)]
            table["native"] = self.together([Client("small", self.options()), *clients])[0]
        for name, row in table.items():
            self.say(f"  {name:10} p50 {row['p50']:7.2f} ms, p99 {row['p99']:7.2f} ms, longest {row['longest']:7.2f} ms")
            self.expect(row["right"], "results are right")
        self.results["latency"] = table

    def memory(self):
        limit = 256 if self.soft else 8192
        table = {}
        kinds = [("plain", 64), ("plain", 1), ("physical", 2), ("pool", 16), ("array", 16), ("mipmapped", 16)]
        with Host(self, [["--device-memory", str(limit)], []]) as host:
            for kind, step in kinds:
                client = host.client(0, "fill", {"kind": kind, "step": step}).ready()
                # Long enough for the broker to have measured what the context takes.
                time.sleep(0 if self.soft else 2.5)
                before = None if self.soft else device_used()
                client.go()
                row = client.answer()
                after = None if self.soft else device_used()
                row["driver"] = after - before if before is not None and after is not None else None
                table[f"{kind} {step}"] = row
                client.go()
                client.end()
                counted = row["before"] - row["free"]
                self.say(f"  {kind:9} {step:3} MiB at a time: {row['got'] >> 20} of {row['total'] >> 20} MiB, {row['before'] >> 20} "
                         f"free before, {row['free'] >> 20} after" +
                         (f", by the driver {row['driver'] / MIB:.0f} MiB" if row["driver"] is not None else ""))
                self.expect(row["code"] == 2, f"{kind}: the error is CUDA_ERROR_OUT_OF_MEMORY")
                room = max(row["total"] // 100, step * MIB * 2)
                self.expect(row["got"] <= row["total"] and row["free"] <= room, f"{kind}: all of the limit can be had, and no more")
                if row["driver"] is not None:
                    row["accuracy"] = counted / max(1, row["driver"])
                    self.expect(abs(row["accuracy"] - 1) <= 0.01, f"{kind}: what is counted is what the driver takes, within 1 %")
        self.results["memory"] = table

    def isolation(self):
        table = {}
        for kind in ("illegal address", "trap", "infinite kernel", "killed", "memory exhausted"):
            if self.soft and kind == "illegal address":
                continue # softgpu has no page tables
            with Host(self, [["--device-memory", "200" if self.soft else "4096"], []]) as host:
                good = host.client(1, "checked", self.options(seconds=2)).ready()
                bad = host.client(0, "misbehave", self.options(kind=kind)).ready()
                good.go()
                time.sleep(0.3)
                bad.go()
                if kind == "infinite kernel":
                    time.sleep(1)
                    bad.kill()
                elif kind != "killed":
                    answer = bad.answer()
                    self.expect(answer["code"] != 0, f"{kind}: the program is told")
                start = time.perf_counter()
                bad.kill()
                again = host.client(0, "once", self.work).ready()
                recovered = time.perf_counter() - start
                again.go()
                self.expect(again.answer()["right"], f"{kind}: the VM computes right again")
                again.end()
                row = good.answer()
                good.end()
            row["recovered"] = recovered
            table[kind] = row
            self.say(f"  {kind:16} the other: {row['rounds']} rounds, {row['wrong']} wrong, the longest {row['longest']:.1f} ms; "
                     f"the VM itself works again after {recovered:.2f} s")
            self.expect(row["wrong"] == 0 and row["rounds"] > 0, f"{kind}: the other VM's results are right")
        self.results["isolation"] = table

    def suspend(self):
        """One VM moved off the device and back, by command and by its next call; then two that do not fit on it together."""
        size = 64 * MIB if self.soft else self.gib << 30
        rows = []
        with Host(self, [[]], operator=True) as host:
            client = host.client(0, "kept", {"bytes": size}).ready()
            client.go()
            client.answer()
            for way in ("resume", "call"):
                if not self.soft:
                    time.sleep(SETTLE)  # a context that is made meanwhile has memory too
                before = None if self.soft else device_used()
                code, text, suspended = host.command("vm", "suspend", "vm0", *(["--hold"] if way == "resume" else []))
                if code and "cannot suspend processes" in text:
                    self.say(f"  not to be had: {text.strip()}")
                    self.results["suspend"] = {"available": False}
                    self.expect(code == 1 and "cuCheckpointProcess" in text, "the command says that the driver cannot do it")
                    client.go()
                    self.expect(client.answer()["right"], "the VM goes on")
                    return client.end()
                self.expect(code == 0, f"the VM is suspended: {text}")
                freed = None if before is None else before - (device_used() or 0)
                row = {"way": way, "suspend": suspended, "freed": freed, "resume": None}
                if way == "resume":
                    client.go()
                    time.sleep(1)
                    self.expect(host.presences()[0]["place"] == "suspended", "a VM that is held stays away")
                    code, text, row["resume"] = host.command("vm", "resume", "vm0")
                    self.expect(code == 0, f"the VM is resumed: {text}")
                else:
                    client.go()
                row.update(client.answer())
                rows.append(row)
                self.say(f"  {size >> 20} MiB, back by {way}: suspended in {suspended:.2f} s" +
                         (f", {freed >> 20} MiB freed" if freed is not None else "") +
                         (f", resumed in {row['resume']:.2f} s" if row["resume"] else "") +
                         f"; the guest's call waited {row['waited']:.2f} s")
                self.expect(row["right"], "the memory is as it was")
                if freed is not None:
                    self.expect(freed >= size, "the memory is free for others")
            client.end()
        self.results["suspend"] = {"available": True, "bytes": size, "one": rows}
        self.crowd(size)

    def crowd(self, size):
        """Leaves so much of the device, of which two VMs have 60 % each."""
        each = size * 6 // 10 // (64 * MIB) * (64 * MIB)
        # Beside the memory each has a context; so has a worker that is started ahead.
        ballast = Client("ballast", {"leave": size + (3 << 29)}).ready()
        ballast.go()
        ballast.answer()
        options = self.options(bytes=each, times=2, seconds=1, pause=2.5)
        with Host(self, [["--suspend-after", "1"]] * 2, ["--oversubscribe"], operator=True) as host:
            start = time.perf_counter()
            answers = self.together([host.client(vm, "crowded", {**options, "seed": vm + 2}) for vm in range(2)])
            took, moves = time.perf_counter() - start, [p["suspensions"] for p in host.presences()]
        ballast.end()
        self.results["suspend"]["two"] = {"each": each, "left": size, "seconds": took, "suspensions": moves, "clients": answers}
        waits = max(max(answer["waits"] + [answer["got"]]) for answer in answers)
        self.say(f"  two VMs with {each >> 20} MiB each where {size >> 20} MiB are left: both done in {took:.1f} s, moved {moves} "
                 f"times, the longest wait {waits:.1f} s")
        self.expect(all(answer["right"] for answer in answers), "both VMs' results and memory are right")
        self.expect(sum(moves) > 0, "they did not fit together")


def main():
    parser = argparse.ArgumentParser(prog="gpu-suite sharing", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--softgpu", action="store_true")
    parser.add_argument("--only", type=lambda text: text.split(","), default=PARTS)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--rounds", type=int, default=3, help="of the part throughput [default: 3]")
    parser.add_argument("--gib", type=int, default=8, help="of the memory that the part suspend moves [default: 8]")
    parser.add_argument("--json")
    options = parser.parse_args()
    unknown = [part for part in options.only if part not in PARTS]
    if unknown:
        parser.error(f"no part {', '.join(unknown)}")
    options.seconds = options.seconds or (1.0 if options.softgpu else 3.0)
    suite = Suite(options)
    suite.calibrate()
    for part in options.only:
        suite.say(f"{part}:")
        start = time.time()
        try:
            getattr(suite, part)()
        except (RuntimeError, OSError, json.JSONDecodeError) as error:
            suite.expect(False, f"{part}: {error}")
        suite.say(f"  ({time.time() - start:.0f} s)")
    suite.results["failures"] = suite.failures
    if options.json:
        with open(options.json, "w") as file:
            json.dump(suite.results, file, indent=1)
            file.write("\n")
    sys.exit(1 if suite.failures else 0)


if __name__ == "__main__":
    main()
