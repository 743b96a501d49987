-- A dose that was corrected to more is booked out of its vial a second time; that no entry is made twice is a rule of the
-- service, which knows how much was given (C-DOSE).

DROP INDEX substance_event_given;
CREATE INDEX substance_event_of_dose ON substance_event (tenant, administration) WHERE administration IS NOT NULL;
