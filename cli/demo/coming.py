"""What is still to come: a reminder by text message, a freed time that is offered to who waits, a calendar by link."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from cli.demo.client import DemoError, Refused
from cli.demo.live import Live
from cli.demo.resources import COURSE_DAYS, identifier, instant, parameters, reference
from shared.fhir.codes import KAP, PRESCRIBER, REMINDER, TIME_OFFERED, VISITS, Code
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of

_NEXT_WEEK = COURSE_DAYS + 6
"""The course is charted until today: so many days after its beginning is next week, soon enough for a reminder."""
_LATER = COURSE_DAYS + 10
"""Too late for a reminder yet."""
_HOUR = timedelta(hours=1)


class Coming(Live):
    """The visits that are still to come."""

    async def look_ahead(self) -> None:
        """Book a follow-up for next week, and wait for a time that the prescriber has for something else; it is freed.

        What comes of it, comes by the clock while the course goes on: `looked_ahead` shows it.
        """
        at, key = self.calendar.at, self.person.key
        staff = {"type": [PRESCRIBER.concept()], "actor": reference(self.team.prescriber), "status": "accepted"}
        patient = {"actor": reference(self.subject), "status": "accepted"}
        await self.create(_visit(f"{key}-followup", "kap-followup", at(_NEXT_WEEK, 10), patient, staff))
        start = at(_LATER, 12)
        taken = _visit(f"{key}-conference", None, start, staff)
        conference = await self.create({**taken, "description": "Case conference"})
        wanted = {"start": instant(start), "end": instant(start + _HOUR)}
        waiting = {**_visit(f"{key}-waiting", "kap-consult", start, patient), "requestedPeriod": [wanted]}
        waiting |= {"status": "waitlist", "priority": 1}
        self._waiting = (await self.create({k: v for k, v in waiting.items() if k not in ("start", "end")})).reference

        async def freed() -> Resource | None:
            held = await self.gateway.read(conference.reference)
            return held if held["status"] == "cancelled" else None

        await self.gateway.call_once(f"{conference.reference}/$cancel", parameters(reason_valueCode="prov"), freed)
        self.step("waits for a time")

    async def looked_ahead(self) -> None:
        """Show what came of it: the freed time was offered by message and is booked, the reminder was sent."""
        name = self.person.name

        async def kept() -> Resource | None:
            held = await self.gateway.read(self._waiting)
            return None if held["status"] == "waitlist" else held

        await self.until(f"the offer of a freed time to {name}", kept)
        await self._told(TIME_OFFERED)

        async def booked() -> Resource | None:
            held = await self.gateway.read(self._waiting)
            return held if held["status"] == "booked" else None

        named = parameters(appointment_reference_valueReference=reference(self._waiting))
        await self.gateway.call_once("Appointment/$book", named, booked)
        self.step("freed time offered by text message, booked")
        await self._told(REMINDER)
        self.step("reminded of next week's visit by text message")
        await self._calendar()

    async def _told(self, topic: Code) -> None:
        """Wait until a message to the patient was sent, and its receipt is in the record."""

        async def sent() -> Resource | None:
            letters = await self.gateway.search("Communication", {"patient": self.subject})
            about = [one for one in letters if topic.code in codes_of(one.get("topic"), KAP)]
            return next((one for one in about if one["status"] == "completed" and one.get("note")), None)

        await self.until(f"the receipt of what {self.person.name} is told ({topic.display})", sent)

    async def _calendar(self) -> None:
        """Read the patient's calendar by a secret link, revoke it, and find nothing behind it any more."""
        whose = parameters(actor_valueReference=reference(self.subject))
        made = await self.gateway.call("Appointment/$calendar-link", whose)
        link = str(made["parameter"][0]["valueUrl"])
        visits = (await self.gateway.text(link)).count("BEGIN:VEVENT")
        await self.gateway.call("Appointment/$revoke-calendar-links", whose)
        try:
            await self.gateway.text(link)
        except Refused as gone:
            if gone.status != 404:
                raise
        else:
            raise DemoError(f"The calendar of {self.person.name} is still read by a link that was revoked.")
        self.step(f"calendar read by its link ({visits} visits), link revoked")


def _visit(key: str, kind: str | None, start: datetime, *people: dict[str, Any]) -> Resource:
    """Return an hour that is booked for a kind of visit; None: for something else."""
    visit = {} if kind is None else {"serviceType": [VISITS[kind][0].concept()]}
    return {
        "resourceType": "Appointment",
        "identifier": [identifier(key)],
        "status": "booked",
        **visit,
        "start": instant(start),
        "end": instant(start + _HOUR),
        "participant": list(people),
    }
