package admin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/claude-balancer/claude-balancer/api"
)

func TestExportFollowsTheCursorToTheEnd(t *testing.T) {
	t.Parallel()
	b := new(fakeBackend)
	for i := range 2*api.MaxRequestLimit + 5 {
		b.requests = append(b.requests, api.Request{ID: fmt.Sprintf("r%d", i), Attempts: []api.Attempt{}})
	}
	path := filepath.Join(t.TempDir(), "out.csv")
	stdout, stderr, err := person{server: serve(t, b)}.runs(t, "export", "-o", path)
	if want := "Exported 2005 requests to " + path + ".\n"; err != nil || stdout != "" || stderr != want {
		t.Fatalf("%v %q %q", err, stdout, stderr)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
	if len(lines) != 2006 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, line := range lines[1:] {
		if id, _, _ := strings.Cut(line, ","); id != b.requests[i].ID {
			t.Fatalf("line %d is of %s", i+2, id)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is readable by others: %v %v", info.Mode(), err)
	}
}

func TestAnExportThatBreaksOffSaysSo(t *testing.T) {
	t.Parallel()
	server := serve(t, &fakeBackend{err: errors.New("disk on fire")})
	if got := (person{server: server}).fails(t, "export", "-o", filepath.Join(t.TempDir(), "x")); got != "the export broke off after 0 requests: the balancer failed: disk on fire" {
		t.Errorf("got %q", got)
	}
}

func TestCSVHasAColumnForEveryMemberOfARow(t *testing.T) {
	t.Parallel()
	row := reflect.TypeFor[api.Request]()
	if row.NumField() != len(csvColumns) {
		t.Fatalf("%d columns for %d members", len(csvColumns), row.NumField())
	}
	for i, column := range csvColumns {
		if tag := row.Field(i).Tag.Get("json"); tag != column.name {
			t.Errorf("column %d is %s, the member %s", i, column.name, tag)
		}
	}
}
