-- Times are ms since the epoch, NULL = never or unknown. The tables accounts
-- and requests are made from the column lists in sqlite_schema.go, since they
-- may be there already.

CREATE UNIQUE INDEX accounts_name ON accounts (name);

DROP INDEX IF EXISTS idx_requests_timestamp;
CREATE INDEX requests_time ON requests (timestamp);
CREATE INDEX requests_account ON requests (account_id, timestamp) WHERE account_id IS NOT NULL;
CREATE INDEX requests_model ON requests (model_used, timestamp) WHERE model_used IS NOT NULL;
CREATE INDEX requests_client ON requests (client, timestamp) WHERE client IS NOT NULL;
CREATE INDEX requests_outcome ON requests (outcome, timestamp) WHERE outcome <> 'ok';

-- The last name of every account that ever answered; outlives the account.
CREATE TABLE history_accounts (
	id   TEXT PRIMARY KEY,
	name TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX history_accounts_name ON history_accounts (name);

-- The history summed up by hour, once for each kind of question: kind is
-- outcome, family, model, account (by id), plan or key.
CREATE TABLE usage_hours (
	hour                  INTEGER NOT NULL,
	kind                  TEXT NOT NULL,
	name                  TEXT NOT NULL,
	requests              INTEGER NOT NULL,
	errors                INTEGER NOT NULL,
	unpriced              INTEGER NOT NULL,
	response_ms           INTEGER NOT NULL,
	input_tokens          INTEGER NOT NULL,
	output_tokens         INTEGER NOT NULL,
	cache_read_tokens     INTEGER NOT NULL,
	cache_write_5m_tokens INTEGER NOT NULL,
	cache_write_1h_tokens INTEGER NOT NULL,
	cost_usd              REAL,
	PRIMARY KEY (hour, kind, name)
) WITHOUT ROWID;

-- An account's fullest window in each hour.
CREATE TABLE window_hours (
	hour        INTEGER NOT NULL,
	account_id  TEXT NOT NULL,
	utilization REAL NOT NULL,
	PRIMARY KEY (hour, account_id)
) WITHOUT ROWID;

-- What a client key spent, for its budget: kept whatever happens to the
-- history.
CREATE TABLE key_spend (
	hour     INTEGER NOT NULL,
	name     TEXT NOT NULL,
	cost_usd REAL NOT NULL,
	PRIMARY KEY (hour, name)
) WITHOUT ROWID;

-- counter: requests = rows of the history; rewrite = 1 while plain credentials
-- may be left in unused parts of the file.
CREATE TABLE counters (
	name  TEXT PRIMARY KEY,
	value INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO counters (name, value) VALUES ('requests', 0), ('rewrite', 0);

-- The last batch that each recorder has counted without storing its rows.
CREATE TABLE counted_batches (
	recorder TEXT PRIMARY KEY,
	batch    INTEGER NOT NULL,
	at       INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE limits (
	account_id TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
	scope      TEXT NOT NULL,
	name       TEXT NOT NULL,
	cause      TEXT NOT NULL,
	header     TEXT NOT NULL,
	since      INTEGER,
	until      INTEGER,
	PRIMARY KEY (account_id, scope, name)
) WITHOUT ROWID;

CREATE TABLE windows (
	account_id  TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
	name        TEXT NOT NULL,
	utilization REAL,
	status      TEXT NOT NULL,
	resets_at   INTEGER,
	seen_at     INTEGER NOT NULL,
	PRIMARY KEY (account_id, name)
) WITHOUT ROWID;

CREATE TABLE sessions (
	session_key TEXT PRIMARY KEY,
	account_id  TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
	last_used   INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX sessions_last_used ON sessions (last_used);
CREATE INDEX sessions_account ON sessions (account_id);

CREATE TABLE resources (
	id         TEXT PRIMARY KEY,
	account_id TEXT NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
	client     TEXT NOT NULL,
	created_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX resources_account ON resources (account_id);

CREATE TABLE client_keys (
	id             TEXT PRIMARY KEY,
	name           TEXT NOT NULL UNIQUE,
	role           TEXT NOT NULL,
	models         TEXT,
	accounts       TEXT,
	created_at     INTEGER NOT NULL,
	expires_at     INTEGER,
	last_used      INTEGER,
	rpm            INTEGER NOT NULL,
	max_in_flight  INTEGER NOT NULL,
	budget_usd     REAL,
	budget_period  TEXT NOT NULL,
	hash           BLOB NOT NULL,
	previous_hash  BLOB NOT NULL,
	previous_until INTEGER
) WITHOUT ROWID;

CREATE TABLE audit (
	id     INTEGER PRIMARY KEY,
	at     INTEGER NOT NULL,
	what   TEXT NOT NULL,
	who    TEXT NOT NULL,
	detail TEXT NOT NULL
);
CREATE INDEX audit_at ON audit (at);
