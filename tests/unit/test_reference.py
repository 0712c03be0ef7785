import json
from pathlib import Path

import jsonschema
import pytest

from app import reference
from app.core.messages import DetectImage, GroupGallery


def test_the_reference_pages_are_up_to_date() -> None:
    assert reference.main(["--check"]) == 0, "run `make reference`"


def test_an_outdated_page_is_named_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reference, "DOCS", tmp_path)
    assert reference.main(["--check"]) == 1
    assert "docs/configuration.md is out of date" in capsys.readouterr().err
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("detect_image", DetectImage(gallery_id="g", image_id="i", s3_key="g/i.jpg")),
        ("group_gallery", GroupGallery(gallery_id="g")),
    ],
)
def test_a_message_fits_the_schema_in_the_docs(name: str, message: DetectImage | GroupGallery) -> None:
    schema = json.loads((reference.DOCS / "schemas" / f"{name}.schema.json").read_text("utf-8"))
    jsonschema.validate(json.loads(message.model_dump_json()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"type": name}, schema)
