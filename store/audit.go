package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// AddAudit adds an entry to the audit trail.
func (s *Store) AddAudit(ctx context.Context, a Audit) error {
	if a.At.IsZero() {
		a.At = s.now()
	}
	if _, err := s.exec(ctx, 0, `INSERT INTO audit (at, what, who, detail) VALUES (?, ?, ?, ?)`,
		a.At.UnixMilli(), a.What, a.Who, a.Detail); err != nil {
		return fmt.Errorf("write to the audit trail: %w", err)
	}
	return nil
}

// Audits returns the last entries of the audit trail, the newest first.
func (s *Store) Audits(ctx context.Context, limit int) ([]Audit, error) {
	entries, err := collect(ctx, s.reader, func(r *sql.Rows, a *Audit) error {
		return r.Scan(millis{&a.At}, &a.What, &a.Who, &a.Detail)
	}, `SELECT at, what, who, detail FROM audit ORDER BY at DESC, id DESC LIMIT ?`, limit)
	if err != nil {
		return nil, fmt.Errorf("read the audit trail: %w", err)
	}
	return entries, nil
}

// PruneAudit removes the entries before the given time.
func (s *Store) PruneAudit(ctx context.Context, before time.Time) error {
	if _, err := s.exec(ctx, 0, `DELETE FROM audit WHERE at < ?`, before.UnixMilli()); err != nil {
		return fmt.Errorf("prune the audit trail: %w", err)
	}
	return nil
}
