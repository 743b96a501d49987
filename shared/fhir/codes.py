"""The codes, identifier systems and extension URLs that this project writes and looks for, each named once.

Codes of its own are in one CodeSystem, `KAP`; where HL7, LOINC, SNOMED CT, RxNorm or UCUM has a code, that one is used.
A number that decides something is never here: it is policy (`policies/`).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

BASE: Final = "https://kap-exchange.org/fhir"


class Code(NamedTuple):
    """A coding: its system, code and display."""

    system: str
    code: str
    display: str = ""

    def coding(self) -> dict[str, str]:
        """Return the `Coding`."""
        coding = {"system": self.system, "code": self.code}
        return {**coding, "display": self.display} if self.display else coding

    def concept(self, *more: Code, text: str | None = None) -> dict[str, Any]:
        """Return a `CodeableConcept` of this code, its translations `more`, and a text."""
        concept: dict[str, Any] = {"coding": [self.coding(), *(other.coding() for other in more)]}
        return concept if text is None else {**concept, "text": text}

    def token(self) -> str:
        """Return ``system|code``, as a search asks for it."""
        return f"{self.system}|{self.code}"


# Systems
KAP: Final = f"{BASE}/CodeSystem/kap"
RULE: Final = f"{BASE}/CodeSystem/rule"
SNOMED: Final = "http://snomed.info/sct"
LOINC: Final = "http://loinc.org"
RXNORM: Final = "http://www.nlm.nih.gov/research/umls/rxnorm"
NDC: Final = "http://hl7.org/fhir/sid/ndc"
ICD10CM: Final = "http://hl7.org/fhir/sid/icd-10-cm"
UCUM: Final = "http://unitsofmeasure.org"
ACT_CODE: Final = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
ACT_REASON: Final = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
CONFIDENTIALITY: Final = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"
PARTICIPATION: Final = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
OBSERVATION_CATEGORY: Final = "http://terminology.hl7.org/CodeSystem/observation-category"

# Identifier systems: the business names of what the services write by themselves
ID_EPISODE: Final = f"{BASE}/identifier/episode"
ID_ENCOUNTER: Final = f"{BASE}/identifier/encounter"
ID_FINDING: Final = f"{BASE}/identifier/finding"
ID_FLAG: Final = f"{BASE}/identifier/flag"
ID_TASK: Final = f"{BASE}/identifier/task"
ID_SCORE: Final = f"{BASE}/identifier/score"
ID_SCREENING: Final = f"{BASE}/identifier/screening"
ID_SLOT: Final = f"{BASE}/identifier/slot"
ID_COMMUNICATION: Final = f"{BASE}/identifier/communication"
ID_REMS_SITE: Final = f"{BASE}/identifier/rems-site"
"""Of a Location: the number of its certification by the Spravato REMS; `period` says from when to when."""
ID_REMS_PATIENT: Final = f"{BASE}/identifier/rems-patient"
"""Of a Patient: the number of the enrolment in the Spravato REMS."""
ID_THERAPY: Final = f"{BASE}/identifier/psychotherapy"
ID_FEED: Final = f"{BASE}/identifier/feed"
ID_SUMMARY: Final = f"{BASE}/identifier/visit-summary"
ID_DOSE: Final = f"{BASE}/identifier/dose"

# Extensions
EXT_STAGE: Final = f"{BASE}/StructureDefinition/kap-stage"
EXT_POLICY: Final = f"{BASE}/StructureDefinition/policy-version"
EXT_AVAILABLE_TIME: Final = f"{BASE}/StructureDefinition/available-time"
EXT_GROUP_PLACES: Final = f"{BASE}/StructureDefinition/group-places"
EXT_HELD_UNTIL: Final = f"{BASE}/StructureDefinition/held-until"
EXT_DECLINED_TIME: Final = f"{BASE}/StructureDefinition/declined-time"
EXT_RANK: Final = f"{BASE}/StructureDefinition/rank"
EXT_PLANNED_DOSE: Final = f"{BASE}/StructureDefinition/planned-dose"
EXT_HOLD_BEFORE: Final = f"{BASE}/StructureDefinition/hold-before"
EXT_JURISDICTION: Final = f"{BASE}/StructureDefinition/licence-jurisdiction"
EXT_TIMEZONE: Final = "http://hl7.org/fhir/StructureDefinition/timezone"
EXT_TO_DO: Final = f"{BASE}/StructureDefinition/recommended-test"
EXT_FINDING: Final = f"{BASE}/StructureDefinition/rule-finding"
EXT_SCREENED_FOR: Final = f"{BASE}/StructureDefinition/screened-for"
EXT_MEANING: Final = f"{BASE}/StructureDefinition/code-meaning"
EXT_CONSENT_ELEMENT: Final = f"{BASE}/StructureDefinition/consent-element"
EXT_MATCH_WHY: Final = f"{BASE}/StructureDefinition/match-why"
EXT_ACKNOWLEDGED: Final = f"{BASE}/StructureDefinition/policy-acknowledged"
POLICY_URI: Final = f"{BASE}/policy/"
"""Of a policy, before its digest: as `Provenance.policy`."""
EXT_MINUTES: Final = f"{BASE}/StructureDefinition/minutes-from-dose"
EXT_DEVICE_CLOCK: Final = f"{BASE}/StructureDefinition/device-clock"
EXT_CHARTED_LATE: Final = f"{BASE}/StructureDefinition/charted-late"
EXT_EVENT_PERIOD: Final = f"{BASE}/StructureDefinition/event-period"
EXT_REMS: Final = f"{BASE}/StructureDefinition/rems-submission"
EXT_TELEHEALTH: Final = f"{BASE}/StructureDefinition/telehealth-link"
EXT_ESCALATION: Final = f"{BASE}/StructureDefinition/escalation"

# Questionnaires
SCREENING_QUESTIONNAIRE: Final = f"{BASE}/Questionnaire/kap-screening"
PHQ9_QUESTIONNAIRE: Final = f"{BASE}/Questionnaire/phq-9"
GAD7_QUESTIONNAIRE: Final = f"{BASE}/Questionnaire/gad-7"

# The course
REFERRAL: Final = Code(KAP, "kap-referral", "Referral for ketamine-assisted psychotherapy")
COURSE: Final = Code(KAP, "kap-course", "Course of ketamine-assisted psychotherapy")
ELIGIBILITY: Final = Code(KAP, "kap-eligibility", "Eligibility for ketamine-assisted psychotherapy")
SCREENING: Final = Code(KAP, "kap-screening", "Screening by rule")
TREATMENT_CONSENT: Final = Code(KAP, "kap-treatment-consent", "Consent to ketamine-assisted psychotherapy")

PLAN: Final = Code(KAP, "kap-plan", "Plan of a course of ketamine-assisted psychotherapy")
"""As a category of a CarePlan: the plan that dosing sessions stand on. A plan without it is about something else."""

ELIGIBLE: Final = Code(KAP, "eligible", "Eligible")
NOT_ELIGIBLE: Final = Code(KAP, "not-eligible", "Not eligible")
NEEDS_ANSWERS: Final = Code(KAP, "needs-answers", "Not known: answers are missing")
NEEDS_DECISION: Final = Code(KAP, "needs-decision", "Needs a prescriber's decision")
OUTCOMES: Final = {code.code: code for code in (ELIGIBLE, NOT_ELIGIBLE, NEEDS_ANSWERS, NEEDS_DECISION)}

PROCEED: Final = Code(KAP, "proceed", "The prescriber decided to proceed")
NO_LONGER: Final = Code(KAP, "no-longer-applies", "No longer applies")

# Visits, as Appointment.serviceType and Encounter.type; each with what US Core's value set calls it
VISIT_SCREEN: Final = Code(KAP, "kap-screen", "Screening visit")
VISIT_CONSULT: Final = Code(KAP, "kap-consult", "Consultation")
VISIT_PREP: Final = Code(KAP, "kap-prep", "Preparation session")
VISIT_DOSING: Final = Code(KAP, "kap-dosing", "Dosing session")
VISIT_INTEGRATION: Final = Code(KAP, "kap-integration", "Integration session")
VISIT_FOLLOWUP: Final = Code(KAP, "kap-followup", "Follow-up visit")
VIRTUAL: Final = Code(KAP, "kap-virtual", "By video")

PSYCHOTHERAPY: Final = Code(SNOMED, "75516001", "Psychotherapy")
# Who and what a visit needs, as Schedule.specialty and Appointment.participant.type
THERAPIST: Final = Code(KAP, "therapist", "Therapist")
MONITOR: Final = Code(KAP, "monitor", "Monitor")
PRESCRIBER: Final = Code(KAP, "prescriber", "Prescriber")
ROOM: Final = Code(KAP, "room", "Treatment room")
EQUIPMENT: Final = Code(KAP, "equipment", "Equipment")
CHAPERONE: Final = Code(KAP, "chaperone", "Adult chaperone at home")
INTERMEDIARY: Final = Code(
    KAP, "intermediary", "Intermediary: is told, to pass it on to its participants (42 CFR 2.11)"
)
ATTENDER: Final = Code(PARTICIPATION, "ATND", "attender")
SECOND_PERFORMER: Final = Code(PARTICIPATION, "SPRF", "secondary performer")
WITNESS: Final = Code(PARTICIPATION, "WIT", "witness")
ROLES: Final = {code.code: code for code in (THERAPIST, MONITOR, PRESCRIBER, ROOM, EQUIPMENT)}
ESCORT: Final = Code("http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "ESC", "escort")
GROUP_SESSION: Final = Code(KAP, "kap-group", "Group session")

VISITS: Final[dict[str, tuple[Code, Code]]] = {
    "kap-screen": (VISIT_SCREEN, Code(SNOMED, "391281002", "Mental health assessment")),
    "kap-consult": (VISIT_CONSULT, Code(SNOMED, "10197000", "Psychiatric interview and evaluation")),
    "kap-prep": (VISIT_PREP, PSYCHOTHERAPY),
    "kap-dosing": (VISIT_DOSING, PSYCHOTHERAPY),
    "kap-integration": (VISIT_INTEGRATION, PSYCHOTHERAPY),
    "kap-followup": (VISIT_FOLLOWUP, Code(SNOMED, "390906007", "Follow-up encounter")),
}

# Consent
CONSENT_TREATMENT: Final = Code("http://terminology.hl7.org/CodeSystem/consentscope", "treatment", "Treatment")
CONSENT_PRIVACY: Final = Code("http://terminology.hl7.org/CodeSystem/consentscope", "patient-privacy", "Privacy")
RENEW_CONSENT: Final = Code(KAP, "renew-consent", "Have the consent signed again: its text has changed")
BREAK_GLASS: Final = Code(
    KAP, "break-the-glass", "Review that the glass was broken: a record was read past its consents"
)
PROCEDURE_CONSENT: Final = Code(LOINC, "64293-4", "Procedure consent")

# Routes (kap-domain.md 4.2)
ROUTE_IV: Final = Code(SNOMED, "47625008", "Intravenous route")
ROUTE_IM: Final = Code(SNOMED, "78421000", "Intramuscular route")
ROUTE_NASAL: Final = Code(SNOMED, "46713006", "Nasal route")
ROUTE_ORAL: Final = Code(SNOMED, "26643006", "Oral route")
ROUTE_SUBLINGUAL: Final = Code(SNOMED, "37839007", "Sublingual route")
ROUTES: Final = {code.code: code for code in (ROUTE_IV, ROUTE_IM, ROUTE_NASAL, ROUTE_ORAL, ROUTE_SUBLINGUAL)}

# Drugs
KETAMINE: Final = Code(RXNORM, "6130", "ketamine")

# Observations
BLOOD_PRESSURE: Final = Code(LOINC, "85354-9", "Blood pressure panel with all children optional")
SYSTOLIC: Final = Code(LOINC, "8480-6", "Systolic blood pressure")
DIASTOLIC: Final = Code(LOINC, "8462-4", "Diastolic blood pressure")
HEART_RATE: Final = Code(LOINC, "8867-4", "Heart rate")
RESPIRATORY_RATE: Final = Code(LOINC, "9279-1", "Respiratory rate")
OXYGEN_SATURATION: Final = Code(LOINC, "59408-5", "Oxygen saturation in Arterial blood by Pulse oximetry")
OXYGEN_SATURATION_ANY: Final = Code(LOINC, "2708-6", "Oxygen saturation in Arterial blood")
MOAA_S: Final = Code(KAP, "moaa-s", "Modified Observer's Assessment of Alertness/Sedation, 0 to 5")
"""Sedation: 5 responds readily to the name, 2 only after mild prodding, 1 only to pain, 0 not at all."""
CHAPERONE_CHECK: Final = Code(KAP, "chaperone-check", "Looked at by the chaperone at home")
WEIGHT: Final = Code(LOINC, "29463-7", "Body weight")
PREGNANCY: Final = Code(LOINC, "82810-3", "Pregnancy status")
VITAL_SIGNS: Final = frozenset(
    (
        BLOOD_PRESSURE.code,
        SYSTOLIC.code,
        DIASTOLIC.code,
        HEART_RATE.code,
        RESPIRATORY_RATE.code,
        OXYGEN_SATURATION.code,
        OXYGEN_SATURATION_ANY.code,
        WEIGHT.code,
        "8310-5",  # body temperature
        "8302-2",  # body height
        "39156-5",  # body mass index
        "85353-1",  # vital signs panel
    )
)
"""LOINC codes of the US Core vital signs: at the bedside one of these belongs to an Encounter."""

INTAKE_MEASUREMENT: Final = Code(KAP, "intake-measurement", "Measured outside a visit, at intake")
"""As `meta.tag`: the caller says that a reading without an Encounter was no bedside reading."""

SURVEY: Final = Code(OBSERVATION_CATEGORY, "survey", "Survey")

ASSEMBLER: Final = Code("http://terminology.hl7.org/CodeSystem/provenance-participant-type", "assembler", "Assembler")

# Controlled substances
DEA: Final = "http://terminology.hl7.org/NamingSystem/usDEA"
NPI: Final = "http://hl7.org/fhir/sid/us-npi"
ID_PRESCRIPTION: Final = f"{BASE}/identifier/prescription"
PDMP_QUERY: Final = Code(KAP, "pdmp-query", "Query of the prescription drug monitoring programme")
NEED_REEVALUATED: Final = Code(KAP, "need-reevaluated", "Looked again whether the drug is still needed")
MEDICATION_COMMUNITY: Final = Code(
    "http://terminology.hl7.org/CodeSystem/medicationrequest-category", "community", "Community"
)
MEDICATION_INPATIENT: Final = Code(
    "http://terminology.hl7.org/CodeSystem/medicationrequest-category", "inpatient", "Inpatient"
)
IN_PERSON_CLASSES: Final = frozenset(("AMB", "IMP", "ACUTE", "NONAC", "OBSENC", "SS", "EMER", "HH", "FLD"))
"""Encounter.class (v3-ActCode) in which patient and clinician are in one place."""

# What is raised
FLAG_SAFETY: Final = Code("http://terminology.hl7.org/CodeSystem/flag-category", "safety", "Safety")
SCREEN_AGAIN: Final = Code(KAP, "screen-again", "Ask the screening questions again")
POSSIBLE_DOUBLE: Final = Code(KAP, "possible-double", "Somebody may have been entered twice")
ELIGIBILITY_LOST: Final = Code(KAP, "eligibility-lost", "Somebody who was found eligible is no longer")
GROUND_LOST: Final = Code(KAP, "booking-ground-lost", "The ground of a booked dosing session fell away")
DOUBLE_BOOKED: Final = Code(KAP, "double-booked", "Somebody or something is in two visits at one time")
CLOSED_AND_BOOKED: Final = Code(KAP, "closed-and-booked", "A visit is booked in a time that was closed")
NOBODY_CAME: Final = Code(KAP, "nobody-came", "Nobody is recorded to have come to a visit")
REMINDER: Final = Code(KAP, "visit-reminder", "Reminder of a visit")
INSTRUCTION: Final = Code(KAP, "visit-instruction", "How to prepare for a visit")
BOOKING_CHANGED: Final = Code(KAP, "booking-changed", "A visit needs attention")
TELL_IN_PERSON: Final = Code(KAP, "tell-in-person", "A patient could not be told of a visit by message")
TIME_OFFERED: Final = Code(KAP, "time-offered", "A time that was waited for is free")
GATE_PASSED_CLOSED: Final = Code(KAP, "dose-past-closed-gate", "A dose was given past a closed gate")
DOSE_IMPLAUSIBLE: Final = Code(KAP, "dose-implausible", "A dose that can hardly be as it is charted")
DRUG_NOT_KNOWN: Final = Code(KAP, "drug-not-known", "A drug was given that the record cannot name")
SYMPTOM: Final = Code(KAP, "symptom", "A symptom of the patient")
SYMPTOM_ALARM: Final = Code(KAP, "symptom-alarm", "A symptom that calls a person at once")
VITAL_ALARM: Final = Code(KAP, "vital-sign-alarm", "A vital sign is beyond its alarm limit")
DISCHARGE_QUESTIONNAIRE: Final = f"{BASE}/Questionnaire/kap-discharge"
LEFT_AGAINST_ADVICE: Final = Code(KAP, "left-against-advice", "The patient left against advice")
LEFT_TOO_EARLY: Final = Code(KAP, "left-before-least-stay", "The patient went home before the least stay was over")
HANDED_OVER_EARLY: Final = Code(
    KAP, "handed-over-before-least-stay", "The patient was handed over before the least stay was over"
)
RESUMED: Final = Code(KAP, "visit-resumed", "A visit that was finished by mistake goes on")
NOT_DISCHARGED: Final = Code(KAP, "leaving-not-recorded", "How the patient left is not recorded")
INVESTIGATE_SUBSTANCE: Final = Code(KAP, "investigate-controlled-substance", "A controlled substance does not balance")
BOOK_SUBSTANCE: Final = Code(KAP, "book-controlled-substance", "Book a controlled substance out of its vial")
TAKE_INVENTORY: Final = Code(KAP, "take-inventory", "Take the inventory of controlled substances")
SUBMIT_REMS: Final = Code(KAP, "submit-rems-form", "Send the monitoring form of the REMS")
REPORT_EVENT: Final = Code(KAP, "report-serious-event", "Report a serious adverse event")
REPORT_LATE: Final = Code(KAP, "report-late", "A report was not sent in its time")
BOOK_INTEGRATION: Final = Code(KAP, "book-integration", "Book the integration session")
ID_REMS_FORM: Final = f"{BASE}/identifier/rems-form"
SERIOUS_EVENT: Final = Code(KAP, "serious-adverse-event", "A serious adverse event")
VITALS_DUE: Final = Code(KAP, "take-vital-signs", "Take vital signs")
SEDATION_DUE: Final = Code(KAP, "rate-sedation", "Rate the sedation")
DISSOCIATION_DUE: Final = Code(KAP, "rate-dissociation", "Rate the dissociation (CADSS-6)")
PAIN_DUE: Final = Code(KAP, "rate-pain", "Ask for the pain (0 to 10)")
CHAPERONE_DUE: Final = Code(KAP, "check-by-chaperone", "Look at the patient at home, by the chaperone")
PRESSURE_AGAIN: Final = Code(KAP, "repeat-blood-pressure", "Measure the blood pressure again")
SATURATION_AGAIN: Final = Code(KAP, "repeat-saturation", "Measure the oxygen saturation again")
HEART_RATE_AGAIN: Final = Code(KAP, "repeat-heart-rate", "Count the heart rate again")
BREATHING_AGAIN: Final = Code(KAP, "repeat-breathing", "Count the breathing rate again")
SEDATION_AGAIN: Final = Code(KAP, "repeat-sedation", "Rate the sedation again")
DUE_AFTER_ALARM: Final = (PRESSURE_AGAIN, SATURATION_AGAIN, HEART_RATE_AGAIN, BREATHING_AGAIN, SEDATION_AGAIN)
"""Codes of the Tasks that say what is to be measured again, because it was beyond an alarm limit."""
DUE_AT_BEDSIDE: Final = (VITALS_DUE, SEDATION_DUE, DISSOCIATION_DUE, PAIN_DUE, CHAPERONE_DUE, *DUE_AFTER_ALARM)
"""Codes of the Tasks that say what is to be measured next at a bedside."""
VITALS_MISSED: Final = Code(KAP, "missed-vital-signs", "Vital signs were due and are not recorded")
RATING_MISSED: Final = Code(KAP, "missed-rating", "A rating was due and is not recorded")
SUSTAINED_PRESSURE: Final = Code(KAP, "sustained-pressure-alarm", "A pressure beyond its alarm limit was repeated")
AMEND_SUMMARY: Final = Code(KAP, "amend-summary", "Amend the summary of a visit")
COMPLETE_VISIT: Final = Code(KAP, "complete-visit", "Complete what the record of a visit is to say")
CHECK_IN: Final = Code(KAP, "check-in", "Ask how the patient is after a session")
SESSION_CHECK_IN: Final = Code(KAP, "session-check-in", "What a patient said between sessions")
CHECK_IN_MISSED: Final = Code(KAP, "check-in-missed", "Nobody has asked how the patient is after a session")
TREATED: Final = Code(KAP, "treatment", "Treatment given for it")
BACK_WITHIN: Final = Code(KAP, "back-within-limits", "Back within its limits")
READING_IMPLAUSIBLE: Final = Code(KAP, "reading-implausible", "A vital sign that can hardly be")
DEVICE_CLOCK: Final = Code(KAP, "device-clock-wrong", "The clock of a device at a bedside is wrong")
LATE_READING: Final = Code(KAP, "late-reading", "A reading was charted late")
CHARTED_LATE: Final = Code(KAP, "vital-sign-charted-late", "A vital sign beyond its alarm limit was charted late")
READING_NOT_UNDERSTOOD: Final = Code(KAP, "reading-not-understood", "A vital sign's value or unit is not understood")
PRE_DOSE_QUESTIONNAIRE: Final = f"{BASE}/Questionnaire/kap-pre-dose"
REMS_QUESTIONNAIRE: Final = f"{BASE}/Questionnaire/kap-rems-pmf"
DECISION_NEEDED: Final = Code(KAP, "gate-needs-decision", "A check before the dose needs a prescriber's decision")
SUICIDE_RISK: Final = Code(KAP, "suicidality-item-positive", "An answer about suicidal thoughts is positive")
ASK_CSSRS: Final = Code(KAP, "run-c-ssrs", "Run the C-SSRS in this contact")
PAUSE_FOR_REVIEW: Final = Code(KAP, "pause-for-review", "A complaint of long-term use: no dose until it is reviewed")
EXPECT_QUESTIONNAIRE: Final = Code(KAP, "answer-questionnaire", "Answer a questionnaire")
COMPLETE_QUESTIONNAIRE: Final = Code(KAP, "complete-questionnaire", "Complete the missing answers")
REVIEW: Final = Code(KAP, "review", "Review")
MERGE: Final = Code(KAP, "merge-records", "Two records of one person were joined")
UNMERGE: Final = Code(KAP, "unmerge-records", "Two records that had been joined were parted")
REFERRAL_STATUS: Final = Code(KAP, "referral-status", "What became of a referral")
FULFILL: Final = Code("http://hl7.org/fhir/CodeSystem/task-code", "fulfill", "Fulfill the focal request")
SAFETY_PLAN: Final = Code(KAP, "safety-plan", "Make or review the safety plan")
PRESCRIBER_REVIEW: Final = Code(KAP, "prescriber-review", "Review by a prescriber")
SUICIDE_PRECAUTIONS: Final = Code(SNOMED, "10029008", "Suicide precautions")
CRISIS_PLAN: Final = Code(SNOMED, "401277000", "Crisis plan")
QUESTIONNAIRE_REMINDER: Final = Code(KAP, "questionnaire-reminder", "Reminder of a questionnaire")
ESCALATION: Final = Code(KAP, "escalation", "Somebody is needed, and nobody has taken it yet")
SCORE_REVISED: Final = Code(KAP, "score-revised", "Score revised after the answers changed")


def rule_code(rule: str, display: str = "") -> Code:
    """Return the code of a rule of the house, ``E12``."""
    return Code(RULE, rule, display)
