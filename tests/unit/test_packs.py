import hashlib
import importlib
import multiprocessing
import os
import sys
from pathlib import Path
from signal import SIGKILL
from typing import Any

import pytest
from onnx.helper import make_node

from app.core.errors import BadModelPack
from app.packs.__main__ import main
from app.packs.insightface import describe_directory, download_pack
from app.packs.manifest import MtcnnConfig, read_manifest
from app.packs.store import MOVED_BUILDERS, PackStore
from tests.toy_pack import onnx_graph, toy_manifest

CONTENT = {"detector.onnx": b"the detector", "embedder.onnx": b"the embedder"}
SHA = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}
PATIENCE_S = 60


def write_manifest(models: Path, name: str = "toy", **changes: Any) -> Path:
    """A manifest of the two files of CONTENT, whose weights lie beside it unless told otherwise."""
    fields = {"source": 'kind = "directory"\npath = "toy"', "commercial_use": "true", "files": SHA, **changes}
    files = "\n".join(f'"{file}" = "{sha}"' for file, sha in fields["files"].items())
    path = models / f"{name}.toml"
    path.write_text(
        f'name = "{name}"\nlicence = "for tests"\ncommercial_use = {fields["commercial_use"]}\n'
        f"similarity_threshold = 0.5\n[files]\n{files}\n"
        '[detector]\nkind = "scrfd"\nfile = "detector.onnx"\n[embedder]\nfile = "embedder.onnx"\ndimension = 128\n'
        f"[source]\n{fields['source']}\n",
        "utf-8",
    )
    return path


