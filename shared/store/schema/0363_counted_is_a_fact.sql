-- What was counted at an earlier hour is on record even where more was booked out since then than there was: the balance is
-- then below nothing until somebody finds out why. What is taken out still never exceeds what there is.

ALTER TABLE substance_event DROP CONSTRAINT substance_event_balance_ug_check;
ALTER TABLE substance_event ADD CONSTRAINT substance_event_balance_ug_check
    CHECK (balance_ug >= 0 OR kind = 'count' OR change_ug >= 0);
