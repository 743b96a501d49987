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
