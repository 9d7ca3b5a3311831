package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/claude-balancer/claude-balancer/secret"
)

const raw = "sk-ant-oat01-never-seen"

type holder struct {
	Name  string
	Token secret.String
	More  []secret.String
	Ptr   *secret.String
}

func TestASecretIsNeverPrinted(t *testing.T) {
	s := secret.New(raw)
	h := holder{"work", s, []secret.String{s}, &s}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T %v"} {
		for _, arg := range []any{s, &s, h, &h, []any{s}, map[string]secret.String{"k": s}} {
			if out := fmt.Sprintf(verb, arg); strings.Contains(out, raw) || strings.Contains(out, fmt.Sprintf("%x", raw)) {
				t.Errorf("fmt.Sprintf(%q, %T) shows the secret: %s", verb, arg, out)
			}
		}
	}

	var buf bytes.Buffer
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zapcore.EncoderConfig{}), zapcore.AddSync(&buf), zap.DebugLevel))
	log.Debug("m", zap.Any("a", s), zap.Any("b", h), zap.Any("c", &h), zap.Reflect("d", s), zap.Stringer("e", s))
	slog.New(slog.NewTextHandler(&buf, nil)).Info("m", "a", s, "b", h)
	slog.New(slog.NewJSONHandler(&buf, nil)).Info("m", "a", s, "b", h)
	if err := json.NewEncoder(&buf).Encode(h); err != nil {
		t.Fatal(err)
	}
	if err := json.NewEncoder(&buf).Encode(map[string]any{"a": s, "b": &s}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(buf.String(), raw) {
		t.Errorf("an encoder shows the secret:\n%s", buf.String())
	}
	if n := strings.Count(buf.String(), secret.Redacted); n < 10 {
		t.Errorf("only %d redacted values were written:\n%s", n, buf.String())
	}
}

func TestASecretIsReadFromJSONAndRevealed(t *testing.T) {
	var h struct{ Token secret.String }
	if err := json.Unmarshal([]byte(`{"Token":"`+raw+`"}`), &h); err != nil || h.Token.Reveal() != raw {
		t.Fatalf("got %q, %v", h.Token.Reveal(), err)
	}
	if err := json.Unmarshal([]byte(`{"Token":null}`), &h); err != nil {
		t.Fatal(err)
	}
	err := json.Unmarshal([]byte(`{"Token":{"deep":"`+raw+`"}}`), &h)
	if err == nil || strings.Contains(err.Error(), raw) {
		t.Fatalf("the error for a wrong type must not show the input: %v", err)
	}
}

func TestEqualComparesValues(t *testing.T) {
	a, b := secret.New("x"), secret.New("y")
	if a.Equal(b) || !a.Equal(secret.New("x")) || a.Equal(secret.String{}) {
		t.Fatal("Equal is wrong")
	}
	if !(secret.String{}).IsZero() || a.IsZero() {
		t.Fatal("IsZero is wrong")
	}
}

func TestOnlyPlaceholdersOfEnvironmentAndFilesAreReferences(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]bool{
		"{env.KEY}": true, "{file./run/secrets/key}": true, "": false, "key": false, "{env.KEY": false, "{http.request.host}": false, "x{env.KEY}": false,
	} {
		if secret.IsReference(s) != want {
			t.Errorf("%q: %v", s, !want)
		}
	}
}
