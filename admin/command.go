package admin

// The command `caddy claude-balancer`: its tree, and what every sub-command
// shares. Sub-commands only ask the admin API and show its answers.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
)

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "claude-balancer",
		Usage: "<command>",
		Short: "Manages the accounts, keys and history of claude_balancer",
		Long: `
Manages the pool of a running server over Caddy's admin endpoint, which is
taken from --address, else from --config, else from the CADDY_ADMIN
environment variable, else it is localhost:2019.

Plans: console (Pro) and max accounts log in with a browser; api accounts have
an API key. Which models a plan may use is set in the configuration.`,
		CobraFunc: func(cmd *cobra.Command) {
			newCLI().attach(cmd)
		},
	})
}

const examples = `  $ caddy claude-balancer add work --mode max
  $ caddy claude-balancer add ci --api-key-file key.txt
  $ caddy claude-balancer import laptop --file ~/.claude/.credentials.json
  $ caddy claude-balancer list
  $ caddy claude-balancer explain --model claude-opus-4-5
  $ caddy claude-balancer keys add alice`

// cli is the command with the values of the flags that all sub-commands share.
type cli struct {
	now      func() time.Time
	terminal func(io.Reader) bool
	columns  func(io.Writer) int

	address, config, adapter string
	json                     bool
}

func newCLI() *cli { return &cli{now: time.Now, terminal: isTerminal, columns: columnsOf} }

// attach hangs the sub-commands below cmd.
func (c *cli) attach(cmd *cobra.Command) {
	cmd.Example = examples
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		if what, _, isNumber := strings.Cut(err.Error(), ": strconv."); isNumber {
			return fmt.Errorf("%s: it must be a whole number, and not that large", what)
		}
		return err
	})
	flags := cmd.PersistentFlags()
	flags.StringVar(&c.address, "address", "", "Address of the admin endpoint: host:port or unix//path")
	flags.StringVarP(&c.config, "config", "c", "", "Configuration file to take the admin address from, if --address is not given")
	flags.StringVarP(&c.adapter, "adapter", "a", "", "Name of the config adapter to apply to --config")
	flags.BoolVar(&c.json, "json", false, "Print the admin API's JSON")
	c.group(cmd,
		c.addCommand(), c.loginCommand(), c.importCommand(),
		c.listCommand(), c.showCommand(), c.setCommand(),
		c.pauseCommand(), c.resumeCommand(), c.refreshCommand(), c.clearLimitsCommand(), c.removeCommand(),
		c.statsCommand(), c.historyCommand(), c.exportCommand(), c.explainCommand(),
		c.keysCommand(), c.auditCommand(),
		c.resetStatsCommand(), c.clearHistoryCommand(), c.migrateStoreCommand(),
		c.versionCommand(), helpCommand(),
	)
}

// group makes cmd a mere parent: alone it helps, with an unknown word it fails.
func (c *cli) group(cmd *cobra.Command, children ...*cobra.Command) {
	cmd.AddCommand(children...)
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		return fmt.Errorf("unknown command %q: see %q", args[0], cmd.CommandPath()+" --help")
	}
}

func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [<command>]",
		Short: "Explains a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			parent := cmd.Parent()
			target, rest, err := parent.Find(args)
			if err != nil || len(rest) > 0 {
				return fmt.Errorf("unknown command %q: see %q", strings.Join(args, " "), parent.CommandPath()+" --help")
			}
			return target.Help()
		},
	}
}

// env is what one run of a sub-command works with.
type env struct {
	client   *client
	in       io.Reader
	out      *printer // results
	notes    *printer // everything else: prompts, hints, warnings
	json     bool
	now      time.Time
	terminal func(io.Reader) bool
	columns  int // of the terminal that shows the results; 0 = as many as needed
}

// action is what a sub-command does with its arguments.
type action func(ctx context.Context, e *env, args []string) error

