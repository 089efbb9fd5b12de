#!/usr/bin/env python3
"""The benchmark: every tests/bench/row_* against the machine's own limits and, where installed, against a peer.

    tests/bench/bench.py [--build DIR] [--peers VENV] [--dir DIR] [--list] [ROW ...]

A row is one file, and says in its ROW block what it measures; docs/bench.md is the manual. Ours, the peer and the
ceiling take turns; nothing is reported of a machine that was not quiet. Prints a table, writes BUILD/bench.json
({row: {...}}) and appends one line of JSON per result to BUILD/bench.jsonl.

Exit code: 0; 1 when a result is wrong or below its min by more than 5 %; 75 when the machine was too noisy to say.

Environment: BENCH_QUIET=0 measures without the guard (results are marked, and judge nothing); BENCH_WAIT seconds to
wait for quiet (300); BENCH_REPEATS overrides the number of repeats.
"""
import argparse
import datetime
import fnmatch
import glob
import itertools
import json
import math
import os
import platform
import re
import select
import shutil
import signal
import statistics
import string
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))

MAX_FOREIGN = 0.08   # share of all cores that others may take while a case is measured
MAX_DRIFT = 0.05     # by which the FMA probe beside a round may be below the fastest of the case
IDLE = 0.06          # share of all cores in use that counts as quiet
TRIES = 3            # of a case while others work
MAX_FALL = 0.15      # by which it may be below the fastest of the run
MOST_ROUNDS = 2      # times the wanted ones, on a machine whose speed changes
SLACK = 0.95         # of min, before a row fails
ANSWER = 600         # seconds until a silent contestant is given up

SCALE = {"GF/s": 1e9, "GB/s": 1e9, "tok/s": 1, "ms": 1e-3, "s": 1}


# ---- what a row says of itself ---------------------------------------------------------------------------------------

class Case:
    """One line of a row: a label, the arguments of its contestants, and how they are run."""

    def __init__(self, label, arguments, options):
        self.label = label
        self.arguments = arguments.split()
        self.threads = int(options.get("threads", 2))
        self.ranks = int(options.get("np", 0))
        self.repeats = int(options.get("repeats", 7))
        self.warm = int(options.get("warm", 1))
        self.ceiling = options.get("ceiling")


class Row:
    """The ROW block of tests/bench/row_NAME.{c,py}: lines `key: value`, several of `for`, `case` and `bar`."""

    KEYS = {"id", "title", "unit", "ceiling", "peer", "setup", "for", "case", "bar"}

    def __init__(self, path):
        self.path = path
        self.name = os.path.basename(path).rsplit(".", 1)[0]
        block = re.search(r"^(?:/\*|\"\"\")?ROW\n(.*?)(?:\*/|END|\"\"\")", open(path).read(), re.S | re.M)
        if not block:
            raise SystemExit(f"{path}: no ROW block")
        lines = [line.split(":", 1) for line in block.group(1).splitlines() if line.strip()]
        field = {}
        for key, value in lines:
            if key not in Row.KEYS:
                raise SystemExit(f"{path}: ROW block: no such key: {key}")
            field.setdefault(key, []).append(value.strip())
        self.id = field["id"][0]
        self.title = field["title"][0]
        self.unit = field["unit"][0]
        self.ceiling = field["ceiling"][0]
        self.peer = field.get("peer", [None])[0]
        self.setup = field.get("setup", [None])[0]
        self.bars = [self.bar(b) for b in field.get("bar", [])]
        self.cases = [c for line in field["case"] for c in self.expand(line, field.get("for", []))]

    @staticmethod
    def bar(text):
        pattern, of, low, moon = (p.strip() for p in text.split("|"))
        return pattern, of, float(low), float(moon)

    def expand(self, line, axes):
        names = [a.split()[0] for a in axes]
        for point in itertools.product(*(a.split()[1:] for a in axes)):
            at = dict(zip(names, point))
            label, arguments, *options = (p.strip() for p in string.Template(line).substitute(at).split("|"))
            option = dict(o.split("=", 1) for o in " ".join(options).split())
            option.setdefault("ceiling", string.Template(self.ceiling).substitute(at))
            yield Case(label, arguments, option)

    def bar_of(self, key):
        for pattern, of, low, moon in self.bars:
            if fnmatch.fnmatchcase(key, pattern):
                return of, low, moon
        return None


# ---- the machine ------------------------------------------------------------------------------------------------------

