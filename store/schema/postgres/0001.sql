-- Times are ms since the epoch, NULL = never or unknown; the tables mean what
-- they mean in SQLite. Text that is compared is compared by its bytes.

CREATE TABLE accounts (
	id                    text COLLATE "C" PRIMARY KEY,
	name                  text COLLATE "C" NOT NULL,
	refresh_token         text NOT NULL,
	access_token          text,
	expires_at            bigint,
	created_at            bigint NOT NULL,
	last_used             bigint,
	request_count         bigint NOT NULL DEFAULT 0,
	plan_type             text NOT NULL,
	supported_models      text,
	kind                  text NOT NULL,
	issued_at             bigint,
	generation            bigint NOT NULL DEFAULT 1,
	priority              bigint NOT NULL DEFAULT 0,
	weight                bigint NOT NULL DEFAULT 1,
	max_in_flight         bigint NOT NULL DEFAULT 0,
	paused                bigint NOT NULL DEFAULT 0,
	state                 text NOT NULL DEFAULT '',
	state_reason          text NOT NULL DEFAULT '',
	state_since           bigint,
	tier                  text NOT NULL DEFAULT '',
	input_tokens          bigint NOT NULL DEFAULT 0,
	output_tokens         bigint NOT NULL DEFAULT 0,
	cache_read_tokens     bigint NOT NULL DEFAULT 0,
	cache_write_5m_tokens bigint NOT NULL DEFAULT 0,
	cache_write_1h_tokens bigint NOT NULL DEFAULT 0,
	cost_usd              double precision,
	lease_owner           text,
	lease_until           bigint
) WITH (fillfactor = 70); -- counters change with every batch: room to do it in place
CREATE UNIQUE INDEX accounts_name ON accounts (name);

-- A partition is a day (UTC), called requests_yyyymmdd, made before its first
-- row comes. Retention drops partitions.
CREATE TABLE requests (
	id                    text COLLATE "C" NOT NULL,
	timestamp             bigint NOT NULL,
	method                text NOT NULL,
	path                  text NOT NULL,
	account_used          text,
	status_code           bigint,
	success               bigint,
	error_message         text,
	response_time_ms      bigint,
	failover_attempts     bigint,
	input_tokens          bigint,
	output_tokens         bigint,
	model_used            text COLLATE "C",
	account_id            text COLLATE "C",
	plan_type             text,
	outcome               text COLLATE "C" NOT NULL,
	duration_ms           bigint NOT NULL,
	stream                bigint NOT NULL,
	session               text,
	client                text COLLATE "C",
	cache_read_tokens     bigint,
	cache_write_5m_tokens bigint,
	cache_write_1h_tokens bigint,
	cost_usd              double precision,
	upstream_request_id   text,
	attempts              text,
	PRIMARY KEY (id, timestamp)
) PARTITION BY RANGE (timestamp);
CREATE INDEX requests_time ON requests (timestamp);
CREATE INDEX requests_account ON requests (account_id, timestamp) WHERE account_id IS NOT NULL;
CREATE INDEX requests_model ON requests (model_used, timestamp) WHERE model_used IS NOT NULL;
CREATE INDEX requests_client ON requests (client, timestamp) WHERE client IS NOT NULL;
CREATE INDEX requests_outcome ON requests (outcome, timestamp) WHERE outcome <> 'ok';

-- The days that have a partition, and how many rows are in it: counting them
-- takes too long once there are millions.
CREATE TABLE request_days (
	day      bigint PRIMARY KEY, -- its start
	requests bigint NOT NULL
);

CREATE TABLE history_accounts (
	id   text COLLATE "C" PRIMARY KEY,
	name text COLLATE "C" NOT NULL
);
CREATE INDEX history_accounts_name ON history_accounts (name);

CREATE TABLE usage_hours (
	hour                  bigint NOT NULL,
	kind                  text COLLATE "C" NOT NULL,
	name                  text COLLATE "C" NOT NULL,
	requests              bigint NOT NULL,
	errors                bigint NOT NULL,
	unpriced              bigint NOT NULL,
	response_ms           bigint NOT NULL,
	input_tokens          bigint NOT NULL,
	output_tokens         bigint NOT NULL,
	cache_read_tokens     bigint NOT NULL,
	cache_write_5m_tokens bigint NOT NULL,
	cache_write_1h_tokens bigint NOT NULL,
	cost_usd              double precision,
	PRIMARY KEY (hour, kind, name)
) WITH (fillfactor = 70);

CREATE TABLE window_hours (
	hour        bigint NOT NULL,
	account_id  text COLLATE "C" NOT NULL,
	utilization double precision NOT NULL,
	PRIMARY KEY (hour, account_id)
);

