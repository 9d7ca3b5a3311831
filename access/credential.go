package access

// What a client key's credential looks like, and where a request carries it.

import (
	"crypto/sha256"
	"fmt"
	"hash/crc32"
	"io"
	"math/big"
	"net/http"
	"strings"

	"github.com/claude-balancer/claude-balancer/secret"
)

// A credential is its kind's prefix, 256 random bits and the CRC-32 of all
// that, both in base 62 at a fixed width. The prefix lets secret scanners find
// it; the checksum tells a mistyped or cut one apart without a look at the keys,
// and proves nothing else.
const (
	randomBytes  = 32
	randomDigits = 43 // 62^43 > 2^256
	checkDigits  = 6  // 62^6 > 2^32

	// base62 has the digits in the order of big.Int.Text.
	base62 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// Kind is what a credential is for. Its text is the prefix.
type Kind string

// The kinds. None is the beginning of another.
const (
	KindKey     Kind = "cb_"  // a client key
	KindAccess  Kind = "cba_" // the access token of a signed-in client
	KindRefresh Kind = "cbr_" // its refresh token
	KindDevice  Kind = "cbd_" // the device code of a sign-in
)

// NewCredential makes a client key's credential from the randomness of random,
// which is crypto/rand.Reader outside tests.
func NewCredential(random io.Reader) (secret.String, error) { return KindKey.New(random) }

// New makes a credential of this kind.
func (k Kind) New(random io.Reader) (secret.String, error) {
	var bits [randomBytes]byte
	if _, err := io.ReadFull(random, bits[:]); err != nil {
		return secret.String{}, fmt.Errorf("reading randomness for a credential: %w", err)
	}
	digits := new(big.Int).SetBytes(bits[:]).Text(62)
	body := []byte(string(k) + strings.Repeat(base62[:1], randomDigits-len(digits)) + digits)
	check := checksum(body)
	return secret.New(string(append(body, check[:]...))), nil
}

// checksum returns the digits that end a credential.
func checksum(body []byte) (digits [checkDigits]byte) {
	sum := crc32.ChecksumIEEE(body)
	for i := checkDigits - 1; i >= 0; i-- {
		digits[i] = base62[sum%62]
		sum /= 62
	}
	return digits
}

// LooksLikeKey reports whether s means to be one of our client keys, good or
// not. Such a string is never taken for a client's own token.
func LooksLikeKey(s string) bool { return strings.HasPrefix(s, string(KindKey)) }

// looksLikeOurs is LooksLikeKey for all that a request to the API may present.
func looksLikeOurs(s string) bool {
	return LooksLikeKey(s) || strings.HasPrefix(s, string(KindAccess))
}

// WellFormed reports whether s has a client key's shape and its checksum fits.
func WellFormed(s secret.String) bool { return KindKey.Fits(s) }

// Fits reports whether s has the shape of this kind and its checksum fits.
func (k Kind) Fits(s secret.String) bool { return k.fits([]byte(s.Reveal())) }

func (k Kind) fits(raw []byte) bool {
	if len(raw) != len(k)+randomDigits+checkDigits || string(raw[:len(k)]) != string(k) {
		return false
	}
	for _, c := range raw[len(k):] {
		if !isAlphanumeric(c) {
			return false
		}
	}
	body, end := raw[:len(raw)-checkDigits], raw[len(raw)-checkDigits:]
	check := checksum(body)
	return string(end) == string(check[:])
}

// Hash returns what is stored of a credential. A fast hash is right: nobody
// guesses 256 random bits.
func Hash(s secret.String) [32]byte { return sha256.Sum256([]byte(s.Reveal())) }

// FromRequest returns what a request presents as our credentials, at most one
// from X-Api-Key and one as a bearer token. Clients send either header, or
// both with different values; other values are their own affair and ignored.
func FromRequest(h http.Header) []secret.String {
	var found []secret.String
	if s := strings.TrimSpace(h.Get("X-Api-Key")); looksLikeOurs(s) {
		found = append(found, secret.New(s))
	}
	scheme, token, _ := strings.Cut(strings.TrimSpace(h.Get("Authorization")), " ")
	if token = strings.TrimSpace(token); strings.EqualFold(scheme, "Bearer") && looksLikeOurs(token) {
		found = append(found, secret.New(token))
	}
	return found
}
