-- Claude Code's sign-ins. Of codes and tokens only the SHA-256 is kept.

-- A sign-in that waits for a person's decision, then for its client. state is
-- pending, approved or denied; key_id is whose sign-in it became.
CREATE TABLE device_codes (
	hash       BLOB PRIMARY KEY,
	user_code  TEXT NOT NULL UNIQUE,
	state      TEXT NOT NULL,
	key_id     TEXT REFERENCES client_keys (id) ON DELETE CASCADE,
	expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX device_codes_expires_at ON device_codes (expires_at);
CREATE INDEX device_codes_key ON device_codes (key_id);

-- A client that is signed in as a client key, with all tokens it ever got.
CREATE TABLE sign_ins (
	id         TEXT PRIMARY KEY,
	key_id     TEXT NOT NULL REFERENCES client_keys (id) ON DELETE CASCADE,
	created_at INTEGER NOT NULL,
	expires_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX sign_ins_key ON sign_ins (key_id);
CREATE INDEX sign_ins_expires_at ON sign_ins (expires_at);

-- kind is access or refresh. A refresh token is spent by its first use.
CREATE TABLE sign_in_tokens (
	hash       BLOB PRIMARY KEY,
	sign_in_id TEXT NOT NULL REFERENCES sign_ins (id) ON DELETE CASCADE,
	kind       TEXT NOT NULL,
	issued_at  INTEGER NOT NULL,
	expires_at INTEGER NOT NULL,
	spent_at   INTEGER
) WITHOUT ROWID;
CREATE INDEX sign_in_tokens_sign_in ON sign_in_tokens (sign_in_id, kind, issued_at);
CREATE INDEX sign_in_tokens_expires_at ON sign_in_tokens (expires_at);