def write_weights(folder: Path, **changes: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in {**CONTENT, **changes}.items():
        (folder / name).write_bytes(data)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `toy_builder` that writes CONTENT; it notes each build in the file that is returned."""
    log = tmp_path / "builds"
    (tmp_path / "toy_builder.py").write_text(
        f"import time\ndef build(target):\n"
        f"    with open({str(log)!r}, 'a') as log: log.write('built\\n')\n"
        f"    time.sleep(0.3)\n"
        f"    for name, data in {CONTENT!r}.items(): (target / name).write_bytes(data)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toy_builder", raising=False)
    return log


BUILT = 'kind = "built"\npath = "toy_builder"'


def test_a_pack_is_found_by_its_name_in_the_models_folder(models: Path) -> None:
    write_manifest(models)
    write_weights(models / "toy")
    installed = PackStore(models).install("toy")
    assert installed.manifest.name == "toy"
    assert (installed.weights / "detector.onnx").read_bytes() == CONTENT["detector.onnx"]


def test_a_pack_is_found_by_its_manifests_path(models: Path, tmp_path: Path) -> None:
    write_weights(models / "toy")
    path = write_manifest(models)
    assert PackStore(tmp_path / "elsewhere").install(str(path)).weights == models / "toy"


def test_weights_may_lie_behind_a_link_whose_folder_is_made_when_they_come(
    models: Path, builder: Path, tmp_path: Path
) -> None:
    write_manifest(models, source=BUILT)
    (models / "toy").symlink_to(tmp_path / "volume" / "models" / "toy")
    PackStore(models).install("toy")
    assert (tmp_path / "volume" / "models" / "toy" / "detector.onnx").read_bytes() == CONTENT["detector.onnx"]


def install_and_die(models: Path) -> None:
    """What a process does that is killed while it installs a pack."""
    module = importlib.import_module("toy_builder")
    module.build = lambda target: ((target / "detector.onnx").write_bytes(b"half"), os.kill(os.getpid(), SIGKILL))
    PackStore(models).install("toy")


def test_what_a_killed_install_left_behind_is_removed_by_the_next(models: Path, builder: Path) -> None:
    write_manifest(models, source=BUILT)
    dying = multiprocessing.get_context("fork").Process(target=install_and_die, args=(models,))
    dying.start()
    dying.join(PATIENCE_S)
    assert dying.exitcode == -SIGKILL
    assert [file.name[:7] for file in (models / "toy").iterdir() if file.is_dir()] == [".fetch-"]
    installed = PackStore(models).install("toy")
    assert {file.name for file in installed.weights.iterdir()} == {*CONTENT, ".lock"}


def test_an_install_that_was_killed_at_its_very_end_leaves_nothing_either(models: Path, builder: Path) -> None:
    write_manifest(models, source=BUILT)
    write_weights(models / "toy")
    (models / "toy" / ".fetch-x").mkdir()
    (models / "toy" / ".fetch-x" / "spare").touch()
    installed = PackStore(models).install("toy")
    assert {file.name for file in installed.weights.iterdir()} == {*CONTENT, ".lock"}
    assert not builder.exists()


def test_an_unknown_pack_names_the_known_ones(models: Path) -> None:
    with pytest.raises(BadModelPack, match=r"no pack 'toy' .* \(known: none\)"):
        PackStore(models).install("toy")
    for name in ("b", "a"):
        write_manifest(models, name)
    with pytest.raises(BadModelPack, match=r"\(known: a, b\)"):
        PackStore(models).read("toy")


def test_reading_a_pack_needs_no_weights(models: Path) -> None:
    write_manifest(models)
    assert PackStore(models).read("toy").embedder.dimension == 128


def test_weights_that_differ_from_their_hash_are_refused(models: Path) -> None:
    write_manifest(models)
    write_weights(models / "toy", **{"embedder.onnx": b"tampered"})
    with pytest.raises(BadModelPack, match=rf"embedder\.onnx of the pack has sha256 .*, not {SHA['embedder.onnx']}"):
        PackStore(models).install("toy")


def test_missing_weights_of_a_directory_say_what_to_do(models: Path) -> None:
    write_manifest(models)
    with pytest.raises(BadModelPack, match=r"is missing; run `python -m app\.packs install toy`"):
        PackStore(models).install("toy")


def test_every_problem_of_a_manifest_is_listed(models: Path) -> None:
    path = models / "bad.toml"
    path.write_text(
        'name = "Bad Name"\ncommercial_use = true\nsimilarity_threshold = 1.5\ncolour = "red"\n[files]\n"a" = "12"\n'
        '[detector]\nkind = "yolo"\n[embedder]\nfile = "a"\n[source]\nkind = "web"\n'
    )
    with pytest.raises(BadModelPack) as caught:
        read_manifest(path)
    for problem in ("name", "licence", "similarity_threshold", "colour", "files.a", "detector", "dimension", "source"):
        assert problem in str(caught.value)


@pytest.mark.parametrize("text", ["name = ", None])
def test_a_manifest_that_cannot_be_read_is_a_bad_pack(models: Path, text: str | None) -> None:
    path = models / "bad.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadModelPack, match=r"bad\.toml can't be read"):
        read_manifest(path)


def test_the_model_id_changes_with_the_weights_and_not_with_their_order(models: Path) -> None:
    ids = [
        read_manifest(write_manifest(models, files=files)).model_id
        for files in (SHA, dict(reversed(SHA.items())), {**SHA, "embedder.onnx": "0" * 64})
    ]
    assert ids[0] == ids[1] != ids[2]
    assert ids[0].startswith("toy-")


def test_a_pack_under_a_new_name_keeps_the_model_id_of_its_former_one() -> None:
    """The files of the pack `open` of version 1, whose vectors are in stored galleries as open-91a6915a573c."""
    detector = {"kind": "mtcnn", "pnet": "pnet.onnx", "rnet": "rnet.onnx", "onet": "onet.onnx"}
    embedder = {"file": "dlib_face_recognition_resnet_v1.onnx", "dimension": 128}
    files = {
        "pnet.onnx": "bfaab9b2810d60339107606730d4d6e464809a71662890cf9a56e15b9b11147d",
        "rnet.onnx": "4dd5ed99eddfdab31c29f0f2a162964643ede9ae21ab6863578e0331cf61ab36",
        "onet.onnx": "61a8165bec4f9f68fff4037dbd3f443c5a66e20fa07997b4e07d933c918f645f",
        "dlib_face_recognition_resnet_v1.onnx": "cf73c4b573b1ab5690f64f554b3a2d7d3b9fe5fd3c7f596fb9fd6d915a5ffeda",
    }
    pack = {"files": files, "detector": detector, "embedder": embedder}
    assert toy_manifest(name="open", **pack).model_id == "open-91a6915a573c"
    assert toy_manifest(name="open-1", id_name="open", **pack).model_id == "open-91a6915a573c"
    assert toy_manifest(name="open-1", **pack).model_id == "open-1-91a6915a573c"
    assert read_manifest(Path(__file__).parents[2] / "models" / "open-1.toml").model_id == "open-91a6915a573c"


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "models").glob("*.toml")), ids=lambda path: path.stem
)
def test_the_manifests_that_come_with_this_system_are_valid_and_complete(path: Path) -> None:
    manifest = read_manifest(path)
    detector = manifest.detector
    names = (detector.pnet, detector.rnet, detector.onet) if isinstance(detector, MtcnnConfig) else (detector.file,)
    assert {*names, manifest.embedder.file} <= set(manifest.files)
    assert manifest.name == path.stem


def test_missing_weights_are_built_once_and_then_found(models: Path, builder: Path) -> None:
    write_manifest(models, source=BUILT)
    for _ in range(2):
        installed = PackStore(models).install("toy")
    assert builder.read_text() == "built\n"
    assert {name: (installed.weights / name).read_bytes() for name in CONTENT} == CONTENT


def test_a_lost_file_is_built_again(models: Path, builder: Path) -> None:
    write_manifest(models, source=BUILT)
    weights = PackStore(models).install("toy").weights
    (weights / "embedder.onnx").unlink()
    PackStore(models).install("toy")
    assert (weights / "embedder.onnx").read_bytes() == CONTENT["embedder.onnx"]


@pytest.mark.parametrize(
    "failure", ["raise OSError('disk full')", "(target / 'embedder.onnx').write_bytes(b'half')", "pass"]
)
def test_a_build_that_fails_leaves_nothing(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    (tmp_path / "toy_builder.py").write_text(
        f"def build(target):\n    (target / 'detector.onnx').write_bytes(b'the detector')\n    {failure}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toy_builder", raising=False)
    write_manifest(models, source=BUILT)
    with pytest.raises((BadModelPack, OSError)):
        PackStore(models).install("toy")
    assert [entry.name for entry in (models / "toy").iterdir() if entry.name != ".lock"] == []


def _install(models: str, results: "multiprocessing.Queue[str]") -> None:
    try:
        results.put(str(PackStore(Path(models)).install("toy").weights))
    except Exception as error:  # noqa: BLE001 - handed to the test
        results.put(repr(error))


def test_two_processes_that_install_at_once_build_once(models: Path, builder: Path) -> None:
    write_manifest(models, source=BUILT)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_install, args=(str(models), results)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=PATIENCE_S) for _ in processes]
    for process in processes:
        process.join(PATIENCE_S)
    results.close()
    results.join_thread()
    assert found == [str(models / "toy")] * 2
    assert builder.read_text() == "built\n"


def test_research_weights_are_fetched_only_where_their_licence_is_accepted(models: Path, builder: Path) -> None:
    write_manifest(models, source=BUILT, commercial_use="false")
    with pytest.raises(BadModelPack, match=r"licensed as “for tests”\. Set ACCEPT_RESEARCH_LICENCE=true"):
        PackStore(models).install("toy")
    assert not builder.exists()
    assert PackStore(models, accept_research_licence=True).install("toy").manifest.commercial_use is False


def test_research_weights_that_somebody_put_there_need_no_further_word(models: Path) -> None:
    write_manifest(models, commercial_use="false")
    write_weights(models / "toy")
    assert PackStore(models).install("toy").weights == models / "toy"


@pytest.mark.parametrize("source", ['kind = "s3"\npath = "s3://ours/packs/"', BUILT])
def test_weights_come_from_the_bucket_that_is_set_before_the_packs_own_source(
    models: Path, builder: Path, source: str
) -> None:
    asked: list[str] = []

    def download(url: str, target: Path) -> None:
        asked.append(url)
        target.write_bytes(CONTENT[target.name])

    write_manifest(models, source=source)
    PackStore(models, model_source="s3://mirror/some/prefix/", download=download).install("toy")
    assert asked == [f"s3://mirror/some/prefix/toy/{name}" for name in CONTENT]
    assert not builder.exists()


def test_weights_come_from_the_bucket_that_the_manifest_names(models: Path) -> None:
    def download(url: str, target: Path) -> None:
        assert url == f"s3://ours/packs/toy/{target.name}"
        target.write_bytes(CONTENT[target.name])

    write_manifest(models, source='kind = "s3"\npath = "s3://ours/packs"')
    assert PackStore(models, download=download).install("toy").weights == models / "toy"


def test_a_wrong_file_in_the_bucket_is_never_put_in_place(models: Path) -> None:
    write_manifest(models, source='kind = "s3"\npath = "s3://ours/packs"')
    store = PackStore(models, download=lambda _, target: target.write_bytes(b"something else"))
    with pytest.raises(BadModelPack, match="sha256"):
        store.install("toy")
    assert not (models / "toy" / "detector.onnx").exists()


def test_a_pack_on_s3_without_a_way_there_is_refused(models: Path) -> None:
    write_manifest(models, source='kind = "s3"\npath = "s3://ours/packs"')
    with pytest.raises(BadModelPack, match=r"lies on S3 at s3://ours/packs, which can't be reached"):
        PackStore(models).install("toy")


@pytest.mark.parametrize("folder", ["", "toy/"])
def test_an_insightface_pack_is_fetched_by_insightface_itself(
    models: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    def download(kind: str, name: str, root: str) -> None:
        write_weights(Path(root) / kind / name / folder)

    monkeypatch.setattr("insightface.utils.storage.download", download)
    write_manifest(models, source='kind = "insightface"')
    weights = PackStore(models).install("toy").weights
    assert sorted(entry.name for entry in weights.iterdir()) == [".lock", *sorted(CONTENT)]


def test_what_insightface_cannot_fetch_is_a_bad_pack(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no such release")

    target = models / "aside"
    target.mkdir()
    monkeypatch.setattr("insightface.utils.storage.download", fail)
    with pytest.raises(BadModelPack, match="could not fetch the pack toy: no such release"):
        download_pack("toy", list(CONTENT), target)
    monkeypatch.setattr("insightface.utils.storage.download", lambda *_, **__: None)
    with pytest.raises(BadModelPack, match=r"toy has no file detector\.onnx"):
        download_pack("toy", list(CONTENT), target)
    assert [entry.name for entry in models.iterdir()] == ["aside"]


def test_a_directory_of_insightface_files_is_described(shared_dir: Path) -> None:
    manifest = describe_directory(shared_dir / "models")
    assert manifest.name == "models"
    assert manifest.detector.file == "scrfd_2.5g_bnkps.onnx"
    assert (manifest.embedder.file, manifest.embedder.dimension) == ("mobilefacenet_128.onnx", 128)
    assert (manifest.embedder.input_size_px, manifest.embedder.scale) == (112, 127.5)
    assert PackStore(Path("nowhere")).install(str(shared_dir / "models")).weights == (shared_dir / "models").resolve()


def test_a_directory_without_a_detector_or_embedder_is_no_pack(tmp_path: Path) -> None:
    with pytest.raises(BadModelPack, match="needs an SCRFD detector and an ArcFace embedder"):
        describe_directory(tmp_path)
    graph = onnx_graph([make_node("Identity", ["image"], ["out"])], {}, [1, 3, 8, 8])
    (tmp_path / "other.onnx").write_bytes(graph)
    with pytest.raises(BadModelPack, match="needs an SCRFD detector and an ArcFace embedder"):
        describe_directory(tmp_path)


def test_the_command_lists_packs_with_what_they_may_be_used_for(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest(models, "one")
    write_manifest(models, "two", commercial_use="false")
    assert main(["--models-dir", str(models), "list"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["one", "commercial", "use", "for", "tests"], ["two", "research", "only", "for", "tests"]]


def test_the_command_installs_and_says_where(models: Path, builder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_manifest(models, source=BUILT, commercial_use="false")
    assert main(["--models-dir", str(models), "install", "toy"]) == BadModelPack.exit_code
    assert "ACCEPT_RESEARCH_LICENCE" in capsys.readouterr().err
    assert main(["--models-dir", str(models), "install", "toy", "--accept-research-licence"]) == 0
    assert f"in {models / 'toy'}" in capsys.readouterr().out


def test_the_command_describes_a_directory_as_json_or_says_why_not(
    shared_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["describe", str(shared_dir / "models")]) == 0
    assert '"file": "mobilefacenet_128.onnx"' in capsys.readouterr().out
    assert main(["describe", str(tmp_path)]) == BadModelPack.exit_code
    assert "holds no InsightFace pack" in capsys.readouterr().err


def test_the_command_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["delete"])
    assert caught.value.code == 2
    assert "invalid choice: 'delete'" in capsys.readouterr().err


def test_a_file_that_is_used_but_has_no_hash_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[files\] lacks the hash of embedder\.onnx"):
        toy_manifest(files={"detector.onnx": "0" * 64})


def test_a_complete_pack_in_a_read_only_folder_is_used_as_it_is(models: Path, builder: Path) -> None:
    write_manifest(models, source=BUILT)
    store = PackStore(models)
    store.install("toy")
    lock = models / "toy" / ".lock"
    lock.unlink(missing_ok=True)
    store.install("toy")
    assert not lock.exists(), "it wrote where nothing was to be written"


def test_weights_that_cannot_be_written_are_a_bad_pack_that_says_what_to_do(models: Path) -> None:
    write_manifest(models, source=BUILT)
    (models / "toy").write_text("a file where the folder should be", "utf-8")
    with pytest.raises(BadModelPack, match="Mount a writable folder there"):
        PackStore(models).install("toy")


@pytest.mark.parametrize("command", ["optimise", "calibrate"])
def test_a_command_that_has_moved_names_the_new_one(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "open", "--images", "somewhere"]) == 2
    assert capsys.readouterr().err.count(f"python -m workshop {command}") == 1


def test_a_manifest_that_names_the_builder_where_it_once_lay_is_built() -> None:
    assert [importlib.import_module(module).build for module in MOVED_BUILDERS.values()]
    assert (
        MOVED_BUILDERS["app.packs.build_open"]
        == read_manifest(Path(__file__).parents[2] / "models" / "open-1.toml").source.path
    )
