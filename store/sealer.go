package store

// Sealing: how credentials lie in the database when there is a key.

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/claude-balancer/claude-balancer/secret"
)

// Errors of a database whose credentials are sealed.
var (
	ErrKeyMissing = errors.New("the encryption key is missing")
	ErrKeyWrong   = errors.New("the encryption key is wrong")
)

// keySize is the length of a key in bytes.
const keySize = 32

// sealPrefix begins every sealed text: sealed:v1:<key id>:<base64 of nonce and
// ciphertext>.
const sealPrefix = "sealed:v1:"

var sealEncoding = base64.RawStdEncoding.Strict()

// Sealer seals credentials with AES-256-GCM, bound to the account and column
// that they belong to. The nil Sealer stores them as they are.
type Sealer struct {
	current string // id of the key that seals
	keys    map[string]cipher.AEAD
}

// NewSealer seals with newKey and opens what any of the keys has sealed. Keys
// are 32 bytes.
func NewSealer(newKey []byte, oldKeys ...[]byte) (*Sealer, error) {
	k := &Sealer{current: keyID(newKey), keys: map[string]cipher.AEAD{}}
	for _, key := range append([][]byte{newKey}, oldKeys...) {
		if len(key) != keySize {
			return nil, fmt.Errorf("an encryption key has %d bytes, not %d", keySize, len(key))
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return nil, err
		}
		k.keys[keyID(key)] = aead
	}
	return k, nil
}

// CheckSuccessor says why the store that k seals, once it is open, cannot go on
// with next: ErrKeyMissing, ErrKeyWrong, or that the change takes a new start,
// which seals what is stored anew. The nil Sealer is one without keys.
func (k *Sealer) CheckSuccessor(next *Sealer) error {
	switch {
	case k == nil && next == nil, k != nil && next != nil && next.current == k.current:
		return nil
	case k != nil && next == nil:
		return ErrKeyMissing
	case k != nil && next.keys[k.current] == nil:
		return ErrKeyWrong
	}
	return errors.New("restart Caddy to change the encryption key")
}

// ParseKey reads a key: 32 bytes in hex or in base64, standard or URL alphabet,
// padded or not. Its error shows nothing of the text.
func ParseKey(text string) ([]byte, error) {
	text = strings.TrimSpace(text)
	if key, err := hex.DecodeString(text); err == nil && len(key) == keySize {
		return key, nil
	}
	for _, encoding := range []*base64.Encoding{
		base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding,
	} {
		if key, err := encoding.DecodeString(text); err == nil && len(key) == keySize {
			return key, nil
		}
	}
	return nil, fmt.Errorf("an encryption key is %d bytes in hex or base64; make one with: openssl rand -base64 %d", keySize, keySize)
}

func keyID(key []byte) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

// seal returns what to store for v. An absent credential stays absent.
func (k *Sealer) seal(account, column string, v secret.String) string {
	if k == nil || v.IsZero() {
		return v.Reveal()
	}
	nonce := make([]byte, k.keys[k.current].NonceSize())
	_, _ = rand.Read(nonce) // never fails
	sealed := k.keys[k.current].Seal(nonce, nonce, []byte(v.Reveal()), sealedFor(account, column))
	return sealPrefix + k.current + ":" + sealEncoding.EncodeToString(sealed)
}

// open is the inverse of seal. It takes text that is not sealed as it is.
func (k *Sealer) open(account, column, text string) (secret.String, error) {
	rest, sealed := strings.CutPrefix(text, sealPrefix)
	if !sealed {
		return secret.New(text), nil
	}
	if k == nil {
		return secret.String{}, ErrKeyMissing
	}
	id, encoded, _ := strings.Cut(rest, ":")
	aead, ok := k.keys[id]
	if !ok {
		return secret.String{}, ErrKeyWrong
	}
	raw, err := sealEncoding.DecodeString(encoded)
	if err != nil || len(raw) < aead.NonceSize() {
		return secret.String{}, errors.New("the sealed text is damaged")
	}
	plain, err := aead.Open(nil, raw[:aead.NonceSize()], raw[aead.NonceSize():], sealedFor(account, column))
	if err != nil {
		return secret.String{}, errors.New("the sealed text is damaged or belongs elsewhere")
	}
	return secret.New(string(plain)), nil
}

// isCurrent reports whether text is as seal would store it today.
func (k *Sealer) isCurrent(text string) bool {
	return text == "" || strings.HasPrefix(text, sealPrefix+k.current+":")
}

func sealedFor(account, column string) []byte { return []byte(account + "\x00" + column) }
