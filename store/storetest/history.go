package storetest

import (
	"fmt"
	"time"
)

// What Fill makes up: accounts are called a0, a1, … with the ids id-a0, id-a1, …,
// and keys key-0, key-1, ….
const (
	Accounts = 200
	Keys     = 1000
)

// Fill returns statements that fill an empty store with so many rows of history
// over the thirty days before end, and with their sums. What SQLite's file keeps
// beside them, to count and to find them, is left to the store.
func Fill(rows int, end time.Time, postgres bool) []string {
	const span = 30 * 24 * time.Hour
	first := end.Add(-span).UnixMilli()
	source, id := `WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < %d)`, `printf('%%012x', i)`
	var statements []string
	if postgres {
		source, id = `WITH n AS (SELECT generate_series(0, %d - 1) AS i)`, `lpad(to_hex(i), 12, '0')`
		for day := end.Add(-span).UTC().Truncate(24 * time.Hour); day.Before(end); day = day.Add(24 * time.Hour) {
			statements = append(statements, fmt.Sprintf(`CREATE TABLE requests_%s PARTITION OF requests FOR VALUES FROM (%d) TO (%d)`,
				day.Format("20060102"), day.UnixMilli(), day.Add(24*time.Hour).UnixMilli()))
		}
	}
	statements = append(statements,
		fmt.Sprintf(`INSERT INTO requests (id, timestamp, method, path, account_used, account_id, plan_type, model_used, status_code,
			success, outcome, response_time_ms, duration_ms, stream, client, input_tokens, output_tokens, cost_usd) `+source+`
			SELECT `+id+`, %d + i * %d / %d, 'POST', '/v1/messages', 'a' || i %% %d, 'id-a' || i %% %[5]d, 'max',
			'model-' || i %% 5, 200, CASE WHEN i %% 20 > 0 THEN 1 ELSE 0 END, CASE WHEN i %% 20 > 0 THEN 'ok' ELSE 'exhausted' END, 300, 400, 1,
			'key-' || i %% %[6]d, 100, 10, 0.01 FROM n`, rows, first, span.Milliseconds(), rows, Accounts, Keys),
		`INSERT INTO history_accounts (id, name) SELECT DISTINCT account_id, account_used FROM requests`)
	for kind, column := range map[string]string{"outcome": "outcome", "model": "model_used", "account": "account_id",
		"plan": "plan_type", "key": "client", "family": "'sonnet'"} {
		statements = append(statements, `INSERT INTO usage_hours SELECT timestamp - timestamp % 3600000, '`+kind+`', `+column+`, COUNT(*),
			SUM(1 - success), 0, SUM(response_time_ms), SUM(input_tokens), SUM(output_tokens), 0, 0, 0, SUM(cost_usd)
			FROM requests GROUP BY 1, 3`)
	}
	statements = append(statements, `INSERT INTO key_spend (hour, name, cost_usd) SELECT hour, name, cost_usd FROM usage_hours WHERE kind = 'key'`)
	if postgres {
		statements = append(statements, `INSERT INTO request_days (day, requests) SELECT timestamp - timestamp % 86400000, COUNT(*)
			FROM requests GROUP BY 1`, `ANALYZE`)
	}
	return statements
}
