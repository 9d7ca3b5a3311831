// Command simulator runs the fake of api.anthropic.com by itself, for trying the
// balancer by hand and for tests in other languages:
//
//	go run ./cmd/simulator -accounts work:console,team:max,key:api
//
// It prints a Caddyfile for the balancer in front of it and a command for each
// account that adds it there, and runs until it is interrupted.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/claude-balancer/claude-balancer/simulator"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil && err != flag.ErrHelp {
		fmt.Fprintln(os.Stderr, "simulator:", err)
		os.Exit(1)
	}
}

// settings are what the flags say.
type settings struct {
	address, caFile string
	tls             bool
	accounts        []simulator.Account
	options         simulator.Options
}

func run(ctx context.Context, args []string, out io.Writer) error {
	set, err := readFlags(args)
	if err != nil {
		return err
	}
	s := simulator.New(set.options)
	for _, a := range set.accounts {
		s.AddAccount(a)
	}
	srv, err := listen(s, set)
	if err != nil {
		return err
	}
	defer srv.Close()
	describe(out, s, srv, set)
	<-ctx.Done()
	return nil
}

func readFlags(args []string) (settings, error) {
	set := settings{options: simulator.Options{Control: true}}
	flags := flag.NewFlagSet("simulator", flag.ContinueOnError)
	flags.StringVar(&set.address, "addr", "127.0.0.1:8787", "`address` to listen on")
	flags.BoolVar(&set.tls, "tls", false, "serve HTTPS with HTTP/2")
	flags.StringVar(&set.caFile, "ca", "simulator-ca.pem", "`file` to write the certificate to, with -tls")
	accounts := flags.String("accounts", "work:console,team:max,key:api",
		"comma-separated `list` of name:plan or name:plan:limit; plans are console, max and api, limit is requests per 5 hours, for api per minute")
	flags.DurationVar(&set.options.Pace, "pace", 20*time.Millisecond, "`time` between two events of a stream")
	flags.DurationVar(&set.options.Ping, "ping", 10*time.Second, "longest silence of a stream while it waits for -pace")
	flags.IntVar(&set.options.Output, "output", 0, "`tokens` of an answer (0: varying)")
	flags.BoolVar(&set.options.Fast, "fast", false, "prepared answers for benchmarks; nothing is recorded")
	flags.Uint64Var(&set.options.Seed, "seed", 0, "varies credentials, ids and texts")
	if err := flags.Parse(args); err != nil {
		return set, err
	}
	if flags.NArg() > 0 {
		return set, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	var err error
	set.accounts, err = readAccounts(*accounts)
	return set, err
}

// readAccounts reads name:plan[:limit],…
func readAccounts(list string) ([]simulator.Account, error) {
	var accounts []simulator.Account
	names := make(map[string]bool)
	for entry := range strings.SplitSeq(list, ",") {
		name, rest, _ := strings.Cut(strings.TrimSpace(entry), ":")
		plan, limit, limited := strings.Cut(rest, ":")
		a := simulator.Account{Name: name, Plan: plan}
		switch {
		case name == "":
			return nil, fmt.Errorf("account %q has no name", entry)
		case names[name]:
			return nil, fmt.Errorf("account %q is there twice", name)
		case !slices.Contains([]string{simulator.PlanConsole, simulator.PlanMax, simulator.PlanAPI}, plan):
			return nil, fmt.Errorf("account %q: plan %q is not console, max or api", name, plan)
		}
		if limited {
			n, err := strconv.ParseInt(limit, 10, 64)
			if err != nil || n < 0 {
				return nil, fmt.Errorf("account %q: limit %q is not a number of requests", name, limit)
			}
			window := simulator.Window{Name: "5h", Limit: n}
			if plan == simulator.PlanAPI {
				window.Name = "requests"
			}
			a.Windows = []simulator.Window{window}
		}
		names[name] = true
		accounts = append(accounts, a)
	}
	return accounts, nil
}

func listen(s *simulator.Simulator, set settings) (*simulator.Server, error) {
	if !set.tls {
		return s.Listen(set.address)
	}
	srv, err := s.ListenTLS(set.address)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(set.caFile, srv.CAPEM, 0o644); err != nil {
		srv.Close()
		return nil, fmt.Errorf("write the certificate: %w", err)
	}
	return srv, nil
}

// describe prints what a person needs to use the simulator. Its credentials
// open nothing else, so they may be shown.
func describe(out io.Writer, s *simulator.Simulator, srv *simulator.Server, set settings) {
	url := srv.URL
	fmt.Fprintf(out, "The simulator listens on %s, its control endpoint is %s/_simulator/accounts.\n", url, url)
	trust := ""
	if set.tls {
		fmt.Fprintf(out, "Its certificate is in %s.\n", set.caFile)
		trust = fmt.Sprintf("\n\t\ttransport http {\n\t\t\ttls_trust_pool file %s\n\t\t}", set.caFile)
	}
	fmt.Fprintf(out, `
A Caddyfile for it:

{
	claude_balancer {
		oauth {
			authorize_url console %[1]s/oauth/authorize
			authorize_url max %[1]s/cai/oauth/authorize
			token_url %[1]s%[2]s
			profile_url %[1]s/api/oauth/profile
		}%[3]s
	}
}
http://localhost:8081 {
	claude_balancer {
		upstream %[1]s%[3]s
	}
}

The accounts, as commands that add them to the balancer:

`, url, simulator.OAuthTokenPath, trust)
	for _, a := range set.accounts {
		body := strings.ReplaceAll(string(addBody(s, a)), "'", `'\''`)
		fmt.Fprintf(out, "curl -H 'Content-Type: application/json' localhost:2019/claude_balancer/accounts -d '%s'\n", body)
	}
	fmt.Fprintln(out, "\nCtrl-C ends it.")
}

// addBody is the admin API's description of an account, with its credentials.
func addBody(s *simulator.Simulator, a simulator.Account) []byte {
	c := s.Credentials(a.Name)
	body := map[string]any{"name": a.Name, "plan_type": a.Plan}
	if a.Plan == simulator.PlanAPI {
		body["api_key"] = c.APIKey.Reveal()
	} else {
		body["access_token"] = c.Access.Reveal()
		body["refresh_token"] = c.Refresh.Reveal()
		body["expires_at"] = c.ExpiresAt.UnixMilli()
	}
	b, err := json.Marshal(body)
	if err != nil {
		panic(err) // a map of strings and a number
	}
	return b
}
