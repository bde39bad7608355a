"""What the experiments share: finding program, model and data; runs that are kept and not repeated; tables.

Each experiment keeps its runs in WORK/results.json, under their names, with the command that made them: started again, it does only
what is missing or has a changed command. Only Python's own library is used, and the program through --json.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def arguments(about, seeds=3):
    name = os.path.splitext(os.path.basename(sys.argv[0]))[0]
    p = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--lacuna", default=os.path.join(ROOT, "build", "lacuna"), help="the program [build/lacuna]")
    p.add_argument("--work", default=os.path.join(ROOT, "build", "experiments", name), help="results and scratch files")
    p.add_argument("--seeds", type=int, default=seeds, help=f"runs of each kind [{seeds}]")
    return p


def data(*path):
    """-> a file of the data sets, or a sentence and exit 0 when they are not here"""
    top = os.environ.get("LACUNA_DATA") or os.path.join(ROOT, "..", "shared", "data")
    file = os.path.join(top, *path)
    if not os.path.exists(file):
        print(f"skipped: {file} is not here (LACUNA_DATA names the folder of the data sets)")
        sys.exit(0)
    return file


def smollm2(given):
    """-> SmolLM2-135M-Instruct's GGUF: the file given, else what scripts/deps.sh finds or fetches"""
    if given:
        return given
    where = os.path.join(ROOT, ".cache")
    r = subprocess.run(["bash", "-c", f'. scripts/deps.sh; lacuna_model "{where}"'], cwd=ROOT, capture_output=True, text=True)
    if r.returncode or not r.stdout.strip():
        sys.exit(f"SmolLM2-135M-Instruct was not found and could not be fetched: {r.stderr.strip()}")
    return r.stdout.strip().splitlines()[-1]


def use(model, out=None):
    """-> the flags that name a run's result: OUT itself where it is a whole model, an adapter on the base else; without OUT the base"""
    if not out:
        return ["-m", model]
    return ["-m", out] if os.path.exists(os.path.join(out, "config.json")) else ["-m", model, "-a", out]


def read_rows(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f if line.strip()]


def write_rows(path, rows):
    with open(path, "w", encoding="utf-8") as f:
        f.writelines(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
    return path


class Runs:
    """The program's runs of one experiment, by name."""

    def __init__(self, program, work):
        os.makedirs(work, exist_ok=True)
        self.program, self.work, self.file = program, work, os.path.join(work, "results.json")
        self.kept = {}
        if os.path.exists(self.file):
            with open(self.file, encoding="utf-8") as f:
                self.kept = json.load(f)

    def path(self, name):
        return os.path.join(self.work, name)

    def lines(self, *argv):
        """-> the JSON objects that one call prints"""
        argv = [self.program, *map(str, argv), "--json", "--quiet"]
        r = subprocess.run(argv, capture_output=True, text=True)
        if r.returncode:
            sys.exit(f"{' '.join(argv)}: exit {r.returncode}: {r.stderr.strip()}")
        return [json.loads(line) for line in r.stdout.splitlines() if line.strip()]

    def once(self, name, key, make):
        """-> make()'s result, or that of an earlier run of this name and an equal key (a list of strings)"""
        old = self.kept.get(name)
        if old and old["key"] == key:
            return old["result"]
        result = make()
        self.kept[name] = {"key": key, "result": result}
        with open(self.file + ".new", "w", encoding="utf-8") as f:
            json.dump(self.kept, f, indent=1)
        os.replace(self.file + ".new", self.file)
        return result

    def train(self, name, *argv, then=None, keep=False):
        """-> held-out loss before and after, the run's summary ("done"), and what then(directory) gives. The directory goes afterwards
        unless it is to be kept."""
        out = self.path(name)
        argv = ["train", *map(str, argv), "-o", out, "--overwrite"]

        def make():
            lines = self.lines(*argv)
            evals = [e for e in lines if e["event"] == "eval"]
            r = {"done": [e for e in lines if e["event"] == "done"][-1]}
            if evals:
                r.update(before=evals[0]["loss"], after=evals[-1]["loss"])
            if then:
                r.update(then(out))
            if not keep:
                shutil.rmtree(out, ignore_errors=True)
            return r

        if keep and not os.path.exists(out):
            self.kept.pop(name, None)
        r = self.once(name, argv, make)
        e = f"{r['before']:.4f} → {r['after']:.4f}, " if "before" in r else ""
        print(f"  {name}: {e}{r['done']['seconds']:.0f} s", flush=True)
        return r


def mean_sd(values):
    """-> mean and sample standard deviation"""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def table(head, rows):
    """Prints a Markdown table."""
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for r in rows:
        print("| " + " | ".join(str(c) for c in r) + " |")
    print(flush=True)


def verdict(name, ok, detail=""):
    print(f"{'held' if ok else 'DID NOT HOLD'}: {name}{': ' + detail if detail else ''}", flush=True)
    return ok
