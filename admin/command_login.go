package admin

// Sub-commands that bring credentials in.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/claude-balancer/claude-balancer/api"
)

const (
	termsNotice = `Add only accounts that are your own. The provider's terms may restrict pooling
subscription logins or sharing them with others: read them first.`
	loginHint     = `Open this URL in a browser, log in, and copy the code that the page shows:`
	importWarning = `Warning: Claude Code must stop using this login. Whoever refreshes it first
spends the other's token, which breaks both. Log Claude Code out and in again,
or point it at the balancer.`
)

func (c *cli) addCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "add <name>",
		Short: "Adds an account",
		Long: `Adds an account: with a browser login, with an API key, or with a long-lived
access token. Secrets are read from a prompt, a file or standard input.`,
		Args:              named("name"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	mode := flags.String("mode", api.PlanConsole, "Plan: console (Pro) or max")
	replace := flags.Bool("replace", false, "Log an account in again that exists already")
	keyFile := flags.String("api-key-file", "", `File that holds an API key, "-" for standard input; the plan is api`)
	tokenFile := flags.String("token-file", "", `File that holds an access token, "-" for standard input`)
	cmd.MarkFlagsMutuallyExclusive("replace", "api-key-file", "token-file")
	completeFlag(cmd, "mode", api.PlanConsole, api.PlanMax)
	cmd.RunE = c.run(func(ctx context.Context, e *env, args []string) error {
		name, plan := args[0], *mode
		switch {
		case *keyFile != "":
			if !flags.Changed("mode") {
				plan = api.PlanAPI
			}
			return addSecret(ctx, e, name, plan, "api_key", *keyFile, "API key: ")
		case *tokenFile != "":
			e.notes.line(termsNotice)
			return addSecret(ctx, e, name, plan, "access_token", *tokenFile, "Access token: ")
		default:
			if *replace && !flags.Changed("mode") {
				plan = "" // as it is
			}
			request := api.LoginRequest{Name: name, PlanType: plan, Replace: *replace}
			return login(ctx, e, request, `Account "%s" added successfully.`)
		}
	})
	return cmd
}

func (c *cli) loginCommand() *cobra.Command {
	var mode *string
	cmd := c.forAccount("login", "Logs an account in again", func(ctx context.Context, e *env, name string) error {
		request := api.LoginRequest{Name: name, PlanType: *mode, Replace: true}
		return login(ctx, e, request, `Account "%s" logged in successfully.`)
	})
	mode = cmd.Flags().String("mode", "", "Plan: console (Pro) or max; as it is if not given")
	completeFlag(cmd, "mode", api.PlanConsole, api.PlanMax)
	return cmd
}

// login prints the URL alone on one line of standard output, however wide the
// terminal is, and exchanges the code that comes back for an account.
func login(ctx context.Context, e *env, request api.LoginRequest, success string) error {
	answer, err := e.client.call(ctx, http.MethodPost, pathOf("login"), request)
	if err != nil {
		return err
	}
	started, err := decodeAnswer[api.Login](answer)
	if err != nil {
		return err
	}
	if !request.Replace {
		e.notes.line(termsNotice + "\n")
	}
	e.notes.line(loginHint)
	err = present(e, answer, func(l api.Login) { e.out.line("%s", l.AuthorizeURL) })
	if err != nil {
		return err
	}
	if e.terminal(e.in) {
		e.notes.line("\nPaste the code here. It is not shown.")
	}
	code, err := e.askSecret(ctx, "Authorization code: ")
	if err != nil {
		return fmt.Errorf("reading the authorization code: %w", err)
	}
	if code.IsZero() {
		return errors.New("no authorization code was given: nothing was added")
	}
	body := map[string]string{"code": code.Reveal()}
	return ask(ctx, e, http.MethodPost, pathOf("login", started.ID), body, func(a api.Account) {
		e.added(a, success)
	})
}

// addSecret adds an account whose credential is the content of a file.
func addSecret(ctx context.Context, e *env, name, plan, member, file, prompt string) error {
	value, err := e.secretFile(ctx, file, prompt)
	if err != nil {
		return err
	}
	return e.addAccount(ctx, map[string]any{"name": name, "plan_type": plan, member: value.Reveal()})
}

func (c *cli) importCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import <name> --file <path>",
		Short: "Adds an account from Claude Code's credentials file",
		Long: `Adds an account from the file that Claude Code keeps its login in, usually
~/.claude/.credentials.json. Claude Code must not go on using that login.`,
		Args:              named("name"),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	file := flags.StringP("file", "f", "", `Credentials file, "-" for standard input`)
	mode := flags.String("mode", "", "Plan: console (Pro) or max; by the file's subscription if not given")
	completeFlag(cmd, "mode", api.PlanConsole, api.PlanMax)
	cmd.RunE = c.run(func(ctx context.Context, e *env, args []string) error {
		if *file == "" {
			return errors.New("the credentials file is missing: give --file, for instance --file ~/.claude/.credentials.json")
		}
		content, err := e.file(ctx, *file)
		if err != nil {
			return err
		}
		plan, err := planOf(content, *mode)
		if err != nil {
			return fmt.Errorf("%s %w", inputName(*file), err)
		}
		e.notes.line(termsNotice + "\n" + importWarning)
		return e.addAccount(ctx, map[string]any{"name": args[0], "plan_type": plan, "credentials": json.RawMessage(content)})
	})
	return cmd
}

// planOf takes the plan from the subscription that a credentials file names,
// unless mode says otherwise. Its errors go on after the file's name and hold
// nothing of its content but the subscription.
func planOf(content []byte, mode string) (string, error) {
	var file struct {
		OAuth *struct {
			SubscriptionType string `json:"subscriptionType"`
		} `json:"claudeAiOauth"`
	}
	if err := json.Unmarshal(content, &file); err != nil || file.OAuth == nil {
		return "", errors.New("is not a credentials file of Claude Code: it has no JSON object claudeAiOauth")
	}
	if mode != "" {
		return mode, nil
	}
	switch subscription := strings.ToLower(file.OAuth.SubscriptionType); subscription {
	case "max":
		return api.PlanMax, nil
	case "pro":
		return api.PlanConsole, nil
	case "":
		return "", errors.New("does not say which subscription it belongs to: give --mode console or --mode max")
	default:
		return "", fmt.Errorf("belongs to a subscription %q: give --mode console or --mode max", subscription)
	}
}

func (e *env) addAccount(ctx context.Context, body map[string]any) error {
	return ask(ctx, e, http.MethodPost, pathOf("accounts"), body, func(a api.Account) {
		e.added(a, `Account "%s" added successfully.`)
	})
}

// added tells what has become of an account that came in.
func (e *env) added(a api.Account, success string) {
	e.out.line(success, a.Name)
	e.out.line("Plan: %s", planWords(a))
	e.out.line("Supported models: %s", strings.Join(splitList(a.SupportedModels), ", "))
	e.warn(a)
}
