"""Takes over what fuzzers have found, as much as is worth its bytes: tests/fuzz/keep.py TARGET...

The targets are built already. Of each target's inputs (kept ones, and those of runs) it keeps those that
reach the most new code for their size, up to BUDGET bytes and MOST files. Files with a name in words stay: somebody meant them.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

BUDGET, MOST = 8_000, 80
FUZZ = pathlib.Path(__file__).parent
FOUND = re.compile(r"[0-9a-f]{40}")


def reached(program, folders):
    """What code each input reaches, by libFuzzer's own account."""
    with tempfile.TemporaryDirectory() as folder:
        control = pathlib.Path(folder, "control")
        out = pathlib.Path(folder, "out")
        out.mkdir()
        command = [program, "-merge=1", f"-merge_control_file={control}", out, *folders]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        lines = control.read_text().splitlines()
    count = int(lines[0])
    files = [pathlib.Path(line) for line in lines[2 : 2 + count]]
    edges = {}
    for line in lines[2 + count :]:
        kind, number, *rest = line.split()
        if kind == "COV":
            edges[files[int(number)]] = set(map(int, rest))
    # An edge is told of once, at the first input that reaches it; inputs come by size.
    return edges


def keep(program, name):
    corpus, run = FUZZ / "corpus" / name, FUZZ / "targets/target/fuzz" / name
    edges = reached(program, [folder for folder in (corpus, run) if folder.is_dir()])
    kept = {file for file in corpus.iterdir() if not FOUND.fullmatch(file.name)}
    used = found = 0
    contents = {file: file.read_bytes() for file in edges}
    for file in sorted(edges, key=lambda f: len(edges[f]) / (len(contents[f]) + 256), reverse=True):
        size = len(contents[file])
        if file not in kept and edges[file] and used + size <= BUDGET and found < MOST:
            kept.add(file)
            used, found = used + size, found + 1
    for file in corpus.iterdir():
        if file not in kept:
            file.unlink()
    for file in kept:
        if file.parent != corpus:
            (corpus / file.name).write_bytes(contents[file])
    print(f"{name}: {found} of {len(edges)} inputs, {used} bytes, and {len(kept) - found} with names")


if __name__ == "__main__":
    for target in sys.argv[1:]:
        built = sorted(FUZZ.glob(f"targets/target/*/release/{target}"))
        if not built:
            sys.exit(f"keep.py: {target} is not built; run `make fuzz TARGETS={target}` first")
        keep(built[0], target)