TICK = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count()


def ticks():
    """(busy with steal, steal) of all cores since boot."""
    v = [int(x) for x in open("/proc/stat").readline().split()[1:9]]
    return sum(v) - v[3] - v[4], v[7]


def processes():
    """{pid: (parent, ticks used, by children that ended too)} of all there are."""
    table = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = open(f"/proc/{entry}/stat").read()
        except OSError:
            continue
        f = stat[stat.rindex(")") + 2:].split()
        table[int(entry)] = int(f[1]), sum(int(x) for x in f[11:15])
    return table


def family(table, roots):
    """Those of the table that are one of the roots, or below one."""
    found = []
    for pid in table:
        p = pid
        while p in table and p not in roots:
            p = table[p][0]
        if p in roots:
            found.append(pid)
    return found


def own_ticks():
    """Ours: this process and all below it; and the kernel's threads (of pid 2), which write our files."""
    table = processes()
    return sum(table[pid][1] for pid in family(table, {os.getpid(), 2}))


class Usage:
    """What others took of the cores since it was made."""

    def __init__(self):
        self.t, (self.busy, self.steal), self.own = time.monotonic(), ticks(), own_ticks()

    def shares(self):
        t, (busy, steal), own = time.monotonic(), ticks(), own_ticks()
        whole = max(1.0, (t - self.t) * CORES * TICK)
        return max(0.0, (busy - self.busy) - (own - self.own)) / whole, (steal - self.steal) / whole


def wait_idle(limit):
    """Seconds until the cores were idle for a second; None when they were not within the limit."""
    start, calm = time.monotonic(), 0
    while calm < 2:
        if time.monotonic() - start > limit:
            return None
        before = ticks()[0]
        time.sleep(0.5)
        calm = calm + 1 if (ticks()[0] - before) / (0.5 * CORES * TICK) < IDLE else 0
    return time.monotonic() - start


def machine():
    cpu = re.search(r"model name\s*:\s*(.*)", open("/proc/cpuinfo").read())
    return f"{cpu.group(1) if cpu else platform.processor()}, {CORES} cores"


def commit():
    try:
        return subprocess.run(["git", "describe", "--always", "--dirty"], cwd=TOP, capture_output=True, text=True).stdout.strip()
    except OSError:
        return "unknown"


# ---- contestants --------------------------------------------------------------------------------------------------------

class Failed(Exception):
    pass


class Noisy(Exception):
    pass


def environment(threads, seed, ranks):
    """The same for all: nothing chosen for a BLAS, as many threads, each on its core (woken together, the kernel leaves two
    on one for a tenth of a second); ranks that do not spin on each other's cores."""
    env = {k: v for k, v in os.environ.items()
           if not k.startswith(("OPENBLAS_", "SLURM_", "PMIX_", "PMI_", "OMP_", "GOMP_", "KMP_", "MKL_"))}
    env.update(OMP_NUM_THREADS=str(1 if ranks else threads), OMP_PROC_BIND="false" if ranks else "true", GR_BENCH_SEED=str(seed), OMPI_ALLOW_RUN_AS_ROOT="1",
               OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_rmaps_base_oversubscribe="1",
               OMPI_MCA_mpi_yield_when_idle="1", OMPI_MCA_hwloc_base_binding_policy="none",
               HDF5_USE_FILE_LOCKING="FALSE", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1",
               PYTHONWARNINGS="ignore")
    return env


