"""What a Subscription asks for, what is an event of a topic, and that both are refused or told with their place."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from services.gateway.notifications import Shown, notification, status
from services.gateway.notifying import in_order
from services.gateway.subscriptions import WITHHELD, asked_by, kept
from services.gateway.topics import CANONICAL, SubscriptionPolicy
from shared.fhir.codes import CONFIDENTIALITY
from shared.fhir.outcome import Unprocessable
from shared.fhir.query import parse_search
from shared.fhir.validation import require_valid
from shared.http.outbound import Outside
from shared.runtime.policy import load_policy
from shared.store.subscriptions import Changed, Event
from tests.subscriber import TOPIC, subscription

NOW = datetime(2026, 11, 23, tzinfo=UTC)
POLICY = load_policy().section("subscriptions", SubscriptionPolicy)


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        ({"criteria": "https://kap-exchange.org/fhir/SubscriptionTopic/no-such"}, "criteria"),
        ({"criteria": "Observation?code=1"}, "criteria"),
        ({"filters": ["Observation?patient=1"]}, "criteria.extension"),
        ({"filters": ["EpisodeOfCare?patient.name=ada"]}, "criteria.extension"),
        ({"filters": ["EpisodeOfCare?_has:Observation:patient:code=1"]}, "criteria.extension"),
        ({"endpoint": "http://ehr.example/hook"}, "channel.endpoint"),
        ({"endpoint": "https://169.254.169.254/latest"}, "channel.endpoint"),
        ({"endpoint": "https://[::ffff:127.0.0.1]:8001/fhir"}, "channel.endpoint"),
        ({"endpoint": "https://me:pw@ehr.example/"}, "channel.endpoint"),
        ({"type": "websocket"}, "channel.type"),
        ({"type": "email"}, "channel.type"),
        ({"content": "all"}, "channel.payload.extension"),
        ({"header": ["Authorization: a\r\nX-Injected: b"]}, "channel.header"),
        ({"header": ["Authorization: a\x00"]}, "channel.header"),
        ({"header": ["Cookie: a=b"]}, "channel.header"),
        ({"header": ["Content-Length: 0"]}, "channel.header"),
        ({"header": ["Host: inside"]}, "channel.header"),
        ({"header": ["X-Forwarded-For: 10.0.0.1"]}, "channel.header"),
        ({"extension": {"backport-heartbeat-period": {"valueUnsignedInt": 1}}}, "channel.extension"),
        ({"extension": {"backport-timeout": {"valueUnsignedInt": 3600}}}, "channel.extension"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_place(wrong, place):
    criteria = wrong.get("criteria", TOPIC)
    body = {
        **subscription(**{name: value for name, value in wrong.items() if name != "criteria"}),
        "criteria": criteria,
    }
    with pytest.raises(Unprocessable) as refused:
        asked_by(body, POLICY, Outside())
    assert [issue.expression for issue in refused.value.issues] == [(f"Subscription.{place}",)]


def test_all_that_is_wrong_is_said_at_once():
    body = {**subscription(type="email", endpoint="https://10.0.0.1/"), "criteria": "x"}
    with pytest.raises(Unprocessable) as refused:
        asked_by(body, POLICY, Outside())
    assert len(refused.value.issues) == 3


def test_what_is_kept_says_whose_it_is_and_holds_no_secret_and_what_is_withheld_may_come_back():
    body = subscription(header=["Authorization: Bearer very-secret", "X-Tag: also"])
    held = kept(body, "requested", "somebody")
    require_valid({**held, "id": "s1"})
    assert "secret" not in str(held)
    assert "also" not in str(held)
    assert asked_by(held, POLICY, Outside()).headers == {"Authorization": None, "X-Tag": None}
    again = kept({**held, "meta": {"tag": [*held["meta"]["tag"], {"system": "urn:x", "code": "mine"}]}}, "active", "me")
    assert [one["code"] for one in again["meta"]["tag"]] == ["mine", "me"]
    assert held["channel"]["header"][0] == f"Authorization: {WITHHELD}"


@pytest.mark.parametrize("name", POLICY.topics)
def test_each_topic_is_about_what_can_be_searched_and_filtered(name):
    topic = POLICY.topics[name]
    parse_search(topic.resource, [(one, "x") for one in topic.filters], strict=True)
    assert topic.is_event({"resourceType": topic.resource}, None) in (True, False)
    assert POLICY.topic(f"{CANONICAL}{name}") is topic
    assert POLICY.topic(f"{CANONICAL}{name}|{topic.version}") is topic
    assert POLICY.topic(f"{CANONICAL}{name}|0") is None


def test_an_event_is_what_becomes_so_not_what_stays_so():
    booked = POLICY.topics["visit-booked"]
    visit = {"resourceType": "Appointment", "status": "booked"}
    proposed = {**visit, "status": "proposed"}
    assert booked.is_event(visit, None)
    assert booked.is_event(visit, proposed)
    assert not booked.is_event(visit, {**visit, "comment": "by the window"})
    assert not booked.is_event(proposed, visit)
    assert not booked.is_event(None, visit)
    stage = POLICY.topics["course-stage-changed"]
    course = {"resourceType": "EpisodeOfCare", "status": "active", "extension": [{"url": "x", "valueCode": "a"}]}
    assert stage.is_event({**course, "extension": [{"url": "x", "valueCode": "b"}]}, course)
    assert not stage.is_event({**course, "patient": {"reference": "Patient/1"}}, course)


def test_a_response_is_an_event_when_it_is_first_said():
    reached = POLICY.topics["response-reached"]
    code = {"coding": [{"system": "https://kap-exchange.org/fhir/CodeSystem/kap", "code": "response"}]}
    score = {"resourceType": "Observation", "status": "final"}
    assert reached.is_event({**score, "interpretation": [code]}, None)
    assert not reached.is_event(score, None)
    assert not reached.is_event({**score, "interpretation": [code]}, {**score, "interpretation": [code]})


def test_of_one_resource_each_version_is_judged_after_those_before_it_and_all_else_in_the_order_of_its_coming():
    def change(number, id_, version):
        return Changed(number, "Patient", id_, version, "update", None, b"", None)

    found = [change(1, "a", 2), change(2, "b", 1), change(3, "a", 1), change(4, "a", 3)]
    assert [one.number for one in in_order(found)] == [3, 1, 2, 4]


def test_a_notification_is_as_confidential_as_the_most_confidential_resource_in_it():
    def told(*levels, content="full-resource"):
        events = [
            Shown(
                Event(place, place, "Observation", f"o{place}", 1, "create", NOW),
                place,
                resource=None
                if level is None
                else {"meta": {"security": [{"system": CONFIDENTIALITY, "code": level}]}},
            )
            for place, level in enumerate(levels)
        ]
        said = status("s", TOPIC, "active", "event-notification", len(events), "http://kap", events, content=content)
        made = notification(said, "s", events, content, "http://kap", NOW)
        return [one["code"] for one in made["meta"].get("security", ())]

    assert told("R", "V", "N") == ["V"]
    assert told("R", None) == ["R"]
    assert told(None, None, content="id-only") == []  # of what is not in it nothing is said
    assert told() == []
