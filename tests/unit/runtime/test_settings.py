from __future__ import annotations

import importlib
import os

import pytest

from shared.runtime.settings import MEBIBYTE, Settings, SettingsError


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("KAP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("KAP_NO_AUTH", "true")
    monkeypatch.setenv("KAP_DATABASE_URL", "postgresql://one")
    return monkeypatch


def test_settings_come_from_the_environment(environment):
    environment.setenv("KAP_ROLES", "api, worker")
    environment.setenv("KAP_PORT", "8001")
    settings = Settings.load("intake")
    assert settings.service == "intake"
    assert settings.roles == {"api", "worker"}
    assert settings.base_url == "http://127.0.0.1:8001/fhir"
    assert settings.max_body_bytes == 50 * MEBIBYTE


def test_a_setting_of_the_service_itself_goes_before_the_one_for_all(environment):
    environment.setenv("KAP_INTAKE_DATABASE_URL", "postgresql://two")
    environment.setenv("KAP_INTAKE_PUBLIC_BASE", "https://kap.example/fhir/")
    assert Settings.load("intake").dsn == "postgresql://two"
    assert Settings.load("intake").base_url == "https://kap.example/fhir"
    assert Settings.load("sessions").dsn == "postgresql://one"


def test_an_empty_setting_is_none(environment):
    environment.setenv("KAP_HOSPITAL_URL", "")
    assert Settings.load("delivery").hospital_url is None


@pytest.mark.parametrize("value", [None, "false"])
def test_a_service_does_not_start_open_to_everybody_unless_it_is_told_to(environment, value):
    if value is None:
        environment.delenv("KAP_NO_AUTH")
    else:
        environment.setenv("KAP_NO_AUTH", value)
    with pytest.raises(SettingsError, match="Set KAP_NO_AUTH=true"):
        Settings.load("intake")


@pytest.mark.parametrize(
    ("name", "value"), [("KAP_PORT", "high"), ("KAP_ROLES", "api,cook"), ("KAP_TOPIC_PARTITIONS", "17")]
)
def test_a_setting_that_cannot_be_is_named(environment, name, value):
    environment.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        Settings.load("intake")


def test_a_missing_database_is_named(environment):
    environment.delenv("KAP_DATABASE_URL")
    with pytest.raises(SettingsError, match="KAP_DATABASE_URL"):
        Settings.load("intake")


def test_secrets_are_not_printed(environment):
    environment.setenv("KAP_DATABASE_URL", "postgresql://kap:hidden@host/db")
    environment.setenv("KAP_LINK_SECRET", "also-hidden")
    assert "hidden" not in repr(Settings.load("intake"))


def test_the_key_of_the_links_is_the_services_own_and_stays(environment):
    assert Settings.load("intake").link_key == Settings.load("intake").link_key
    assert Settings.load("intake").link_key != Settings.load("sessions").link_key
    before = Settings.load("intake").link_key
    environment.setenv("KAP_LINK_SECRET", "x")
    assert Settings.load("intake").link_key != before


@pytest.mark.parametrize("name", ["intake", "scheduling", "sessions", "outcomes", "delivery", "gateway"])
def test_whether_clients_choose_ids_is_said_once_for_every_service(monkeypatch, name):
    monkeypatch.setenv("KAP_DATABASE_URL", "postgresql://none")
    monkeypatch.setenv("KAP_NO_AUTH", "true")
    create = importlib.import_module(f"services.{name}.service").create
    monkeypatch.setenv("KAP_ROLES", "worker")
    assert create(Settings.load(name)).service.fixed_ids is False
    monkeypatch.setenv("KAP_CLIENT_IDS", "true")
    assert create(Settings.load(name)).service.fixed_ids is True


def test_secrets_come_from_files_and_the_environment_goes_before_them(environment, tmp_path):
    (tmp_path / "kap_database_url").write_text("postgresql://of-a-file\n")
    (tmp_path / "KAP_LINK_SECRET").write_text("sealed")
    environment.setenv("KAP_SECRETS_DIR", str(tmp_path))
    assert Settings.load("intake").dsn == "postgresql://one"
    environment.delenv("KAP_DATABASE_URL")
    settings = Settings.load("intake")
    assert settings.dsn == "postgresql://of-a-file"
    assert settings.link_secret.get_secret_value() == "sealed"
    assert not {"of-a-file", "sealed"} & set(repr(settings).split("'"))


def test_a_folder_of_secrets_that_is_not_there_is_named(environment, tmp_path):
    environment.setenv("KAP_SECRETS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match=r"KAP_SECRETS_DIR: .*nowhere is not a folder"):
        Settings.load("intake")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"KAP_TLS_CERTIFICATE": "cert.pem"}, "belong together"),
        ({"KAP_TLS_KEY": "key.pem"}, "belong together"),
        ({"KAP_TLS_CLIENT_CA": "ca.pem"}, "no TLS to show them in"),
    ],
)
def test_half_of_tls_is_refused_and_not_half_done(environment, given, why):
    for name, value in given.items():
        environment.setenv(name, value)
    with pytest.raises(SettingsError, match=why):
        Settings.load("intake")
