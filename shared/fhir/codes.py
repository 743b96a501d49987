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
ICD10CM: Final = "http://hl7.org/fhir/sid/icd-10-cm"
UCUM: Final = "http://unitsofmeasure.org"
ACT_CODE: Final = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
OBSERVATION_CATEGORY: Final = "http://terminology.hl7.org/CodeSystem/observation-category"

# Identifier systems: the business names of what the services write by themselves
ID_EPISODE: Final = f"{BASE}/identifier/episode"
ID_ENCOUNTER: Final = f"{BASE}/identifier/encounter"
ID_FINDING: Final = f"{BASE}/identifier/finding"
ID_FLAG: Final = f"{BASE}/identifier/flag"
ID_TASK: Final = f"{BASE}/identifier/task"
ID_SCORE: Final = f"{BASE}/identifier/score"
ID_SCREENING: Final = f"{BASE}/identifier/screening"
ID_DOSE: Final = f"{BASE}/identifier/dose"

# Extensions
EXT_STAGE: Final = f"{BASE}/StructureDefinition/kap-stage"
EXT_POLICY: Final = f"{BASE}/StructureDefinition/policy-version"
EXT_FINDING: Final = f"{BASE}/StructureDefinition/rule-finding"

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

# What is raised
FLAG_SAFETY: Final = Code("http://terminology.hl7.org/CodeSystem/flag-category", "safety", "Safety")
GROUND_LOST: Final = Code(KAP, "booking-ground-lost", "The ground of a booked dosing session fell away")
GATE_PASSED_CLOSED: Final = Code(KAP, "dose-past-closed-gate", "A dose was given past a closed gate")
DRUG_NOT_KNOWN: Final = Code(KAP, "drug-not-known", "A drug was given that the record cannot name")
VITAL_ALARM: Final = Code(KAP, "vital-sign-alarm", "A vital sign is beyond its alarm limit")
READING_NOT_UNDERSTOOD: Final = Code(KAP, "reading-not-understood", "A vital sign's value or unit is not understood")
SUICIDE_RISK: Final = Code(KAP, "suicidality-item-positive", "An answer about suicidal thoughts is positive")
ASK_CSSRS: Final = Code(KAP, "run-c-ssrs", "Run the C-SSRS in this contact")
EXPECT_QUESTIONNAIRE: Final = Code(KAP, "answer-questionnaire", "Answer a questionnaire")
COMPLETE_QUESTIONNAIRE: Final = Code(KAP, "complete-questionnaire", "Complete the missing answers")
REVIEW: Final = Code(KAP, "review", "Review")
SCORE_REVISED: Final = Code(KAP, "score-revised", "Score revised after the answers changed")


def rule_code(rule: str, display: str = "") -> Code:
    """Return the code of a rule of the house, ``E12``."""
    return Code(RULE, rule, display)
