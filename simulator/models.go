package simulator

// The models that the service knows.

import (
	"net/http"
	"slices"
	"strings"
)

// current models, newest first, as the models endpoint lists them.
var current = []string{
	"claude-fable-5-2", "claude-mythos-5-2", "claude-opus-5-5", "claude-sonnet-5-5", "claude-haiku-5-5",
	"claude-fable-5-1", "claude-mythos-5-1", "claude-fable-5", "claude-mythos-5", "claude-mythos-preview",
	"claude-opus-5", "claude-sonnet-5", "claude-opus-4-8", "claude-opus-4-7", "claude-opus-4-6", "claude-sonnet-4-6",
	"claude-opus-4-5-20251101", "claude-haiku-4-5-20251001", "claude-sonnet-4-5-20250929",
}

// unlisted models are answered too: aliases, and retired ones, with which the
// service's older clients still work in tests and demos.
var unlisted = []string{
	"claude-opus-4-5", "claude-haiku-4-5", "claude-sonnet-4-5",
	"claude-opus-4-1-20250805", "claude-opus-4-20250514", "claude-sonnet-4-20250514", "claude-3-7-sonnet-20250219",
	"claude-3-5-haiku-20241022", "claude-3-5-sonnet-20241022", "claude-3-5-sonnet-20240620",
	"claude-3-opus-20240229", "claude-3-sonnet-20240229", "claude-3-haiku-20240307",
}

func knownModel(id string) bool { return slices.Contains(current, id) || slices.Contains(unlisted, id) }

// family returns the model family in an id, or "other".
func family(model string) string {
	for _, f := range []string{"opus", "sonnet", "haiku", "fable", "mythos"} {
		if strings.Contains(model, f) {
			return f
		}
	}
	return "other"
}

type modelInfo struct {
	Type        string `json:"type"`
	ID          string `json:"id"`
	DisplayName string `json:"display_name"`
	CreatedAt   string `json:"created_at"`
}

func (m modelInfo) key() string { return m.ID }

func describe(id string) modelInfo {
	return modelInfo{Type: "model", ID: id, DisplayName: displayName(id), CreatedAt: "2026-01-01T00:00:00Z"}
}

// displayName turns claude-opus-4-5-20251101 into Claude Opus 4.5.
func displayName(id string) string {
	var name []string
	var version []string
	for part := range strings.SplitSeq(id, "-") {
		switch {
		case len(part) == len("20251101"):
		case part[0] >= '0' && part[0] <= '9':
			version = append(version, part)
		default:
			name = append(name, strings.ToUpper(part[:1])+part[1:])
		}
	}
	if version != nil {
		name = append(name, strings.Join(version, "."))
	}
	return strings.Join(name, " ")
}

func serveModels(x *Exchange) {
	models := make([]modelInfo, len(current))
	for i, id := range current {
		models[i] = describe(id)
	}
	servePage(x, models)
}

func serveModel(x *Exchange) {
	if !knownModel(x.id) {
		x.fail(*missing("model: " + x.id))
		return
	}
	x.json(http.StatusOK, describe(x.id))
}
