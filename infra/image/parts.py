"""docker build -f infra/Dockerfile . runs this: a lock in parts that change apart, each a layer of the image.

    python3 parts.py LOCK CHOSEN FOLDER

CHOSEN is what ``uv pip install --dry-run`` says that it would install. Writes FOLDER/nvidia.txt, torch.txt and
others.txt. Ends with 1 where a package is chosen that the lock does not have in this version.
"""

import re
import sys
from pathlib import Path

PARTS = {"nvidia": r"(nvidia|cuda)-", "torch": r"(torch|torchvision|triton)==", "others": ""}


def split(lock: str, chosen: str) -> dict[str, str]:
    """The text of each part, in the lock's order. Raises SystemExit."""
    wanted = set(re.findall(r"(?m)^ \+ (\S+==\S+)$", chosen))
    blocks = {re.match(r"\S+", block)[0]: block for block in re.findall(r"(?m)^\w.*\n(?: .*\n)*", lock)}
    if not wanted or not wanted <= blocks.keys():
        raise SystemExit(f"not in the lock: {', '.join(sorted(wanted - blocks.keys())) or chosen}")
    parts = dict.fromkeys(PARTS, "")
    for name, block in blocks.items():
        if name in wanted:
            parts[next(part for part, pattern in PARTS.items() if re.match(pattern, name))] += block
    return parts


def main() -> None:
    """Read, split, write."""
    lock, chosen, folder = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in split(lock.read_text(), chosen.read_text()).items():
        (folder / f"{name}.txt").write_text(text)


if __name__ == "__main__":
    main()