// run makes a sub-command's action what cobra runs. Its error becomes one line
// on standard error, which cobra writes, and exit status 1.
func (c *cli) run(do action) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		e, err := c.env(cmd)
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		if err := do(ctx, e, args); err != nil {
			if ctx.Err() != nil {
				return errors.New("interrupted")
			}
			return errors.New(safe(err.Error()))
		}
		if e.out.err != nil {
			return fmt.Errorf("writing the output: %w", e.out.err)
		}
		return nil
	}
}

func (c *cli) env(cmd *cobra.Command) (*env, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(c.address, nil, c.config, c.adapter)
	if err != nil {
		return nil, fmt.Errorf("finding the admin address in %s: %w", c.config, err)
	}
	client, err := newClient(address)
	if err != nil {
		return nil, err
	}
	return &env{
		client:   client,
		in:       cmd.InOrStdin(),
		out:      &printer{w: cmd.OutOrStdout()},
		notes:    &printer{w: cmd.ErrOrStderr()},
		json:     c.json,
		now:      c.now(),
		terminal: c.terminal,
		columns:  c.columns(cmd.OutOrStdout()),
	}, nil
}

// ask makes one call and shows its answer: as it is with --json, else in words.
func ask[T any](ctx context.Context, e *env, method, path string, body any, words func(T)) error {
	answer, err := e.client.call(ctx, method, path, body)
	if err != nil {
		return err
	}
	return present(e, answer, words)
}

func present[T any](e *env, answer json.RawMessage, words func(T)) error {
	if e.json {
		return e.printJSON(answer)
	}
	v, err := decodeAnswer[T](answer)
	if err != nil {
		return err
	}
	words(v)
	return nil
}

// fetch makes one call for a value that is needed before anything is shown.
func fetch[T any](ctx context.Context, e *env, method, path string, body any) (T, error) {
	answer, err := e.client.call(ctx, method, path, body)
	if err != nil {
		var zero T
		return zero, err
	}
	return decodeAnswer[T](answer)
}

func decodeAnswer[T any](answer json.RawMessage) (T, error) {
	var v T
	if len(answer) == 0 { // 204
		return v, nil
	}
	if err := json.Unmarshal(answer, &v); err != nil {
		return v, fmt.Errorf("the server's answer cannot be read: %w", err)
	}
	return v, nil
}

// presentValue shows what was put together here, rather than one answer.
func presentValue(e *env, v any, words func()) error {
	if !e.json {
		words()
		return nil
	}
	encoded, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding the result: %w", err)
	}
	return e.printJSON(encoded)
}

func (e *env) printJSON(answer json.RawMessage) error {
	if len(answer) == 0 { // 204
		return nil
	}
	var b bytes.Buffer
	if err := json.Indent(&b, bytes.TrimSpace(answer), "", "  "); err != nil {
		return fmt.Errorf("the server's answer cannot be read: %w", err)
	}
	e.out.print(safeJSON(b.Bytes()) + "\n")
	return nil
}

// forName is a sub-command whose one argument is a name, which completes.
func (c *cli) forName(use, short string, names nameSource, do func(ctx context.Context, e *env, name string) error) *cobra.Command {
	return &cobra.Command{
		Use:               use + " <name>",
		Short:             short,
		Args:              named("name"),
		ValidArgsFunction: c.completeFirst(names),
		RunE: c.run(func(ctx context.Context, e *env, args []string) error {
			return do(ctx, e, args[0])
		}),
	}
}

// named makes cobra check that exactly these arguments are there. What is one
// too many is not repeated: it may be a secret in the wrong place.
func named(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		usage := cmd.CommandPath()
		for _, name := range names {
			usage += " <" + name + ">"
		}
		if len(args) < len(names) {
			return fmt.Errorf("the %s is missing: use %q", names[len(args)], usage)
		}
		if len(args) > len(names) {
			return fmt.Errorf("too many arguments: use %q", usage)
		}
		return nil
	}
}
