package claudebalancer

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/claude-balancer/claude-balancer/secret"
	"github.com/claude-balancer/claude-balancer/store"
)

// Drivers of the store.
const (
	driverSQLite   = "sqlite"
	driverPostgres = "postgres"
)

// databaseName is SQLite's file in Caddy's data directory.
const databaseName = "claude-accounts.db"

// location is where a store is: in a file, or at a URL.
type location struct {
	name   string // for people
	path   string
	remote bool
	url    secret.String // it holds a password
}

// key is the same for the same store. It is not for showing.
func (l location) key() string {
	if !l.remote {
		return l.path
	}
	sum := sha256.Sum256([]byte(l.url.Reveal()))
	return driverPostgres + " " + hex.EncodeToString(sum[:])
}

// options are the ones that say where the store is.
func (l location) options() (store.Options, error) {
	if l.remote && l.url.IsZero() {
		return store.Options{}, fmt.Errorf("cannot open the store %s: there is no URL in it; it must look like postgres://user:password@host:5432/database", l.name)
	}
	return store.Options{Path: l.path, URL: l.url}, nil
}

func (c *StoreConfig) validate() error {
	if c == nil {
		return nil
	}
	switch c.Driver {
	case driverPostgres:
		if c.Path != "" {
			return errors.New("driver postgres has a url, not a path")
		}
		if !secret.IsReference(c.URL) {
			return errors.New("give the url as {env.NAME} or {file./path}, not literally: it holds a password, and Caddy stores and shows its configuration")
		}
	case "", driverSQLite:
		if c.URL != "" {
			return errors.New("driver sqlite has a path, not a url")
		}
	default:
		return fmt.Errorf("there is no driver %q; the drivers are sqlite and postgres", c.Driver)
	}
	return nil
}

// location replaces the placeholders. A URL that is not there yet is no error
// until the store is opened, since validating opens none.
func (c *StoreConfig) location() (location, error) {
	if err := c.validate(); err != nil {
		return location{}, err
	}
	if c != nil && c.Driver == driverPostgres {
		url := strings.TrimSpace(caddy.NewReplacer().ReplaceAll(c.URL, ""))
		return location{name: driverPostgres + " " + c.URL, remote: true, url: secret.New(url)}, nil
	}
	path := filepath.Join(caddy.AppDataDir(), databaseName)
	if c != nil && c.Path != "" {
		var err error
		if path, err = caddy.NewReplacer().ReplaceOrErr(c.Path, true, true); err != nil {
			return location{}, err
		}
	}
	path, err := filepath.Abs(path)
	return location{name: path, path: path}, err
}
