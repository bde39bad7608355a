"""Running lacuna from a check, and keeping score."""
import json
import subprocess


class Failed(Exception):
    pass


class Lacuna:
    """The program; every call is with --json."""

    def __init__(self, path):
        self.path = path

    def lines(self, *argv):
        """-> the JSON objects that it printed"""
        argv = [str(a) for a in argv]
        r = subprocess.run([self.path, *argv, "--json"], capture_output=True, text=True)
        if r.returncode != 0:
            raise Failed(f"lacuna {' '.join(argv)}: exit {r.returncode}: {r.stderr.strip()}")
        try:
            return [json.loads(line) for line in r.stdout.splitlines() if line.strip()]
        except json.JSONDecodeError as e:
            raise Failed(f"lacuna {' '.join(argv)}: stdout is not JSON: {e}") from e

    def json(self, *argv):
        out = self.lines(*argv)
        if not out:
            raise Failed(f"lacuna {' '.join(map(str, argv))}: nothing on stdout")
        return out[-1]

    def logits(self, model, ids, out, *more):
        """-> logits [T, V] as written to out, the JSON object"""
        from safetensors.numpy import load_file
        r = self.json("logits", "-m", model, "--ids", comma(ids), "-o", out, *more)
        return load_file(out)["logits"], r


def comma(ids):
    return ",".join(map(str, ids))


class Score:
    """Prints a line a check; the worst figure of a group in one line."""

    def __init__(self, verbose=False):
        self.bad, self.checks, self.verbose = 0, 0, verbose

    def limit(self, what, value, limit):
        self.checks += 1
        ok = value <= limit  # false for NaN
        self.bad += not ok
        print(f"{'ok  ' if ok else 'FAIL'} {what}: {value:.3g} (limit {limit:g})", flush=True)
        return ok

    def true(self, what, ok, detail=""):
        self.checks += 1
        self.bad += not ok
        print(f"{'ok  ' if ok else 'FAIL'} {what}{': ' + detail if detail else ''}", flush=True)
        return ok

    def attempt(self, what, f, *args):
        """Runs a check; a failure of lacuna is a bad mark, not the end."""
        try:
            return f(*args)
        except Failed as e:
            self.true(what, False, str(e))
            return None

    def done(self):
        print(f"{self.checks - self.bad} of {self.checks} checks hold")
        return 1 if self.bad else 0
