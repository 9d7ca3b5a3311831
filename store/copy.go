package store

// Copying a store into another one, to change the database: table by table in
// the order of keys, so that an interrupted copy goes on behind the last row
// that arrived.

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
)

// ErrCopying means that a copy into the store was begun and not finished.
var ErrCopying = errors.New("it holds an unfinished copy of another store; run migrate-store again, or empty it")

// counterCopying is 1 while a copy into the store is not finished.
const counterCopying = "copying"

// copiedTable is a table to copy, with the key that orders its rows.
type copiedTable struct {
	name string
	key  []string
}

// copiedTables are in an order in which rows come after those they refer to.
var copiedTables = []copiedTable{
	{"accounts", []string{"id"}},
	{"limits", []string{"account_id", "scope", "name"}},
	{"windows", []string{"account_id", "name"}},
	{"sessions", []string{"session_key"}},
	{"resources", []string{"id"}},
	{"client_keys", []string{"id"}},
	{"device_codes", []string{"hash"}},
	{"sign_ins", []string{"id"}},
	{"sign_in_tokens", []string{"hash"}},
	{"key_spend", []string{"hour", "name"}},
	{"counted_batches", []string{"recorder"}},
	{"audit", []string{"id"}},
	{"history_accounts", []string{"id"}},
	{"usage_hours", []string{"hour", "kind", "name"}},
	{"window_hours", []string{"hour", "account_id"}},
	{historyTable, []string{"timestamp", "id"}},
}

const historyTable = "requests"

// ownTables are what a database keeps about itself.
var ownTables = []string{"counters", "nodes", "request_days", "request_minutes", "changes", "schema_version"}

// copyChunk is how many rows a transaction copies; SQLite takes 32,766
// parameters in a statement.
const copyChunk = 500

// copyPatience is for counting the rows of a large history.
const copyPatience = 10 * time.Minute

// CopyProgress is how far a copy has come.
type CopyProgress struct {
	Table   string `json:"table"`
	Rows    int64  `json:"rows"` // in the target
	Of      int64  `json:"-"`    // in the source
	Checked bool   `json:"-"`    // false while copying, true while comparing
}

// Copy copies everything from one database into another, new one, credentials
// as they are stored: what is sealed needs the same key. Then it compares both,
// row by row. Neither may be in use. A copy that was interrupted goes on where
// it was. progress is called often.
func Copy(ctx context.Context, from, to Options, progress func(CopyProgress)) ([]CopyProgress, error) {
	if to.URL.IsZero() == from.URL.IsZero() {
		return nil, errors.New("one of the two stores must be SQLite, the other PostgreSQL")
	}
	source, err := openForCopy(ctx, from)
	if err != nil {
		return nil, err
	}
	defer func() { _ = source.Close() }()
	target, err := openForCopy(ctx, to)
	if err != nil {
		return nil, err
	}
	defer func() { _ = target.Close() }()
	c := copier{source, target, progress}
	if err := c.begin(ctx); err != nil {
		return nil, err
	}
	done := make([]CopyProgress, 0, len(copiedTables))
	for _, table := range copiedTables {
		if err := c.copyTable(ctx, table); err != nil {
			return nil, fmt.Errorf("copy %s: %w", table.name, err)
		}
	}
	for _, table := range copiedTables {
		rows, err := c.compare(ctx, table)
		if err != nil {
			return nil, fmt.Errorf("compare %s: %w", table.name, err)
		}
		done = append(done, CopyProgress{Table: table.name, Rows: rows})
	}
	return done, c.finish(ctx)
}

// openForCopy opens a store without its keys.
func openForCopy(ctx context.Context, o Options) (*Store, error) {
	o.patience = copyPatience
	s := &Store{now: time.Now, log: zap.NewNop()}
	if err := s.choose(o); err != nil {
		return nil, err
	}
	err := s.engine.open(ctx)
	if err == nil {
		err = s.engine.migrate(ctx)
	}
	if err != nil {
		return nil, errors.Join(s.engine.explainOpen(err), s.Close())
	}
	return s, nil
}

// isCopying reports whether a copy into the store was not finished.
func (s *Store) isCopying(ctx context.Context) (copying bool, err error) {
	err = s.reader.scan(ctx, []any{&copying}, `SELECT EXISTS (SELECT 1 FROM counters WHERE name = ? AND value <> 0)`, counterCopying)
	return copying, err
}

// refuseCopy is ErrCopying if a copy into the store was not finished.
func (s *Store) refuseCopy(ctx context.Context) error {
	copying, err := s.isCopying(ctx)
	if err == nil && copying {
		err = ErrCopying
	}
	return err
}

type copier struct {
	source, target *Store
	progress       func(CopyProgress)
}

