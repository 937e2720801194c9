"""The documents are true where a machine can tell: links and anchors resolve, and blocks marked ``run`` run.

A block whose info string is ``python run`` or ``sh run`` is run from the project's folder (``sh`` by bash, ending at
the first command that fails); what it leaves running is ended with it. One that says ``file=PATH`` shows that file of
the project, whole.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 60.0

FENCE = re.compile(r"^ {0,3}(`{3,}(?=[^`]*$)|~{3,})\s*(.*?)\s*$")
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.*?)\s*#*\s*$")
LINK = re.compile(r"!?\[(?:[^\]\[]|\[[^\]]*\])*\]\(\s*<?([^)>\s]+)>?(?:\s+\"[^\"]*\")?\s*\)")
REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s+(\S+)")
ANCHOR = re.compile(r"<a\s+(?:id|name)=[\"']([^\"']+)[\"']")
INLINE_CODE = re.compile(r"(`+)(?!`).*?(?<!`)\1(?!`)")
RUNNERS = {"python run": [sys.executable, "-"], "sh run": ["bash", "-euo", "pipefail", "-s"]}


@dataclass
class Block:
    line: int
    info: str
    text: str


@dataclass
class Document:
    path: Path
    prose: list[tuple[int, str]]  # numbered lines outside of code blocks
    blocks: list[Block]

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))


def documents() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def parse(path: Path) -> Document:
    document = Document(path, [], [])
    fence, block = "", Block(0, "", "")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        match = FENCE.match(line)
        if fence:
            if match and match[1].startswith(fence) and not match[2]:
                fence = ""
                document.blocks.append(block)
            else:
                block.text += line + "\n"
        elif match:
            fence, block = match[1], Block(number, match[2], "")
        else:
            document.prose.append((number, line))
    if fence:
        raise SystemExit(f"{document.name}:{block.line}: the code block is not closed")
    return document


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(document: Document) -> set[str]:
    found: set[str] = set()
    for _, line in document.prose:
        found.update(ANCHOR.findall(line))
        if match := HEADING.match(line):
            name, copies = slug(match[1]), 0
            while (unique := f"{name}-{copies}" if copies else name) in found:
                copies += 1
            found.add(unique)
    return found


def links(document: Document) -> Iterator[tuple[int, str]]:
    for number, line in document.prose:
        line = INLINE_CODE.sub("", line)
        for match in LINK.finditer(line):
            yield number, match[1]
        if reference := REFERENCE.match(line):
            yield number, reference[1]


def check_link(document: Document, target: str, known: dict[Path, Document]) -> str | None:
    """What is wrong with a link, or None. Addresses on the web are not looked up."""
    if re.match(r"[a-z][a-z0-9+.-]*:", target):
        return None
    name, _, fragment = target.partition("#")
    path = (document.path.parent / unquote(name)).resolve() if name else document.path
    if not path.exists():
        return f"{name} does not exist"
    if not path.is_relative_to(ROOT):
        return f"{name} lies outside of the project"
    if fragment and path in known and fragment not in anchors(known[path]):
        return f"{path.relative_to(ROOT)} has no anchor #{fragment}"
    return None


def run_block(block: Block) -> str | None:
    """Run one marked block. What it printed, if it failed; else None."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            RUNNERS[block.info],
            cwd=ROOT,
            env={**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            process.communicate(block.text, timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            pass
        finally:
            end_group(process.pid)
        if process.wait() == 0:
            return None
        output.seek(0)
        return f"ended with {process.returncode}\n{output.read()}"


def check_copy(block: Block) -> str | None:
    """What is wrong with a block that shows a file, or None."""
    for word in block.info.split()[1:]:
        name = word.removeprefix("file=")
        if name != word and not ((ROOT / name).is_file() and (ROOT / name).read_text(encoding="utf-8") == block.text):
            return f"the block is not what stands in {name}"
    return None


def end_group(group: int) -> None:
    """End what the block started, politely at first."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(group, sign)
        except ProcessLookupError:
            return
        time.sleep(0.5)


def main() -> int:
    known = {path: parse(path) for path in documents()}
    problems: list[str] = []
    ran = 0
    for document in known.values():
        for number, target in links(document):
            if problem := check_link(document, target, known):
                problems.append(f"{document.name}:{number}: {problem}")
        for block in document.blocks:
            if problem := check_copy(block):
                problems.append(f"{document.name}:{block.line}: {problem}")
            words = block.info.split()
            if "run" in words[1:] and block.info not in RUNNERS:
                problems.append(f"{document.name}:{block.line}: cannot run a block marked {block.info!r}")
            elif block.info in RUNNERS:
                print(f"{document.name}:{block.line}: {block.info}", flush=True)
                ran += 1
                if problem := run_block(block):
                    problems.append(f"{document.name}:{block.line}: the block {problem}")
    print("\n".join(problems) or f"{len(known)} documents hold, {ran} blocks ran")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
