-- While a new version comes in, programs of the one before write on by their rules, behind the place up to which was looked.
-- So who came to the end soon after the beginning looks once more when they are gone (shared/store/labelling.py).
ALTER TABLE labelling ADD COLUMN begun_at timestamptz NOT NULL DEFAULT clock_timestamp();
