-- The first version: no plans. One account never had an access token.
CREATE TABLE accounts (id TEXT PRIMARY KEY, name TEXT NOT NULL, refresh_token TEXT NOT NULL, access_token TEXT,
	expires_at INTEGER, created_at INTEGER NOT NULL, last_used INTEGER, request_count INTEGER DEFAULT 0);
CREATE TABLE requests (id TEXT PRIMARY KEY, timestamp INTEGER NOT NULL, method TEXT NOT NULL, path TEXT NOT NULL,
	account_used TEXT, status_code INTEGER, success BOOLEAN, error_message TEXT, response_time_ms INTEGER,
	failover_attempts INTEGER DEFAULT 0);
CREATE INDEX idx_requests_timestamp ON requests(timestamp DESC);
INSERT INTO accounts VALUES ('id-work', 'work', 'rt-work', 'at-work', 1752000000000, 1751000000000, 1751900000000, 7);
INSERT INTO accounts VALUES ('id-idle', 'idle', 'rt-idle', NULL, NULL, 1751000001000, NULL, NULL);
INSERT INTO requests VALUES ('r1', 1751900000000, 'POST', '/v1/messages', 'work', 200, 1, NULL, 900, 0);
INSERT INTO requests VALUES ('r2', 1751900001000, 'POST', '/v1/messages', NULL, 503, 0, '[{"account":"work","error":"HTTP 529: x","retries":3}]', 100, 1);
INSERT INTO requests VALUES ('r3', 1751900002000, 'POST', '/v1/messages', 'gone', 200, 'true', NULL, 500, 0);
