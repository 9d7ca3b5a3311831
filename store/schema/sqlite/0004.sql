-- The minutes that hold rows of an account (by id), a model, a client key or an
-- outcome; kind and name are those of usage_hours. It takes the place of an
-- index of requests for each, which cost as much as the rows themselves.
CREATE TABLE request_minutes (
	kind   TEXT NOT NULL,
	name   TEXT NOT NULL,
	minute INTEGER NOT NULL, -- its start
	PRIMARY KEY (kind, name, minute)
) WITHOUT ROWID;
