// Package secret holds the one type that credentials travel in: it cannot be
// printed, logged or marshaled by accident. The raw value comes out of Reveal
// alone, so a search for that name finds every place where a secret is used.
package secret

import (
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// Redacted is what every formatter, logger and encoder gets to see.
const Redacted = "[redacted]"

// String is a credential: an access or refresh token, an API key, a client key.
// Its zero value is the absent credential. Compare with Equal, not with ==.
type String struct{ value string }

// New wraps a raw credential.
func New(value string) String { return String{value} }

// Reveal returns the raw credential. Call it only where the bytes leave for the
// place they are meant for: a header, a token request, a sealed column.
func (s String) Reveal() string { return s.value }

// IsZero reports whether there is no credential.
func (s String) IsZero() bool { return s.value == "" }

// Equal compares in a time that depends on the lengths alone.
func (s String) Equal(other String) bool {
	return subtle.ConstantTimeCompare([]byte(s.value), []byte(other.value)) == 1
}

// Format implements fmt.Formatter for every verb, %#v and %x included.
func (s String) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Redacted) }

// String implements fmt.Stringer.
func (s String) String() string { return Redacted }

// MarshalText implements encoding.TextMarshaler.
func (s String) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// MarshalJSON implements json.Marshaler.
func (s String) MarshalJSON() ([]byte, error) { return []byte(`"` + Redacted + `"`), nil }

// LogValue implements slog.LogValuer.
func (s String) LogValue() slog.Value { return slog.StringValue(Redacted) }

// UnmarshalJSON reads a JSON string. Its error names no part of the input.
func (s *String) UnmarshalJSON(data []byte) error {
	var v *string
	if err := json.Unmarshal(data, &v); err != nil {
		return fmt.Errorf("a credential must be a JSON string")
	}
	if v != nil {
		s.value = *v
	}
	return nil
}

// IsReference reports whether s is a placeholder for a secret that is kept
// elsewhere, as a configuration must name it: {env.NAME} or {file./path}.
func IsReference(s string) bool {
	return (strings.HasPrefix(s, "{env.") || strings.HasPrefix(s, "{file.")) && strings.HasSuffix(s, "}")
}
