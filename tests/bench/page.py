#!/usr/bin/env python3
"""What bench.json holds, as a page of Markdown on stdout: for docs/results/.

    tests/bench/page.py [build/bench.json]
"""
import json
import sys


def number(x):
    return "-" if x is None else f"{x:.3g}" if abs(x) < 100 else f"{x:.0f}"


def bar(r):
    if r.get("min") is None:
        return "-", "-"
    return f"{r['min']:g} {dict(ceiling='of ceiling', peer='x peer', most='% at most')[r['of']]}", f"{r['moon']:g}"


def line(r):
    if "failed" in r:
        return [r["case"], "-", "-", "-", "-", "-", "-", "-", f"{r['verdict']}: {r['failed']}"]
    value = f"{number(r['value'])} {r['unit']}" if r["value"] is not None else "-"
    return [r["case"], value, number(r["ceiling"]), number(r["ratio"]), number(r["peer"]), number(r["over_peer"]), *bar(r),
            r["verdict"] or "-"]


def table(rows):
    out = ["| case | median | ceiling | of it | peer | times the peer | min | moon | |", "|---|---:|---:|---:|---:|---:|---:|---:|---|"]
    return "\n".join(out + ["| " + " | ".join(r) + " |" for r in rows])


def conditions(results):
    """What all results have in common, and the commits and dates there are."""
    said = {key: sorted({str(r[key]) for r in results if r.get(key)}) for key in ("machine", "commit", "date", "peer_name", "fma")}
    fma = [float(x) for x in said["fma"]]
    return (f"{', '.join(said['machine'])}. Commit {', '.join(said['commit'])}; {said['date'][0]} to {said['date'][-1]}. Peers: "
            f"{'; '.join(p for p in said['peer_name'] if 'torch' in p) or 'none installed'}. FMA probe beside the cases: {min(fma):.0f} to {max(fma):.0f} GF/s on all cores.")


def main():
    kept = json.load(open(sys.argv[1] if len(sys.argv) > 1 else "build/bench.json"))
    print(conditions([r for row in kept.values() for r in row["cases"].values()]))
    for name in sorted(kept, key=lambda n: (n[0], int(n[1:]))):
        results = list(kept[name]["cases"].values())
        title = next((r["title"] for r in results if "title" in r), "")
        print(f"\n## {name} {title}\n\n{table([line(r) for r in results])}")


if __name__ == "__main__":
    main()