CREATE TABLE key_spend (
	hour     bigint NOT NULL,
	name     text COLLATE "C" NOT NULL,
	cost_usd double precision NOT NULL,
	PRIMARY KEY (hour, name)
) WITH (fillfactor = 70);

-- counter: rewrite = 1 while plain credentials may be left in unused parts of
-- the table of accounts.
CREATE TABLE counters (
	name  text COLLATE "C" PRIMARY KEY,
	value bigint NOT NULL
);
INSERT INTO counters (name, value) VALUES ('rewrite', 0);

CREATE TABLE counted_batches (
	recorder text COLLATE "C" PRIMARY KEY,
	batch    bigint NOT NULL,
	at       bigint NOT NULL
);

CREATE TABLE limits (
	account_id text COLLATE "C" NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
	scope      text COLLATE "C" NOT NULL,
	name       text COLLATE "C" NOT NULL,
	cause      text NOT NULL,
	header     text NOT NULL,
	since      bigint,
	until      bigint,
	PRIMARY KEY (account_id, scope, name)
);

CREATE TABLE windows (
	account_id  text COLLATE "C" NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
	name        text COLLATE "C" NOT NULL,
	utilization double precision,
	status      text NOT NULL,
	resets_at   bigint,
	seen_at     bigint NOT NULL,
	PRIMARY KEY (account_id, name)
);

CREATE TABLE sessions (
	session_key text COLLATE "C" PRIMARY KEY,
	account_id  text COLLATE "C" NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
	last_used   bigint NOT NULL
);
CREATE INDEX sessions_last_used ON sessions (last_used);
CREATE INDEX sessions_account ON sessions (account_id);

CREATE TABLE resources (
	id         text COLLATE "C" PRIMARY KEY,
	account_id text COLLATE "C" NOT NULL REFERENCES accounts (id) ON DELETE CASCADE,
	client     text NOT NULL,
	created_at bigint NOT NULL
);
CREATE INDEX resources_account ON resources (account_id);

CREATE TABLE client_keys (
	id             text COLLATE "C" PRIMARY KEY,
	name           text COLLATE "C" NOT NULL UNIQUE,
	role           text NOT NULL,
	models         text,
	accounts       text,
	created_at     bigint NOT NULL,
	expires_at     bigint,
	last_used      bigint,
	rpm            bigint NOT NULL,
	max_in_flight  bigint NOT NULL,
	budget_usd     double precision,
	budget_period  text NOT NULL,
	hash           bytea NOT NULL,
	previous_hash  bytea NOT NULL,
	previous_until bigint
);

CREATE TABLE device_codes (
	hash       bytea PRIMARY KEY,
	user_code  text COLLATE "C" NOT NULL UNIQUE,
	state      text NOT NULL,
	key_id     text COLLATE "C" REFERENCES client_keys (id) ON DELETE CASCADE,
	expires_at bigint NOT NULL
);
CREATE INDEX device_codes_expires_at ON device_codes (expires_at);
CREATE INDEX device_codes_key ON device_codes (key_id);

CREATE TABLE sign_ins (
	id         text COLLATE "C" PRIMARY KEY,
	key_id     text COLLATE "C" NOT NULL REFERENCES client_keys (id) ON DELETE CASCADE,
	created_at bigint NOT NULL,
	expires_at bigint NOT NULL
);
CREATE INDEX sign_ins_key ON sign_ins (key_id);
CREATE INDEX sign_ins_expires_at ON sign_ins (expires_at);

CREATE TABLE sign_in_tokens (
	hash       bytea PRIMARY KEY,
	sign_in_id text COLLATE "C" NOT NULL REFERENCES sign_ins (id) ON DELETE CASCADE,
	kind       text COLLATE "C" NOT NULL,
	issued_at  bigint NOT NULL,
	expires_at bigint NOT NULL,
	spent_at   bigint
);
CREATE INDEX sign_in_tokens_sign_in ON sign_in_tokens (sign_in_id, kind, issued_at);
CREATE INDEX sign_in_tokens_expires_at ON sign_in_tokens (expires_at);

CREATE TABLE audit (
	id     bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
	at     bigint NOT NULL,
	what   text NOT NULL,
	who    text NOT NULL,
	detail text NOT NULL
);
CREATE INDEX audit_at ON audit (at);

-- How often each open store (node) has written records of each kind, for the
-- others to see; kind is a bit of Changes.
CREATE TABLE changes (
	node    text COLLATE "C" NOT NULL,
	kind    bigint NOT NULL,
	version bigint NOT NULL,
	at      bigint NOT NULL,
	PRIMARY KEY (node, kind)
) WITH (fillfactor = 50);
