"""The page is one file, whole or absent, the same for the same run, and says what is missing."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import synthetic_run
from safetensors.numpy import save_file
from synthetic_run import PARTS

from ptq_export.artifacts import write_json
from ptq_export.errors import InputError
from ptq_export.report import build_report

SECTIONS = {"latency", "samples", "fidelity", "layers", "parity", "calibration", "checkpoint", "reproduce"}
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Elements and attributes of a page; refuses elements that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page_of(run: Path) -> tuple[str, Page]:
    text = build_report(run).read_text(encoding="utf-8")
    return text, Page(text)


def test_page_is_self_contained_and_names_no_path_of_this_machine(run: Path) -> None:
    text, page = page_of(run)
    targets = [value for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "href")]
    assert len(targets) >= 24 + len(SECTIONS)
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in targets if value is not None)
    assert not re.search(r"https?:|file:|url\(|@import", text)
    assert str(run.parent) not in text
    assert {tag for tag, _ in page.elements}.isdisjoint({"link", "iframe", "object", "embed", "base"})


def test_page_has_every_section_and_an_anchor_to_it(run: Path) -> None:
    _, page = page_of(run)
    identifiers = {attributes.get("id") for tag, attributes in page.elements if tag == "section"}
    anchors = {attributes.get("href") for tag, attributes in page.elements if tag == "a"}
    assert identifiers == SECTIONS
    assert anchors == {f"#{name}" for name in SECTIONS}


def test_page_opens_with_the_verdict(run: Path) -> None:
    text, _ = page_of(run)
    heading = re.search(r"<h1>(.*?)</h1>", text)
    assert heading is not None
    expected = "int8 is 1.93× faster per step than ORT FP32 at 38.4\u00a0dB; 47 of 51 layers run int8; all proofs hold."
    assert heading[1] == expected
    assert text.index("✓ PASS") < text.index("<h1>") < text.index('<section id="latency">')


@pytest.mark.parametrize("part", PARTS)
def test_missing_part_is_said_and_the_rest_is_shown(run: Path, part: str) -> None:
    complete, _ = page_of(run)
    (run / f"{part}.json").unlink()
    text, _ = page_of(run)
    assert 'class="absent"' not in complete
    assert text.count('class="absent"') == {"manifest": 2}.get(part, 1)
    assert len(re.findall("<section id=", text)) == len(SECTIONS)


def test_a_single_file_is_enough_for_a_page(run: Path) -> None:
    for path in run.iterdir():
        if path.name != "layers.json":
            path.unlink()
    text, _ = page_of(run)
    assert "UNFINISHED" in text
    assert text.count('class="absent"') == 7


def test_optional_values_inside_a_part_may_be_absent(run: Path) -> None:
    fidelity = synthetic_run.fidelity() | {"fid": None}
    fidelity["curves"] = {"ort-int8": {"sqnr_db": [150.0] * 20, "step_error": [0.0] * 20}}
    write_json(run / "fidelity.json", fidelity)
    write_json(run / "latency.json", synthetic_run.latency() | {"loops": [], "size_bytes": {}, "peak_memory_bytes": {}})
    write_json(run / "parity.json", {"schema": 2, "local": [], "global": []})
    (run / "samples.safetensors").unlink()
    text, _ = page_of(run)
    assert "FID was not measured in this run." in text
    assert "∞" in text
    assert text.count('class="absent"') == 5


def test_markup_in_names_and_notes_is_shown_as_text(run: Path) -> None:
    hostile = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"
    manifest = synthetic_run.manifest()
    manifest["denoiser"] |= {"notes": [hostile], "spec": hostile}
    manifest["artefacts"][hostile] = {"sha256": "0", "size_bytes": 1}
    manifest |= {"command": hostile}
    write_json(run / "manifest.json", manifest)
    layers = [layer | {"reason": hostile} for layer in synthetic_run.layers()]
    write_json(run / "layers.json", {"schema": 2, "layers": layers})
    text, page = page_of(run)
    assert "&lt;script&gt;alert(" in text
    assert "alert('x')</script>" not in text
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert not any("onerror" in attributes for _, attributes in page.elements)


def test_policy_allows_exactly_the_script_of_the_page(run: Path) -> None:
    text, page = page_of(run)
    script = re.search(r"<script>(.*?)</script>", text, re.S)
    assert script is not None
    expected = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policies = [attributes["content"] or "" for tag, attributes in page.elements if "http-equiv" in attributes]
    assert len(policies) == 1
    assert "default-src 'none'" in policies[0]
    assert f"script-src 'sha256-{expected}'" in policies[0]


def test_random_weights_raise_a_banner(run: Path) -> None:
    before, _ = page_of(run)
    manifest = synthetic_run.manifest()
    manifest["denoiser"]["notes"] = ["weights are random: the images mean nothing"]
    write_json(run / "manifest.json", manifest)
    after, _ = page_of(run)
    assert 'class="banner"' not in before
    assert 'class="banner" role="alert"' in after


def test_same_run_gives_the_same_bytes(run: Path) -> None:
    first = build_report(run).read_bytes()
    assert build_report(run).read_bytes() == first


def test_failure_while_writing_keeps_the_old_page(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = build_report(run).read_bytes()
    before = sorted(run.iterdir())

    def half_written(path: Path, text: str, **_: str) -> int:
        path.write_bytes(text.encode()[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half_written)
    with pytest.raises(InputError, match="No space left"):
        build_report(run)
    assert (run / "report.html").read_bytes() == old
    assert sorted(run.iterdir()) == before


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        build_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_newer_schema_is_refused(run: Path) -> None:
    write_json(run / "latency.json", {"schema": 3})
    with pytest.raises(InputError, match=r"latency\.json has schema 3"):
        build_report(run)


def test_damaged_samples_are_named(run: Path) -> None:
    (run / "samples.safetensors").write_bytes(b"not tensors")
    with pytest.raises(InputError, match=r"samples\.safetensors cannot be read"):
        build_report(run)
    assert not (run / "report.html").exists()


def test_colour_samples_are_shown_in_colour(run: Path) -> None:
    image = np.zeros((2, 3, 32, 32), dtype=np.float32)
    save_file({"reference": image, "engine": image}, run / "samples.safetensors")
    text, page = page_of(run)
    sizes = [attributes["width"] for tag, attributes in page.elements if tag == "img"]
    assert sizes == ["96"] * 6
    assert "2 of 2 samples, 32 × 32 pixels" in text


def test_no_name_of_a_file_becomes_markup_or_hides_what_it_says(run: Path) -> None:
    evil = "\"'><img src=x onerror=alert(1)><script>alert(1)</script>{{ 7 * 7 }}$x$\x1b[2J\u202e\n"
    layers, manifest = (json.loads((run / f"{name}.json").read_text()) for name in ("layers", "manifest"))
    for layer in layers["layers"]:
        layer["name"] += evil
    manifest["denoiser"]["notes"] = [evil]
    for part in ("versions", "options"):
        manifest[part][evil] = evil
    manifest["command"] = manifest["denoiser"]["spec"] = evil
    write_json(run / "layers.json", layers)
    write_json(run / "manifest.json", manifest)
    before = Page(build_report(synthetic_run.write_run(run.parent / "plain")).read_text(encoding="utf-8"))
    text, page = page_of(run)
    assert [tag for tag, _ in page.elements].count("script") == [tag for tag, _ in before.elements].count("script") == 1
    assert not any(key.startswith("on") or value == "x" for _, found in page.elements for key, value in found.items())
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[2J\\u202e" in text


def test_figures_that_a_file_leaves_out_are_shown_as_absent_and_other_fields_are_named(run: Path) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    del next(iter(manifest["artefacts"].values()))["size_bytes"], manifest["denoiser"]["parameters"]
    write_json(run / "manifest.json", manifest)
    assert build_report(run).is_file()
    del manifest["denoiser"]["format"]
    write_json(run / "manifest.json", manifest)
    with pytest.raises(InputError, match="format"):
        build_report(run)
