-- The number of the last batch of sessions, and with which of them each was
-- saved: other processes that share the file read on from the last one they saw.
INSERT INTO counters (name, value) VALUES ('sessions', 0);
ALTER TABLE sessions ADD COLUMN revision INTEGER NOT NULL DEFAULT 0;
CREATE INDEX sessions_revision ON sessions (revision);

-- The processes, and what each told the others last.
CREATE TABLE nodes (
	id   TEXT PRIMARY KEY,
	seen INTEGER NOT NULL, -- by the database's clock
	load TEXT NOT NULL
) WITHOUT ROWID;
