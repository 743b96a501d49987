-- Which form the index rows of this database have: they are made by the program, and made anew where it is a newer one
-- (shared/store/reindex.py). What was here before this table has form 1.
CREATE TABLE index_form (
    form integer NOT NULL
);
INSERT INTO index_form (form) VALUES (1);
