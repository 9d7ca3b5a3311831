package admin

// Moving a store to another database. Unlike other sub-commands this one works
// on the databases themselves, while no server uses them.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/spf13/cobra"

	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/store"
)

func (c *cli) migrateStoreCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate-store --from sqlite:<path> --to postgres:{env.<name>}",
		Short: "Copies the store into another, new database",
		Long: `Copies everything between an SQLite file and a PostgreSQL database, in either
direction, and compares both afterwards, row by row. Stop what uses them first.
A copy that was interrupted goes on where it was. Credentials are copied as they
are stored: what is sealed needs the same encryption_key afterwards.

A PostgreSQL URL holds a password. It is taken from an environment variable or
a file: postgres:{env.NAME} or postgres:{file./path}.`,
		Example: `  $ caddy claude-balancer migrate-store --from sqlite:claude-accounts.db --to 'postgres:{env.DATABASE_URL}'`,
		Args:    named(),
	}
	from := cmd.Flags().String("from", "", "Store to copy: sqlite:<path> or postgres:{env.<name>}")
	to := cmd.Flags().String("to", "", "New store to copy it into, likewise")
	cmd.RunE = c.run(func(ctx context.Context, e *env, _ []string) error {
		source, err := storeOptions("from", *from)
		if err != nil {
			return err
		}
		target, err := storeOptions("to", *to)
		if err != nil {
			return err
		}
		told := time.Now()
		tables, err := store.Copy(ctx, source, target, func(p store.CopyProgress) {
			if time.Since(told) < 2*time.Second {
				return
			}
			told = time.Now()
			verb := "copied"
			if p.Checked {
				verb = "compared"
			}
			e.notes.line("%s: %d of %d rows %s", p.Table, p.Rows, p.Of, verb)
		})
		if err != nil {
			return err
		}
		return presentValue(e, tables, func() {
			var rows int64
			for _, t := range tables {
				rows += t.Rows
				e.out.line("%-18s %12d rows", t.Table, t.Rows)
			}
			e.out.line("Copied %d rows, and compared them. Now name the new store in the configuration.", rows)
		})
	})
	return cmd
}

// storeOptions reads a store as the command line names it. Its errors repeat
// nothing that may hold a password.
func storeOptions(flag, text string) (store.Options, error) {
	driver, place, _ := strings.Cut(text, ":")
	switch {
	case driver == "sqlite" && place != "":
		return store.Options{Path: place}, nil
	case driver == "postgres" && secret.IsReference(place):
		url, err := caddy.NewReplacer().ReplaceOrErr(place, true, true)
		if err != nil {
			return store.Options{}, fmt.Errorf("--%s: there is no URL in %s", flag, place)
		}
		return store.Options{URL: secret.New(strings.TrimSpace(url))}, nil
	case driver == "postgres", driver == "postgresql":
		return store.Options{}, fmt.Errorf("--%s: give the URL as postgres:{env.NAME} or postgres:{file./path}, since it holds a password", flag)
	case text == "":
		return store.Options{}, errors.New("both --from and --to are needed: sqlite:<path> or postgres:{env.NAME}")
	}
	return store.Options{}, fmt.Errorf("--%s must begin with sqlite: and a path, or postgres: and {env.NAME} or {file./path}", flag)
}