// begin makes sure that the target holds nothing but an earlier part of the
// copy, and marks it.
func (c *copier) begin(ctx context.Context) error {
	if err := c.source.refuseCopy(ctx); err != nil {
		return c.source.engine.explainOpen(err)
	}
	if copying, err := c.target.isCopying(ctx); err != nil || copying {
		return err
	}
	for _, table := range copiedTables {
		used := false
		if err := c.target.reader.scan(ctx, []any{&used}, `SELECT EXISTS (SELECT 1 FROM `+table.name+`)`); err != nil {
			return err
		}
		if used {
			return fmt.Errorf("the store %s is in use already: it has rows in %s; copy into a new one", c.target.Name(), table.name)
		}
	}
	_, err := c.target.exec(ctx, 0, `INSERT INTO counters (name, value) VALUES (?, 1)
		ON CONFLICT (name) DO UPDATE SET value = excluded.value`, counterCopying)
	return err
}

func (c *copier) finish(ctx context.Context) error {
	return c.target.write(ctx, AllChanges, func(ctx context.Context, tx *sql.Tx) error {
		if err := c.target.engine.recount(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE counters SET value = (SELECT COALESCE(MAX(revision), 0) FROM sessions) WHERE name = ?`,
			counterSessions); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM counters WHERE name = ?`, counterCopying)
		return err
	})
}

// columns are a table's columns in the target, the key first, and how
// PostgreSQL keeps each.
func (c *copier) columns(ctx context.Context, table copiedTable) (names, kinds []string, err error) {
	typed := c.target
	if _, ok := c.source.engine.(*postgresEngine); ok {
		typed = c.source
	}
	err = typed.reader.read(ctx, func(ctx context.Context) error {
		rows, err := typed.reader.QueryContext(ctx, `SELECT `+strings.Join(table.key, ", ")+`, * FROM `+table.name+` LIMIT 0`)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		types, err := rows.ColumnTypes()
		if err != nil {
			return err
		}
		names, kinds = nil, nil
		for _, t := range types {
			if !slices.Contains(names, t.Name()) {
				names, kinds = append(names, t.Name()), append(kinds, t.DatabaseTypeName())
			}
		}
		return rows.Err()
	})
	return names, kinds, err
}

// copyTable copies what comes behind the target's last row.
func (c *copier) copyTable(ctx context.Context, table copiedTable) error {
	names, kinds, err := c.columns(ctx, table)
	if err != nil {
		return err
	}
	total, err := c.source.countRowsOf(ctx, table.name)
	if err != nil {
		return err
	}
	there, err := c.target.countRowsOf(ctx, table.name)
	if err != nil {
		return err
	}
	last, err := c.lastKey(ctx, table, kinds)
	if err != nil {
		return err
	}
	for {
		c.progress(CopyProgress{Table: table.name, Rows: there, Of: total})
		rows, err := page(ctx, c.source, table, names, kinds, last)
		if err != nil || len(rows) == 0 {
			return err
		}
		if err := c.insert(ctx, table, names, rows); err != nil {
			return err
		}
		there += int64(len(rows))
		last = rows[len(rows)-1][:len(table.key)]
	}
}

func (s *Store) countRowsOf(ctx context.Context, table string) (n int64, err error) {
	err = s.reader.scan(ctx, []any{&n}, `SELECT COUNT(*) FROM `+table)
	return n, err
}

// lastKey returns the key of the target's last row, or nil.
func (c *copier) lastKey(ctx context.Context, table copiedTable, kinds []string) ([]any, error) {
	keys, err := collect(ctx, c.target.reader, scanRow(kinds[:len(table.key)]), `SELECT `+strings.Join(table.key, ", ")+` FROM `+table.name+
		` ORDER BY `+strings.Join(table.key, " DESC, ")+` DESC LIMIT 1`)
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	return keys[0], nil
}

// page returns the next rows in the order of their keys.
func page(ctx context.Context, s *Store, table copiedTable, names, kinds []string, after []any) ([][]any, error) {
	key := strings.Join(table.key, ", ")
	query := `SELECT ` + strings.Join(names, ", ") + ` FROM ` + table.name
	args := slices.Clone(after)
	if after != nil {
		query += ` WHERE (` + key + `) > (?` + strings.Repeat(", ?", len(after)-1) + `)`
		if table.name == historyTable { // for the database to leave out partitions
			query += ` AND timestamp >= ?`
			args = append(args, after[0])
		}
	}
	return collect(ctx, s.reader, scanRow(kinds), query+` ORDER BY `+key+` LIMIT ?`, append(args, copyChunk)...)
}

