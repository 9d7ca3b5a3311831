package storetest

import (
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// ControlVariable names the command that runs pg_ctl as a user who may run a
// server.
const ControlVariable = "CLAUDE_BALANCER_POSTGRES_CTL"

// Server is a PostgreSQL server of a test's own, which may stop it.
type Server struct {
	URL string // of a user who may do everything

	tb      testing.TB
	folder  string
	options string
}

// NewServer starts a server, or skips the test.
func NewServer(tb testing.TB) *Server {
	tb.Helper()
	if os.Getenv(ControlVariable) == "" {
		tb.Skip("no PostgreSQL server to stop; there is one with: .ci/postgres go test ./...")
	}
	port := freePort(tb)
	// The server's user makes the folder, so that no other user can look into it.
	folder := filepath.Join(os.TempDir(), "postgres-"+rand.Text())
	s := &Server{tb: tb, folder: folder, options: fmt.Sprintf("-c listen_addresses=127.0.0.1 -c port=%d -c unix_socket_directories=%s -c fsync=off", port, folder)}
	tb.Cleanup(func() { _ = os.RemoveAll(folder) })
	s.control("initdb", "-o", "-U balancer --auth-local=trust --auth-host=scram-sha-256 -E UTF8 --locale=C.UTF-8 --no-sync")
	s.Start()
	tb.Cleanup(func() { s.Stop("immediate") })

	password := rand.Text()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, fmt.Sprintf("host=%s port=%d user=balancer database=postgres", folder, port))
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, "ALTER ROLE balancer PASSWORD '"+password+"'"); err != nil {
		tb.Fatal(err)
	}
	s.URL = (&url.URL{Scheme: "postgres", User: url.UserPassword("balancer", password), Host: fmt.Sprint("127.0.0.1:", port),
		Path: "/postgres", RawQuery: "sslmode=disable"}).String()
	return s
}

// freePort finds a port that stays free while the server is stopped: outgoing
// connections get higher ones.
func freePort(tb testing.TB) int {
	tb.Helper()
	for range 20 {
		port := 20000 + mathrand.IntN(12000)
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", port))
		if err == nil {
			_ = l.Close()
			return port
		}
	}
	tb.Fatal("no free port")
	return 0
}

// Start starts the server and waits until it answers.
func (s *Server) Start() { s.tb.Helper(); s.control("start", "-o", s.options) }

// Stop ends the server; mode is pg_ctl's: fast breaks off what runs, immediate
// is a crash.
func (s *Server) Stop(mode string) { s.tb.Helper(); s.control("stop", "-m", mode) }

// Restart stops the server and starts it at once.
func (s *Server) Restart(mode string) { s.tb.Helper(); s.control("restart", "-m", mode) }

func (s *Server) control(verb string, args ...string) {
	s.tb.Helper()
	command := strings.Fields(os.Getenv(ControlVariable))
	log := filepath.Join(s.folder, "log")
	args = append([]string{verb, "-D", s.folder, "-s", "-w"}, args...)
	if verb != "initdb" && verb != "stop" {
		args = append(args, "-l", log) // else it keeps our output open
	}
	cmd := exec.Command(command[0], append(command[1:], args...)...)
	cmd.Dir = os.TempDir() // where any user may be
	if out, err := cmd.CombinedOutput(); err != nil {
		text, _ := os.ReadFile(log)
		s.tb.Fatalf("pg_ctl %s: %v\n%s%s", verb, err, out, text)
	}
}
