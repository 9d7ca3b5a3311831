-- What the third version of SQLite's schema adds.
INSERT INTO counters (name, value) VALUES ('sessions', 0);
ALTER TABLE sessions ADD COLUMN revision bigint NOT NULL DEFAULT 0;
CREATE INDEX sessions_revision ON sessions (revision);

-- Others are told twice a second; a node that is lost has lost only that.
CREATE UNLOGGED TABLE nodes (
	id   text COLLATE "C" PRIMARY KEY,
	seen bigint NOT NULL,
	load text NOT NULL
) WITH (fillfactor = 50);
