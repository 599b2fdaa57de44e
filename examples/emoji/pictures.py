"""The pictures and their prompts: two open sets of emoji, rendered at 64 x 64 on white.

Pictures: `@iconify-json/noto` (Google's Noto Emoji, Apache-2.0) and `@iconify-json/fluent-emoji-flat` (Microsoft's
Fluent Emoji, MIT). Names and groups: `emojibase-data` (MIT). Flags and variants of skin tone are left out. npm fetches
the packages.
"""

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
import torch
from PIL import Image
from torch import Tensor

__all__ = ["GROUPS", "SIDE", "Pictures", "load_pictures"]

STYLES = {"noto": "@iconify-json/noto@1.2.9", "flat": "@iconify-json/fluent-emoji-flat@1.2.6"}
NAMES = "emojibase-data@17.0.0"
GROUPS = {0: "smileys", 1: "people", 3: "animals", 4: "food", 5: "travel", 6: "activities", 7: "objects", 8: "symbols"}
SIDE = 64


@dataclass(frozen=True)
class Pictures:
    """Attributes:
    images: `[N, 3, 64, 64]` uint8.
    prompts: `flat red apple`: a style and a name.
    groups: Indices into `GROUPS`' values `[N]`.
    """

    images: Tensor
    prompts: list[str]
    groups: Tensor

    def floats(self, index: Tensor) -> Tensor:
        """Some of the images, in [-1, 1]."""
        return self.images[index].float() / 127.5 - 1


def load_pictures(folder: Path) -> Pictures:
    """The pictures, rendered once and kept in `folder`."""
    path = folder / "pictures.pt"
    if not path.exists():
        found = list(_pictures(folder))
        images = torch.from_numpy(np.stack([image for image, _, _ in found])).permute(0, 3, 1, 2).contiguous()
        kept = {
            "images": images,
            "prompts": [prompt for _, prompt, _ in found],
            "groups": [group for *_, group in found],
        }
        torch.save(kept, path)
    kept = torch.load(path)
    return Pictures(kept["images"], kept["prompts"], torch.tensor(kept["groups"]))


def _pictures(folder: Path) -> Iterator[tuple[np.ndarray, str, int]]:
    names = json.loads(_read(folder, NAMES, "en/data.json"))
    groups = list(GROUPS)
    for style, package in STYLES.items():
        icons = json.loads(_read(folder, package, "icons.json"))
        known = json.loads(_read(folder, package, "chars.json"))
        for each in names:
            code = each["hexcode"].lower()
            icon = known.get(code) or known.get(code.replace("-fe0f", ""))
            if each.get("group") in GROUPS and icon in icons["icons"]:
                prompt = f"{style} {each['label'].replace(':', '').replace(',', '').lower()}"
                yield _render(icons, icon), prompt, groups.index(each["group"])


def _render(icons: dict, name: str) -> np.ndarray:
    """`[64, 64, 3]`, smoothed from four times the size."""
    icon = icons["icons"][name]
    sizes = [icon.get(key, icons[key]) for key in ("width", "height")]
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {sizes[0]} {sizes[1]}">{icon["body"]}</svg>'
    png = resvg_py.svg_to_bytes(
        svg_string=svg, background="#ffffff", width=4 * SIDE, height=4 * SIDE, skip_system_fonts=True
    )
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _read(folder: Path, package: str, name: str) -> bytes:
    path = folder / f"{package.lstrip('@').replace('/', '-').replace('@', '-')}.tgz"
    if not path.exists():
        subprocess.run(["npm", "pack", package, "--pack-destination", str(folder)], check=True, timeout=300)
    with tarfile.open(path) as archive:
        member = archive.extractfile(f"package/{name}")
        if member is None:
            raise SystemExit(f"{path} has no {name}")
        return member.read()
