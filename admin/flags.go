package admin

// Flags as members of a JSON body: what was not given is not sent, so that the
// server's defaults and present settings stay.

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// given sets a member if its flag was given.
func given[T any](cmd *cobra.Command, body map[string]any, flag, member string, get func(string) (T, error)) {
	if !cmd.Flags().Changed(flag) {
		return
	}
	if value, err := get(flag); err == nil { // fails for a flag of another type only
		body[member] = value
	}
}

// givenList sets a member that is a list. One word stands for the default; an
// empty list, as an unset shell variable makes it, must not be taken for that.
func givenList(cmd *cobra.Command, body map[string]any, flag, defaultWord string) error {
	if !cmd.Flags().Changed(flag) {
		return nil
	}
	text, err := cmd.Flags().GetString(flag)
	if err != nil {
		return err
	}
	list := splitList(text)
	switch {
	case len(list) == 0:
		return fmt.Errorf("--%s is empty: give a comma-separated list, or %q", flag, defaultWord)
	case len(list) == 1 && list[0] == defaultWord:
		body[flag] = nil
	default:
		body[flag] = list
	}
	return nil
}

// splitList reads a comma-separated list.
func splitList(s string) []string {
	var list []string
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			list = append(list, item)
		}
	}
	return list
}
