"""The guard of consents: informed consent to the treatment, element by element, and privacy consents.

A consent may be withdrawn at any time, and that is never refused.
"""

from __future__ import annotations

from services.intake.course import bring_up_to_date
from services.intake.rules.consents import check_elements, outdated
from services.intake.rules.orders import check_consent
from services.intake.rules.privacy import check_notes, check_privacy
from services.intake.setting import Setting
from shared.fhir.codes import CONSENT_PRIVACY, ID_TASK, RENEW_CONSENT
from shared.fhir.json import Resource
from shared.fhir.kap import comes_from_elsewhere, drug_of, has_code, is_treatment_consent, patient_of
from shared.fhir.outcome import Unprocessable
from shared.fhir.raised import identifier, task
from shared.runtime.raising import close_task, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change


async def guard_consent(change: Change, record: Record, setting: Setting) -> None:
    """Refuse a consent that is to be in force and lacks something; bring the course to where consents put it.

    Raises:
        Unprocessable: C-CONSENT, C-ELEMENT, P-PCF or P-PATTERN, with everything that is lacking.

    """
    after = change.after
    if after is not None and after.get("status") == "active" and has_code(after.get("scope"), CONSENT_PRIVACY):
        issues = [] if comes_from_elsewhere(after) else [*check_privacy(after), *check_notes(after, record.user)]
        if issues:
            raise Unprocessable(issues)
    concerned = [one for one in (change.before, after) if one is not None and is_treatment_consent(one)]
    if not concerned:
        return
    if after is not None and is_treatment_consent(after) and after.get("status") == "active":
        lacking = check_consent(after, setting.orders)
        if _permits(after):
            drug = drug_of(after.get("category"), setting.sets)
            lacking.extend(check_elements(after, drug, setting.clock(), setting.consent))
        if lacking:
            raise Unprocessable(lacking)
    patient = patient_of(concerned[-1])
    if patient is not None:
        await bring_up_to_date(record, patient, setting.clock(), setting.sets, change=change)
        await ask_to_renew({**(after or concerned[-1]), "id": change.id}, record, setting, gone=after is None)


def _permits(consent: Resource) -> bool:
    return bool(consent.get("provision", {}).get("type", "permit") == "permit")


async def ask_to_renew(consent: Resource, record: Record, setting: Setting, *, gone: bool = False) -> None:
    """Ask for a new signature where the text of a consent in force has changed; take it back where it has not."""
    patient, now = patient_of(consent), setting.clock()
    in_force = not gone and consent.get("status") == "active" and is_treatment_consent(consent) and _permits(consent)
    old = outdated(consent, drug_of(consent.get("category"), setting.sets), setting.consent) if in_force else []
    name = ("consent", consent["id"])
    if not old or patient is None:
        await close_task(
            record, identifier(ID_TASK, *name), now, why="The consent is up to date, or no longer in force."
        )
        return
    asked = task(
        name,
        patient=patient,
        code=RENEW_CONSENT,
        description=(
            f"The text of the consent has changed since it was signed: {', '.join(old)}. Explain what is new, and have "
            "a new consent signed. Until then the old one counts."
        ),
        now=now,
        focus=f"Consent/{consent['id']}",
    )
    await raise_once(record, asked, reopen=True)