func (c *copier) insert(ctx context.Context, table copiedTable, names []string, rows [][]any) error {
	if table.name == historyTable {
		times := columnOf(rows, func(row *[]any) int64 { return (*row)[0].(int64) })
		if err := c.target.engine.makeRoom(ctx, times); err != nil {
			return err
		}
	}
	values := `(?` + strings.Repeat(", ?", len(names)-1) + `)`
	query := `INSERT INTO ` + table.name + ` (` + strings.Join(names, ", ") + `) VALUES ` + values + strings.Repeat(", "+values, len(rows)-1)
	_, err := c.target.exec(ctx, 0, query, slices.Concat(rows...)...)
	return err
}

// compare reads a table on both sides.
func (c *copier) compare(ctx context.Context, table copiedTable) (int64, error) {
	names, kinds, err := c.columns(ctx, table)
	if err != nil {
		return 0, err
	}
	total, err := c.target.countRowsOf(ctx, table.name)
	if err != nil {
		return 0, err
	}
	sides := [2]struct {
		rows int64
		sum  uint64
	}{}
	for i, s := range []*Store{c.source, c.target} {
		var last []any
		for {
			rows, err := page(ctx, s, table, names, kinds, last)
			if err != nil {
				return 0, err
			}
			if len(rows) == 0 {
				break
			}
			for _, row := range rows {
				sides[i].sum += checksum(row)
			}
			sides[i].rows += int64(len(rows))
			last = rows[len(rows)-1][:len(table.key)]
			c.progress(CopyProgress{Table: table.name, Rows: (sides[0].rows + sides[1].rows) / 2, Of: total, Checked: true})
		}
	}
	switch {
	case sides[0].rows != sides[1].rows:
		return 0, fmt.Errorf("%d rows in the source and %d in the copy: was the source in use meanwhile? Stop what uses it, empty the target and start again",
			sides[0].rows, sides[1].rows)
	case sides[0].sum != sides[1].sum:
		return 0, errors.New("the copy has other values than the source: was the source in use meanwhile? Stop what uses it, empty the target and start again")
	}
	return sides[1].rows, nil
}

// checksum is a row's, whatever database it comes from.
func checksum(row []any) uint64 {
	h := fnv.New64a()
	var number [9]byte
	for _, v := range row {
		switch v := v.(type) {
		case nil:
			number[0] = 0
			_, _ = h.Write(number[:1])
		case int64:
			number[0] = 1
			binary.BigEndian.PutUint64(number[1:], uint64(v))
			_, _ = h.Write(number[:])
		case float64:
			number[0] = 2
			binary.BigEndian.PutUint64(number[1:], math.Float64bits(v))
			_, _ = h.Write(number[:])
		case string:
			number[0] = 3
			binary.BigEndian.PutUint64(number[1:], uint64(len(v)))
			_, _ = h.Write(append(number[:], v...))
		case []byte:
			number[0] = 4
			binary.BigEndian.PutUint64(number[1:], uint64(len(v)))
			_, _ = h.Write(append(number[:], v...))
		}
	}
	return h.Sum64()
}

// scanRow scans a row and makes its values what PostgreSQL keeps: SQLite keeps
// in any column whatever was put there.
func scanRow(kinds []string) func(*sql.Rows, *[]any) error {
	return func(r *sql.Rows, row *[]any) error {
		*row = make([]any, len(kinds))
		pointers := make([]any, len(kinds))
		for i := range pointers {
			pointers[i] = &(*row)[i]
		}
		if err := r.Scan(pointers...); err != nil {
			return err
		}
		for i, kind := range kinds {
			v, err := convert((*row)[i], kind)
			if err != nil {
				return err
			}
			(*row)[i] = v
		}
		return nil
	}
}

// convert returns a value as a column of a PostgreSQL type has it.
func convert(v any, kind string) (any, error) {
	if v == nil {
		return nil, nil
	}
	text := ""
	switch v := v.(type) {
	case string:
		text = v
	case []byte:
		if kind == "BYTEA" {
			return slices.Clone(v), nil
		}
		text = string(v)
	case bool:
		text = strconv.Itoa(boolInt(v))
	case int64:
		text = strconv.FormatInt(v, 10)
	case float64:
		text = strconv.FormatFloat(v, 'g', -1, 64)
	case time.Time:
		text = strconv.FormatInt(v.UnixMilli(), 10)
	}
	switch kind {
	case "TEXT":
		return cleanText(text), nil
	case "BYTEA":
		return []byte(text), nil
	}
	number, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, fmt.Errorf("%q is no number", text)
	}
	if kind == "FLOAT8" {
		return number, nil
	}
	if whole, err := strconv.ParseInt(text, 10, 64); err == nil {
		return whole, nil
	}
	return int64(number), nil
}
