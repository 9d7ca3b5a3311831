package admin

// The sub-command that writes the whole history out, page by page.

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/claude-balancer/claude-balancer/api"
)

func (c *cli) exportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Writes the whole history as CSV or JSON lines, newest first",
		Args:  named(),
	}
	format := cmd.Flags().String("format", "", `"csv" (default) or "jsonl" (default with --json)`)
	output := cmd.Flags().StringP("output", "o", "", "File to write instead of standard output")
	completeFlag(cmd, "format", "csv", "jsonl")
	filters := c.historyFilters(cmd)
	cmd.RunE = c.run(func(ctx context.Context, e *env, _ []string) error {
		if *format == "" && e.json {
			*format = "jsonl"
		}
		rows, err := rowsOf(*format)
		if err != nil {
			return err
		}
		if *output == "" {
			_, err := exportAll(ctx, e, filters(), rows(e.out.w))
			return err
		}
		return exportFile(ctx, e, filters(), rows, *output)
	})
	return cmd
}

func exportFile(ctx context.Context, e *env, query url.Values, rows func(io.Writer) rowWriter, path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	n, err := exportAll(ctx, e, query, rows(f))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	e.notes.line("Exported %d requests to %s.", n, path)
	return nil
}

// exportAll follows the cursor to the end: each page continues below the last
// row of the one before, so rows that come in meanwhile shift nothing.
func exportAll(ctx context.Context, e *env, query url.Values, rows rowWriter) (int, error) {
	query.Set("limit", strconv.Itoa(api.MaxRequestLimit))
	for n := 0; ; {
		page, err := fetch[[]json.RawMessage](ctx, e, http.MethodGet, pathOf("requests")+"?"+query.Encode(), nil)
		if err != nil {
			return n, fmt.Errorf("the export broke off after %d requests: %w", n, err)
		}
		last, err := writePage(rows, page)
		if err != nil {
			return n, fmt.Errorf("writing the export: %w", err)
		}
		n += len(page)
		if len(page) < api.MaxRequestLimit {
			return n, nil
		}
		query.Set("before", last)
	}
}

// writePage returns the ID of the last row.
func writePage(rows rowWriter, page []json.RawMessage) (last string, err error) {
	for _, raw := range page {
		var r api.Request
		if err := json.Unmarshal(raw, &r); err != nil {
			return "", fmt.Errorf("the server's answer cannot be read: %w", err)
		}
		if err := rows.write(raw, r); err != nil {
			return "", err
		}
		last = r.ID
	}
	return last, rows.flush()
}

// rowWriter takes each row as it came and as it is understood.
type rowWriter interface {
	write(raw json.RawMessage, r api.Request) error
	flush() error
}

func rowsOf(format string) (func(io.Writer) rowWriter, error) {
	switch format {
	case "", "csv":
		return newCSVRows, nil
	case "jsonl":
		return func(w io.Writer) rowWriter { return jsonRows{w} }, nil
	}
	return nil, fmt.Errorf("unknown format %q: use csv or jsonl", format)
}

// jsonRows writes the API's own JSON, one row on a line.
type jsonRows struct{ w io.Writer }

func (j jsonRows) write(raw json.RawMessage, _ api.Request) error {
	var line bytes.Buffer
	if err := json.Compact(&line, raw); err != nil {
		return err
	}
	_, err := io.WriteString(j.w, safeJSON(line.Bytes())+"\n")
	return err
}

func (jsonRows) flush() error { return nil }

// csvRows writes one record for each row, headed by the members' JSON names.
type csvRows struct{ w *csv.Writer }

func newCSVRows(w io.Writer) rowWriter {
	rows := csvRows{csv.NewWriter(w)}
	head := make([]string, len(csvColumns))
	for i, column := range csvColumns {
		head[i] = column.name
	}
	_ = rows.w.Write(head) // flush tells
	return rows
}

func (c csvRows) write(_ json.RawMessage, r api.Request) error {
	record := make([]string, len(csvColumns))
	for i, column := range csvColumns {
		record[i] = safe(column.value(r))
	}
	return c.w.Write(record)
}

func (c csvRows) flush() error {
	c.w.Flush()
	return c.w.Error()
}

// csvColumns are the members of a row; an absent value is an empty field.
var csvColumns = []struct {
	name  string
	value func(api.Request) string
}{
	{"id", func(r api.Request) string { return r.ID }},
	{"timestamp", func(r api.Request) string { return number(r.Timestamp) }},
	{"method", func(r api.Request) string { return r.Method }},
	{"path", func(r api.Request) string { return r.Path }},
	{"account_used", func(r api.Request) string { return orEmpty(r.AccountUsed) }},
	{"plan_type", func(r api.Request) string { return orEmpty(r.PlanType) }},
	{"model", func(r api.Request) string { return orEmpty(r.Model) }},
	{"status_code", func(r api.Request) string { return strconv.Itoa(r.StatusCode) }},
	{"success", func(r api.Request) string { return strconv.Itoa(r.Success) }},
	{"outcome", func(r api.Request) string { return string(r.Outcome) }},
	{"error_message", func(r api.Request) string { return orEmpty(r.ErrorMessage) }},
	{"response_time_ms", func(r api.Request) string { return number(r.ResponseTimeMS) }},
	{"duration_ms", func(r api.Request) string { return number(r.DurationMS) }},
	{"failover_attempts", func(r api.Request) string { return strconv.Itoa(r.FailoverAttempts) }},
	{"stream", func(r api.Request) string { return strconv.Itoa(r.Stream) }},
	{"session", func(r api.Request) string { return orEmpty(r.Session) }},
	{"client", func(r api.Request) string { return orEmpty(r.Client) }},
	{"input_tokens", func(r api.Request) string { return orEmpty(r.InputTokens) }},
	{"output_tokens", func(r api.Request) string { return orEmpty(r.OutputTokens) }},
	{"cache_read_tokens", func(r api.Request) string { return orEmpty(r.CacheReadTokens) }},
	{"cache_write_5m_tokens", func(r api.Request) string { return orEmpty(r.CacheWrite5mTokens) }},
	{"cache_write_1h_tokens", func(r api.Request) string { return orEmpty(r.CacheWrite1hTokens) }},
	{"cost_usd", func(r api.Request) string { return orEmpty(r.CostUSD) }},
	{"upstream_request_id", func(r api.Request) string { return orEmpty(r.UpstreamRequestID) }},
	{"attempts", func(r api.Request) string { return attemptsJSON(r.Attempts) }},
}

func orEmpty[T any](v *T) string {
	if v == nil {
		return ""
	}
	return fmt.Sprint(*v)
}

// attemptsJSON is a list inside one field.
func attemptsJSON(attempts []api.Attempt) string {
	encoded, err := json.Marshal(attempts)
	if err != nil || len(attempts) == 0 {
		return "[]"
	}
	return string(encoded)
}