class Contestant:
    """A program that does one repetition whenever it is told to; stopped in between, so that it takes no time."""

    def __init__(self, command, env):
        self.name = ""
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
                                        start_new_session=True)
        self.buffer = b""
        self.command = command

    def line(self):
        deadline = time.monotonic() + ANSWER
        while b"\n" not in self.buffer:
            ready = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))[0]
            data = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            if not data:
                raise Failed(self.last_words("ended" if ready else "did not answer"))
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode()

    def last_words(self, what):
        self.log.seek(0)
        said = self.log.read().decode(errors="replace").strip().splitlines()
        return f"{os.path.basename(self.command[-1])} {what}: {' / '.join(said[-3:])}"

    def signal(self, number):
        """To the program and all that it started: mpirun gives every rank a process group of its own."""
        for pid in [] if self.process.poll() is not None else family(processes(), {self.process.pid}):
            try:
                os.kill(pid, number)
            except OSError:
                pass

    def tell(self, word):
        """The answer: {"time": {key: (seconds, work, count)}, "number": {key: x}, "error": {key: (error, tolerance)}}."""
        answer = {"time": {}, "number": {}, "error": {}}
        self.signal(signal.SIGCONT)
        try:
            self.process.stdin.write((word + "\n").encode())
            self.process.stdin.flush()
        except OSError:
            raise Failed(self.last_words("ended"))
        while True:
            kind, *rest = self.line().split()
            if kind == "done":
                break
            if kind == "name":
                self.name = " ".join(rest)
            elif kind == "number":
                answer["number"][rest[0]] = float(rest[1])
            elif kind in answer:
                answer[kind][rest[0]] = tuple(float(x) for x in rest[1:])
        self.signal(signal.SIGSTOP)
        return answer

    def peak(self):
        """Its largest resident set so far, bytes."""
        try:
            return int(re.search(r"VmHWM:\s*(\d+)", open(f"/proc/{self.process.pid}/status").read()).group(1)) * 1024
        except (OSError, AttributeError):
            return 0

    def close(self):
        self.signal(signal.SIGCONT)
        try:
            self.process.stdin.close()
            self.process.wait(5)
        except (OSError, subprocess.TimeoutExpired):
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except OSError:
            pass
        self.process.wait()
        self.process.stdout.close()
        self.log.close()


