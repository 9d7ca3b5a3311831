-- Names that two processes, or nobody, took care of. Only one S1 column.
CREATE TABLE accounts (id TEXT PRIMARY KEY, name TEXT NOT NULL, refresh_token TEXT NOT NULL, access_token TEXT,
	expires_at INTEGER, created_at INTEGER NOT NULL, last_used INTEGER, request_count INTEGER DEFAULT 0,
	plan_type TEXT DEFAULT 'console');
CREATE TABLE requests (id TEXT PRIMARY KEY, timestamp INTEGER NOT NULL, method TEXT NOT NULL, path TEXT NOT NULL,
	account_used TEXT, status_code INTEGER, success BOOLEAN, error_message TEXT, response_time_ms INTEGER,
	failover_attempts INTEGER DEFAULT 0);
INSERT INTO accounts (id, name, refresh_token, created_at) VALUES
	('1-young', 'work', 'rt-young', 3000),
	('2-old', 'work', 'rt-old', 1000),
	('3-same', 'work', 'rt-same', 3000),
	('4-taken', 'work-2', 'rt-taken', 4000),
	('5-blank', ' work ', 'rt-blank', 5000),
	('6-empty', '', 'rt-empty', 6000),
	('7-control', 'a' || char(10) || 'b', 'rt-control', 7000),
	('8-quote', 'o''hara "x" <b>', 'rt-quote', 8000),
	('9-long', 'nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn', 'rt-long', 9000);
INSERT INTO requests VALUES ('r1', 10000, 'POST', '/v1/messages', 'work', 200, 1, NULL, 900, 0);
INSERT INTO requests VALUES ('r2', 10001, 'POST', '/v1/messages', ' work ', 400, 0, NULL, 10, 0);
