from pathlib import Path

import pytest

from app.config import (
    RARELY,
    DetectionSettings,
    GroupingSettings,
    PhotoSettings,
    list_fields,
    load_settings,
    make_settings_page,
    read_setting,
)
from app.core.errors import BadConfiguration

REQUIRED = {
    "SERVICE_TYPE": "detection",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/1234/detection",
    "GROUP_FACE_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/1234/grouping",
    "BUCKET_NAME": "photos",
    "FACE_GROUP_BUCKET_NAME": "results",
    "GALLERY_IMAGES_MONGO_URI": "mongodb://worker:hunter2@db/gallery_images",
    "HUEMN_MONGO_URI": "mongodb+srv://worker:hunter3@db/huemn",
}


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment with the required settings and no other."""
    for name in list_fields():
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in REQUIRED.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def load_detection() -> DetectionSettings:
    settings = load_settings(service_type="detection")
    assert isinstance(settings, DetectionSettings)
    return settings


def load_grouping() -> GroupingSettings:
    settings = load_settings(service_type="grouping")
    assert isinstance(settings, GroupingSettings)
    return settings


def problems(env: pytest.MonkeyPatch, **changes: str) -> str:
    for name, value in changes.items():
        env.setenv(name, value)
    with pytest.raises(BadConfiguration) as caught:
        load_settings()
    return str(caught.value)


def test_the_required_settings_are_enough(env: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    assert settings.service_type == "detection"
    assert settings.stores.gallery_images_mongo_uri.get_secret_value() == REQUIRED["GALLERY_IMAGES_MONGO_URI"]


def test_what_is_not_set_has_a_default_fit_for_production(env: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    assert settings.process.worker_mode == "service"
    assert settings.messages.message_visibility_timeout == 120
    assert settings.models.model_pack == "open"
    assert settings.models.models_dir == Path("models")
    assert not settings.models.accept_research_licence
    assert settings.telemetry.log_group is None


FOR_BOTH = {"AWS_DEFAULT_REGION", "GROUP_FACE_QUEUE_URL", "FACE_GROUP_BUCKET_NAME", "GALLERY_IMAGES_MONGO_URI"}


@pytest.mark.parametrize(
    ("service", "demanded"),
    [("detection", REQUIRED.keys() - {"SERVICE_TYPE"}), ("grouping", FOR_BOTH)],
)
def test_every_missing_setting_is_named_at_once_and_none_that_the_service_does_not_read(
    env: pytest.MonkeyPatch, service: str, demanded: set[str]
) -> None:
    for name in REQUIRED:
        env.delenv(name)
    told = problems(env, SERVICE_TYPE=service)
    assert {line.split()[0] for line in told.splitlines()[1:]} == demanded
    assert told.count("is not set") == len(demanded)


def test_without_a_service_what_both_need_is_named_too(env: pytest.MonkeyPatch) -> None:
    for name in REQUIRED:
        env.delenv(name)
    told = problems(env)
    assert {line.split()[0] for line in told.splitlines()[1:]} == {"SERVICE_TYPE", *FOR_BOTH}


def test_the_grouping_service_starts_without_the_owners_database_and_the_photos(env: pytest.MonkeyPatch) -> None:
    for name in ("QUEUE_URL", "BUCKET_NAME", "HUEMN_MONGO_URI"):
        env.delenv(name)
    assert isinstance(load_settings(service_type="grouping"), GroupingSettings)


def test_a_command_that_needs_one_setting_demands_that_one(env: pytest.MonkeyPatch) -> None:
    for name in REQUIRED.keys() - {"QUEUE_URL", "GALLERY_IMAGES_MONGO_URI"}:
        env.delenv(name)
    assert read_setting("queue_url") == REQUIRED["QUEUE_URL"]
    assert read_setting("gallery_images_mongo_uri") == REQUIRED["GALLERY_IMAGES_MONGO_URI"]
    env.delenv("QUEUE_URL")
    with pytest.raises(BadConfiguration, match=r"^QUEUE_URL is not set\.$"):
        read_setting("queue_url")


def test_a_gallery_changes_its_model_only_where_an_operator_says_so(env: pytest.MonkeyPatch) -> None:
    assert load_grouping().people.allow_model_change is False
    env.setenv("ALLOW_MODEL_CHANGE", "true")
    assert load_grouping().people.allow_model_change is True


def test_an_empty_variable_counts_as_not_set(env: pytest.MonkeyPatch) -> None:
    assert problems(env, QUEUE_URL="") == "These settings must be put right:\n  QUEUE_URL is not set"
    env.setenv("QUEUE_URL", REQUIRED["QUEUE_URL"])
    env.setenv("BATCH_SIZE", "")
    assert load_detection().photos.batch_size == 24


def test_every_wrong_setting_is_named_at_once(env: pytest.MonkeyPatch) -> None:
    told = problems(
        env,
        QUEUE_URL="detection",
        BATCH_SIZE="0",
        MESSAGE_VISIBILITY_TIMEOUT="43201",
        WORKER_MODE="batch",
        MODEL_SOURCE="https://models",
        FACE_RECOGNITION_MEMORY_THRESHOLD="80",
        PREFILTER="strict",
        THUMBNAIL_KEY="{size}/{key}",
    )
    assert "THUMBNAIL_KEY may name {gallery_id}, {image_id}" in told
    assert "QUEUE_URL must be the URL of an SQS queue" in told
    for name in ("BATCH_SIZE", "MESSAGE_VISIBILITY_TIMEOUT", "WORKER_MODE", "MODEL_SOURCE", "PREFILTER"):
        assert f"  {name} " in told
    assert "FACE_RECOGNITION_MEMORY_THRESHOLD Input should be less than or equal to 1" in told


@pytest.mark.parametrize("name", ["GALLERY_IMAGES_MONGO_URI", "HUEMN_MONGO_URI"])
def test_a_wrong_secret_is_named_but_not_shown(env: pytest.MonkeyPatch, name: str) -> None:
    told = problems(env, **{name: "postgres://worker:hunter2@db"})
    assert f"{name} must begin with mongodb:// or mongodb+srv://" in told
    assert "hunter2" not in told


def test_no_secret_is_in_any_text_of_the_settings(env: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    told = problems(env, BATCH_SIZE="none")
    for text in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump()), told):
        assert "hunter" not in text


def test_an_error_carries_no_cause_that_holds_a_secret(env: pytest.MonkeyPatch) -> None:
    env.setenv("HUEMN_MONGO_URI", "hunter3")
    with pytest.raises(BadConfiguration) as caught:
        load_settings()
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("value", "names"),
    [("", set()), ("one", {"one"}), (" one, two ,,three", {"one", "two", "three"}), (" , ", set())],
)
def test_allowed_buckets_are_split_at_commas(env: pytest.MonkeyPatch, value: str, names: set[str]) -> None:
    env.setenv("ALLOWED_BUCKETS", value)
    source = load_detection().source
    assert source.allowed_buckets == names
    assert source.readable_buckets == names | {"photos"}


def test_the_output_bucket_is_not_readable_unless_it_is_listed(env: pytest.MonkeyPatch) -> None:
    assert "results" not in load_detection().source.readable_buckets


@pytest.mark.parametrize(
    ("delay", "visibility", "fine"), [("29", "30", True), ("30", "30", False), ("60", "30", False)]
)
def test_the_grouping_delay_must_be_shorter_than_the_visibility(
    env: pytest.MonkeyPatch, delay: str, visibility: str, fine: bool
) -> None:
    env.setenv("GROUPING_DELAY_S", delay)
    env.setenv("MESSAGE_VISIBILITY_TIMEOUT", visibility)
    if fine:
        assert load_settings().messages.grouping_delay_s == int(delay)
    else:
        assert "GROUPING_DELAY_S must be smaller than MESSAGE_VISIBILITY_TIMEOUT" in problems(env)


def test_what_a_caller_says_goes_before_the_environment(env: pytest.MonkeyPatch) -> None:
    assert load_settings(service_type="grouping").service_type == "grouping"


def test_settings_cannot_be_changed(env: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_detection().photos.batch_size = 3


def test_the_page_has_one_row_for_every_setting_and_what_it_means() -> None:
    page = make_settings_page()
    for name, field in list_fields().items():
        assert page.count(f"| `{name.upper()}` | ") == 1
        assert field.description
        assert field.description in page
    assert "| `QUEUE_URL` | **required** |" in page
    assert "| `LOG_GROUP` | `unset` |" in page
    assert "| `ALLOWED_BUCKETS` | `none` |" in page


def test_what_everybody_sets_is_short_and_comes_first() -> None:
    first, _, rest = make_settings_page().partition("## Rarely set")
    often = [name for name, field in list_fields().items() if RARELY not in field.metadata]
    assert len(often) <= 30
    assert all(f"`{name.upper()}`" in first for name in often)
    assert "### Messages" in first
    assert "`QUEUE_WAIT_S`" in rest


@pytest.mark.parametrize("name", ["RAY_memory_per_process", "RAY_MEMORY_PER_PROCESS"])
def test_rays_memory_is_given_in_bytes_or_with_a_unit(env: pytest.MonkeyPatch, name: str) -> None:
    env.setenv(name, "4GiB")
    assert load_grouping().search.ray_memory_per_process == 4 * 2**30
    env.setenv(name, "3000000000")
    assert load_grouping().search.ray_memory_per_process == 3_000_000_000


def test_the_memory_for_pictures_is_what_is_set_or_follows_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PhotoSettings().choose_picture_bytes(2_000_000_000) == 900_000_000
    monkeypatch.setenv("PIXELS_IN_WORK", "50000000")
    assert PhotoSettings().choose_picture_bytes(2_000_000_000) == 400_000_000
    monkeypatch.setenv("PICTURE_MEMORY_MB", "300")
    assert PhotoSettings().choose_picture_bytes(2_000_000_000) == 300_000_000


@pytest.mark.parametrize(
    ("value", "fine"),
    [
        ("arn:aws:sns:eu-west-1:123456789012:face-worker-events", True),
        ("arn:aws:events:eu-west-1:123456789012:event-bus/photos", True),
        ("default", True),
        ("arn:aws:sns:eu-west-1:123456789012:ordered.fifo", False),
        ("arn:aws:sqs:eu-west-1:123456789012:queue", False),
        ("https://sns.eu-west-1.amazonaws.com", False),
    ],
)
def test_events_go_to_a_topic_or_a_bus(env: pytest.MonkeyPatch, value: str, fine: bool) -> None:
    env.setenv("EVENTS", value)
    if fine:
        assert load_grouping().events.events == value
    else:
        with pytest.raises(BadConfiguration, match="EVENTS must be the ARN of an SNS topic"):
            load_grouping()
