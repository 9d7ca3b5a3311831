package access_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/secret"
)

func newCredential(tb testing.TB) secret.String {
	tb.Helper()
	c, err := access.NewCredential(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func TestACredentialHasAFixedShape(t *testing.T) {
	t.Parallel()
	shape := regexp.MustCompile(`^cb_[0-9A-Za-z]{49}$`)
	for name, random := range map[string]io.Reader{
		"zeros":  bytes.NewReader(make([]byte, 32)),
		"ones":   bytes.NewReader(bytes.Repeat([]byte{0xff}, 32)),
		"random": rand.Reader,
	} {
		c, err := access.NewCredential(random)
		if err != nil || !shape.MatchString(c.Reveal()) || !access.WellFormed(c) || !access.LooksLikeKey(c.Reveal()) {
			t.Errorf("%s: %q, %v", name, c.Reveal(), err)
		}
	}
	if newCredential(t).Equal(newCredential(t)) {
		t.Error("two credentials are equal")
	}
}

func TestWithoutRandomnessThereIsNoCredential(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	if _, err := access.NewCredential(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, err := access.NewCredential(bytes.NewReader(make([]byte, 31))); err == nil {
		t.Error("31 bytes were enough")
	}
}

func TestAnyChangedCharacterIsDetected(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		random := rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "random")
		c, err := access.NewCredential(bytes.NewReader(random))
		if err != nil || !access.WellFormed(c) {
			t.Fatalf("%q, %v", c.Reveal(), err)
		}
		raw := []byte(c.Reveal())
		i := rapid.IntRange(0, len(raw)-1).Draw(t, "position")
		b := rapid.Byte().Filter(func(b byte) bool { return b != raw[i] }).Draw(t, "byte")
		changed := slices.Clone(raw)
		changed[i] = b
		if access.WellFormed(secret.New(string(changed))) {
			t.Fatalf("%q passes for %q", changed, raw)
		}
		for _, wrong := range [][]byte{raw[:i], raw[i+1:], slices.Insert(slices.Clone(raw), i, b), append(slices.Clone(raw), b)} {
			if access.WellFormed(secret.New(string(wrong))) {
				t.Fatalf("%q passes for %q", wrong, raw)
			}
		}
	})
}

func TestSwappedNeighboursAreDetected(t *testing.T) {
	t.Parallel()
	raw := newCredential(t).Reveal()
	for i := range len(raw) - 1 {
		b := []byte(raw)
		b[i], b[i+1] = b[i+1], b[i]
		if string(b) != raw && access.WellFormed(secret.New(string(b))) {
			t.Errorf("swapped at %d: passes", i)
		}
	}
}

func TestACredentialIsReadFromEitherHeader(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		header http.Header
		want   []string
	}{
		"none":                     {http.Header{}, nil},
		"x-api-key":                {http.Header{"X-Api-Key": {"cb_1"}}, []string{"cb_1"}},
		"bearer":                   {http.Header{"Authorization": {"Bearer cb_1"}}, []string{"cb_1"}},
		"scheme in any case":       {http.Header{"Authorization": {"bEARER cb_1"}}, []string{"cb_1"}},
		"white space":              {http.Header{"Authorization": {" Bearer   cb_1 "}, "X-Api-Key": {" cb_2 "}}, []string{"cb_2", "cb_1"}},
		"both":                     {http.Header{"X-Api-Key": {"cb_1"}, "Authorization": {"Bearer cb_2"}}, []string{"cb_1", "cb_2"}},
		"own token and our key":    {http.Header{"X-Api-Key": {"sk-ant-api03-x"}, "Authorization": {"Bearer cb_2"}}, []string{"cb_2"}},
		"our key and own token":    {http.Header{"X-Api-Key": {"cb_1"}, "Authorization": {"Bearer sk-ant-oat01-x"}}, []string{"cb_1"}},
		"neither is ours":          {http.Header{"X-Api-Key": {"dummy"}, "Authorization": {"Bearer sk-ant-oat01-x"}}, nil},
		"Basic is not looked at":   {http.Header{"Authorization": {"Basic cb_1"}}, nil},
		"no scheme":                {http.Header{"Authorization": {"cb_1"}}, nil},
		"a scheme alone":           {http.Header{"Authorization": {"Bearer"}}, nil},
		"the prefix has one case":  {http.Header{"X-Api-Key": {"CB_1"}}, nil},
		"only a prefix, yet a key": {http.Header{"X-Api-Key": {"cb_"}}, []string{"cb_"}},
	} {
		var got []string
		for _, c := range access.FromRequest(tc.header) {
			got = append(got, c.Reveal())
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}

func FuzzFromRequest(f *testing.F) {
	f.Add("Bearer cb_x", "cb_y")
	f.Add("bearer\tcb_x", "")
	f.Add("Basic Y2I6Y2I=", "sk-ant")
	f.Fuzz(func(t *testing.T, authorization, apiKey string) {
		found := access.FromRequest(http.Header{"Authorization": {authorization}, "X-Api-Key": {apiKey}})
		if len(found) > 2 {
			t.Fatalf("%d credentials from two headers", len(found))
		}
		for _, c := range found {
			raw := c.Reveal()
			if !access.LooksLikeKey(raw) || raw != strings.TrimSpace(raw) || !strings.Contains(authorization+" "+apiKey, raw) {
				t.Fatalf("made up: %q", raw)
			}
			access.WellFormed(c)
		}
	})
}

func FuzzWellFormed(f *testing.F) {
	c, err := access.NewCredential(bytes.NewReader(make([]byte, 32)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c.Reveal())
	f.Add("cb_")
	f.Fuzz(func(t *testing.T, s string) {
		if access.WellFormed(secret.New(s)) && (len(s) != 52 || !access.LooksLikeKey(s)) {
			t.Fatalf("%q is well formed", s)
		}
	})
}