class Probe:
    def __init__(self, build):
        self.process = subprocess.Popen([f"{build}/tests/bench/probe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        env={**environment(CORES, 1, 0), "OMP_WAIT_POLICY": "passive"}, text=True, start_new_session=True)

    def ask(self, what):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def best(self, what, enough=math.inf, times=5):
        """The best of some; with `enough`, until that is reached, but ten times as many at most."""
        best = 0.0
        for i in itertools.count():
            best = max(best, self.ask(what))
            if best >= enough or i + 1 >= times * (1 if enough == math.inf else 10):
                return best

    def close(self):
        self.process.stdin.close()
        self.process.wait()


# ---- measuring ----------------------------------------------------------------------------------------------------------

class Samples:
    """What the repetitions of one contestant gave, key by key."""

    def __init__(self):
        self.time, self.number = {}, {}

    def add(self, answer):
        if not answer:
            return
        for key, value in answer["time"].items():
            self.time.setdefault(key, []).append(value)
        for key, value in answer["number"].items():
            self.number.setdefault(key, []).append(value)

    def seconds(self, key):
        return [t[0] for t in self.time.get(key, [])]


class Bench:
    def __init__(self, args):
        self.build = os.path.abspath(args.build)
        self.peers = os.path.abspath(args.peers)
        self.quiet = os.environ.get("BENCH_QUIET", "1") != "0"
        self.wait = float(os.environ.get("BENCH_WAIT", 300))
        self.repeats = int(os.environ.get("BENCH_REPEATS", 0))
        self.seed = int.from_bytes(os.urandom(4), "little")
        os.makedirs(args.dir, exist_ok=True)
        self.dir = tempfile.mkdtemp(prefix="bench-", dir=os.path.abspath(args.dir))
        self.probe = Probe(self.build)
        self.facts = {"machine": machine(), "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
                      "commit": commit(), "seed": self.seed, "guarded": self.quiet}
        self.out = {}
        self.fastest = 0.0  # FMA probe

    # -- commands

    def command(self, name, arguments, ranks):
        if name.endswith(".py"):
            return [self.python(), f"{HERE}/{name}"] + arguments
        command = [f"{self.build}/tests/bench/{name}"] + arguments
        return ["mpirun", "-n", str(ranks)] + command if ranks else command

    def python(self):
        return f"{self.peers}/bin/python"

    def ours(self, row, case):
        if row.path.endswith(".py"):
            return [sys.executable, row.path] + case.arguments
        return self.command(row.name, case.arguments, case.ranks)

    def peer(self, row, case):
        """The peer's command, or None where it is not installed."""
        if not row.peer:
            return None
        name, *first = row.peer.split()
        if name.endswith(".py") and not os.access(self.python(), os.X_OK):
            return None
        return self.command(name, first + case.arguments, case.ranks)

    def environment(self, case):
        env = environment(case.threads, self.seed, case.ranks)
        env.update(GR_BUILD=self.build, GR_BENCH_DIR=self.dir, GR_BENCH_PYTHON=self.python())
        return env

    # -- one case

    def round(self, case, ours, peer):
        """Ours, the peer, the ceiling, in turn: what each answers."""
        mine, theirs = ours.tell("run"), peer.tell("run") if peer else None
        if not mine["time"]:
            top = {"time": {}, "number": {}}
        elif case.ceiling == "own":
            top = ours.tell("ceiling")
        else:
            rate = self.probe.best(case.ceiling, times=3)
            top = {"time": {key: (t[1] / rate, t[1], t[2]) for key, t in mine["time"].items()}, "number": {}}
        return mine, theirs, top

    def rounds(self, case, ours, peer, wanted):
        """Rounds until enough of them had the machine's full speed before and after: the fastest of the case, which is not far
        below that of the whole run. (probe, answers) of these, and of how many."""
        probe = f"fma {CORES}"
        before = fastest = self.probe.best(probe, times=25)
        every, kept = [], []
        while len(kept) < wanted and len(every) < MOST_ROUNDS * wanted:
            answers = self.round(case, ours, peer)
            after = self.probe.best(probe, enough=0.98 * fastest)
            every.append((min(before, after), answers))
            before, fastest = after, max(fastest, after)
            self.fastest = max(self.fastest, fastest)
            low = max((1 - MAX_DRIFT) * fastest, (1 - MAX_FALL) * self.fastest)
            kept = [r for r in every if not self.quiet or r[0] >= low]
        return kept, len(every)

    def guarded(self, case, ours, peer):
        """Rounds on a quiet machine; and how quiet it was."""
        wanted = self.repeats or case.repeats
        for _ in range(case.warm):
            self.round(case, ours, peer)
        for attempt in range(TRIES):
            waited = wait_idle(self.wait if attempt == 0 else 60) if self.quiet else 0.0
            usage = Usage()
            kept, tried = self.rounds(case, ours, peer, wanted)
            foreign, steal = usage.shares()
            if not self.quiet or waited is None or foreign <= MAX_FOREIGN:
                break
        fma = [r[0] for r in kept] or [0.0]
        guard = {"foreign": round(foreign, 4), "steal": round(steal, 4), "fma": round(max(fma) / 1e9, 1),
                 "drift": round(min(fma) / max(*fma, 1e-9) - 1, 4), "clock_GHz": round(self.probe.ask("clock") / 1e9, 3),
                 "waited_s": None if waited is None else round(waited, 1), "tries": attempt + 1, "repeats": len(kept),
                 "rounds": tried}
        guard["noisy"] = waited is None or foreign > MAX_FOREIGN or len(kept) < wanted
        samples = Samples(), Samples(), Samples()
        for _, answers in kept:
            for s, answer in zip(samples, answers):
                s.add(answer)
        return samples, guard

    def case(self, row, case):
        env = self.environment(case)
        theirs = self.peer(row, case)
        ours = peer = None
        try:
            ours = Contestant(self.ours(row, case), env)
            peer = Contestant(theirs, env) if theirs else None
            for c in (ours, peer):
                if c:
                    c.tell("ready")
            samples, guard = self.guarded(case, ours, peer)
            peak = ours.peak(), peer.peak() if peer else 0
            errors = ours.tell("check")["error"]
            if peer:
                errors.update({f"peer {k}": e for k, e in peer.tell("check")["error"].items()})
            guard["name"], guard["peer_name"] = ours.name, peer.name if peer else None
        finally:
            for c in (ours, peer):
                if c:
                    c.close()
        wrong = {k: e for k, e in errors.items() if not e[0] <= e[1]}
        if not guard["repeats"]:
            raise Noisy("no round at the machine's full speed")
        return [self.result(row, case, key, samples, guard, peak, errors, wrong)
                for key in list(samples[0].time) + list(samples[0].number)]

    # -- what it says

    def result(self, row, case, key, samples, guard, peak, errors, wrong):
        mine, theirs, limit = samples
        label = f"{case.label} {key}"
        r = {"row": row.id, "case": label, "title": row.title, "threads": case.threads, "ranks": case.ranks or 1}
        if key in mine.number:
            r.update(value=statistics.median(mine.number[key]), best=min(mine.number[key]), unit="%", ceiling=None,
                     ratio=None, peer=None, over_peer=None)
        else:
            r.update(self.speed(row, key, mine, theirs, limit))
            if peak[1]:
                r.update(rss_GB=round(peak[0] / 1e9, 3), peer_rss_GB=round(peak[1] / 1e9, 3))
        r.update(guard, errors={k: e[0] for k, e in errors.items()})
        r.update(self.facts)
        r["min"], r["moon"], r["of"] = None, None, None
        bar = row.bar_of(label)
        if bar:
            r["of"], r["min"], r["moon"] = bar
        r["verdict"] = self.verdict(r, wrong)
        if r["verdict"] == "noisy":
            r.update(value=None, best=None, ratio=None, over_peer=None)
        return r

    @staticmethod
    def speed(row, key, mine, theirs, limit):
        """value, best, ceiling and peer in the row's unit; ratio and over_peer: how many times as fast, by medians."""
        scale, seconds = SCALE[row.unit], mine.seconds(key)
        middle, top = statistics.median(seconds), statistics.median(limit.seconds(key))
        _, work, count = mine.time[key][0]

        def shown(s):
            if row.unit in ("ms", "s"):
                return s / scale
            return (count if row.unit == "tok/s" else work) / s / scale

        r = {"value": shown(middle), "best": shown(min(seconds)), "unit": row.unit, "seconds": middle,
             "ceiling": shown(top), "ratio": top / middle, "peer": None, "over_peer": None}
        if theirs.seconds(key):
            other = statistics.median(theirs.seconds(key))
            r.update(peer=shown(other), peer_best=shown(min(theirs.seconds(key))), over_peer=other / middle)
        return r

    def verdict(self, r, wrong):
        if wrong:
            return "WRONG"
        if r["noisy"] and self.quiet:
            return "noisy"
        score = standing(r)
        if score is None:
            return "no peer" if r["of"] == "peer" else ""
        r["score"] = score
        word = "BELOW" if score < SLACK else "slack" if score < 1 else "ok"
        if r["of"] == "most":
            word = "moon" if r["value"] <= r["moon"] else word
        elif word == "ok" and measured(r) >= r["moon"]:
            word = "moon"
        return word if self.quiet else f"({word})"

    # -- rows

    def row(self, row):
        print(f"\n{row.id}  {row.title}", flush=True)
        results = []
        try:
            self.set_up(row)
            for case in row.cases:
                self.try_case(row, case, results)
        except Failed as e:
            results.append(broken(row, "setup", e))
        self.out[row.id] = headline(results)

    def set_up(self, row):
        """What a row needs on disk before its cases: one run of its program."""
        if not row.setup:
            return
        ranks, arguments = row.setup.split("|")
        case = Case("setup", arguments, {"np": ranks.strip()})
        done = subprocess.run(self.command(row.name, case.arguments, case.ranks), env=self.environment(case),
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            raise Failed(f"exit {done.returncode}: {done.stderr.strip()[-300:]}")

    def try_case(self, row, case, results):
        try:
            for r in self.case(row, case):
                results.append(r)
                show(r)
                self.keep(r)
        except Failed as e:
            results.append(broken(row, case.label, e))
        except Noisy as e:
            results.append(broken(row, case.label, e, "noisy"))

    def keep(self, r):
        with open(f"{self.build}/bench.jsonl", "a") as f:
            f.write(json.dumps(r) + "\n")

    def close(self):
        self.probe.close()
        shutil.rmtree(self.dir, ignore_errors=True)
        path = f"{self.build}/bench.json"
        try:
            kept = json.load(open(path))
        except (OSError, ValueError):
            kept = {}
        for row, latest in self.out.items():
            cases = {**kept.get(row, {}).get("cases", {}), **latest["cases"]}
            kept[row] = headline(list(cases.values()))
        with open(path + ".tmp", "w") as f:
            json.dump(kept, f, indent=1)
            f.write("\n")
        os.rename(path + ".tmp", path)


def measured(r):
    return {"ceiling": r["ratio"], "peer": r["over_peer"], "most": r["value"]}[r["of"]]


def standing(r):
    """How a result stands to its min: 1 just meets it. None where there is no bar, or nothing to compare with."""
    if not r["of"] or measured(r) is None:
        return None
    return r["min"] / max(r["value"], 1e-9) if r["of"] == "most" else measured(r) / r["min"]


def broken(row, label, why, verdict="WRONG"):
    print(f"  {label}: {why}", flush=True)
    return {"row": row.id, "case": label, "verdict": verdict, "failed": str(why)}


def headline(results):
    """A row in bench.json: its weakest result, and all of them by name."""
    order = {"WRONG": 0, "noisy": 1}
    worst = min(results, key=lambda r: (order.get(r["verdict"], 2), r.get("score", 1e9)))
    return {**worst, "cases": {r["case"]: r for r in results}}


# ---- the table ----------------------------------------------------------------------------------------------------------

def number(x):
    return "-" if x is None else f"{x:.3g}" if abs(x) < 100 else f"{x:.0f}"


HEAD = f"  {'':30} {'median':>8} {'best':>8} {'unit':6} {'ceiling':>8} {'ratio':>6} {'peer':>8} {'x peer':>7}  " \
       f"{'min':>13} {'moon':>5}  {'n':>2} {'for.':>5} {'drift':>5}  {'RSS':>10}  {'error':>8}  verdict"


def show(r):
    bar = "-" if r["min"] is None else f"{r['of']} {r['min']:g}"
    rss = f"{r['rss_GB']:.1f}/{r['peer_rss_GB']:.1f}" if "rss_GB" in r else ""
    error = max(r["errors"].values(), default=0.0)
    print(f"  {r['case']:30} {number(r['value']):>8} {number(r['best']):>8} {r['unit']:6} {number(r['ceiling']):>8} "
          f"{number(r['ratio']):>6} {number(r['peer']):>8} {number(r['over_peer']):>7}  {bar:>13} {number(r['moon']):>5}  "
          f"{r['repeats']:>2} {100 * r['foreign']:4.1f}% {100 * r['drift']:+4.1f}%  {rss:>10}  {error:8.1e}  {r['verdict']}",
          flush=True)


def say_conditions(b):
    print(f"{b.facts['machine']}, commit {b.facts['commit']}, {b.facts['date']}, seed {b.seed}")
    print(f"FMA {b.probe.best('fma 1', times=25) / 1e9:.0f} and {b.probe.best(f'fma {CORES}', times=25) / 1e9:.0f} GF/s on 1 and {CORES} cores, "
          f"copy {b.probe.best(f'copy {CORES}') / 1e9:.1f} GB/s, clock {b.probe.ask('clock') / 1e9:.2f} GHz")
    dropped = sorted(k for k in os.environ if k.startswith("OPENBLAS_"))
    if dropped:
        print(f"not handed on to anyone: {', '.join(dropped)}")
    print(f"peers: {b.peers if os.access(b.python(), os.X_OK) else 'not installed (make peers)'}")
    if not b.quiet:
        print("BENCH_QUIET=0: NOT GUARDED. These numbers are for development and must not be reported.")
    print(HEAD)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build")
    p.add_argument("--peers", default="build/peers")
    p.add_argument("--dir", default="build", help="where rows about storage write; on the disk that is measured")
    p.add_argument("--cases", default="*", help="only those whose label matches, like 'Qwen3-8B*'; other results are kept")
    p.add_argument("--list", action="store_true")
    p.add_argument("rows", nargs="*")
    args = p.parse_args()
    rows = sorted((Row(f) for f in glob.glob(f"{HERE}/row_*.c") + glob.glob(f"{HERE}/row_*.py")),
                  key=lambda r: (r.id[0], int(r.id[1:])))
    unknown = set(args.rows) - {r.id for r in rows} - {r.name[4:] for r in rows}
    if unknown:
        sys.exit(f"no such row: {', '.join(sorted(unknown))}; there are: {', '.join(r.id for r in rows)}")
    if args.rows:
        rows = [r for r in rows if r.id in args.rows or r.name[4:] in args.rows]
    for r in rows:
        r.cases = [c for c in r.cases if fnmatch.fnmatchcase(c.label, args.cases)]
    rows = [r for r in rows if r.cases]
    if args.list:
        for r in rows:
            print(f"{r.id:4} {r.name[4:]:12} {len(r.cases):2} cases  {r.title}")
        return 0
    b = Bench(args)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    start = time.monotonic()
    try:
        say_conditions(b)
        for r in rows:
            b.row(r)
    finally:
        b.close()
    verdicts = [r["verdict"] for row in b.out.values() for r in row["cases"].values()]
    print(f"\n{len(verdicts)} results in {time.monotonic() - start:.0f} s: " +
          ", ".join(f"{verdicts.count(v)} {v or 'without a bar'}" for v in sorted(set(verdicts))))
    return 1 if {"WRONG", "BELOW"} & set(verdicts) else 75 if "noisy" in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
