-- Model routing, made by the command: no index, and here no history at all.
CREATE TABLE accounts (id TEXT PRIMARY KEY, name TEXT NOT NULL, refresh_token TEXT NOT NULL, access_token TEXT,
	expires_at INTEGER, created_at INTEGER NOT NULL, last_used INTEGER, request_count INTEGER DEFAULT 0,
	plan_type TEXT DEFAULT 'console', supported_models TEXT DEFAULT 'claude-3-5-sonnet-20241022,claude-3-haiku-20240307');
INSERT INTO accounts (id, name, refresh_token, access_token, expires_at, created_at) VALUES
	('id-work', 'work', 'rt-work', 'at-work', 1752000000000, 1751000000000),
	('id-idle', 'idle', 'rt-idle', NULL, NULL, 1751000001000);
