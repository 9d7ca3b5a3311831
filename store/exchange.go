package store

// What processes that share a database tell each other of what each of them uses
// at the moment.

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Remote reports whether the database is not part of this machine: it can be
// away while this process goes on, and processes of other machines can use it.
func (s *Store) Remote() bool {
	_, local := s.engine.(*sqliteEngine)
	return !local
}

// Node is what a process told last.
type Node struct {
	ID   string
	Age  time.Duration // since it told, by the database's clock
	Load []byte        // in its words
}

// TellNode stores what a process tells the others, over what it told before.
func (s *Store) TellNode(ctx context.Context, id string, load []byte) error {
	if _, err := s.exec(ctx, 0, `INSERT INTO nodes (id, seen, load) VALUES (?, `+s.engine.now()+`, ?)
		ON CONFLICT (id) DO UPDATE SET seen = excluded.seen, load = excluded.load`, id, string(load)); err != nil {
		return fmt.Errorf("tell other processes: %w", err)
	}
	return nil
}

// OtherNodes returns what the processes other than id told within maxAge.
func (s *Store) OtherNodes(ctx context.Context, id string, maxAge time.Duration) ([]Node, error) {
	nodes, err := collect(ctx, s.reader, func(r *sql.Rows, n *Node) error {
		var age int64
		err := r.Scan(&n.ID, &age, &n.Load)
		n.Age = time.Duration(age) * time.Millisecond
		return err
	}, `SELECT id, `+s.engine.now()+` - seen, load FROM nodes WHERE id <> ? AND seen > `+s.engine.now()+` - ? ORDER BY id`, id, maxAge.Milliseconds())
	if err != nil {
		return nil, fmt.Errorf("read what other processes tell: %w", err)
	}
	return nodes, nil
}

// RemoveNodes forgets what processes told longer ago than maxAge.
func (s *Store) RemoveNodes(ctx context.Context, maxAge time.Duration) error {
	if _, err := s.exec(ctx, 0, `DELETE FROM nodes WHERE seen <= `+s.engine.now()+` - ?`, maxAge.Milliseconds()); err != nil {
		return fmt.Errorf("forget other processes: %w", err)
	}
	return nil
}
