package claudebalancer

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"time"
)

// newID makes a UUID of version 7 in its text form. These begin with the time,
// here to a quarter of a microsecond (RFC 9562, 6.2, method 3), so that rows of
// the history and accounts stay in the order of their making.
func newID() string {
	var b [16]byte
	now := time.Now().UnixNano()
	fraction := uint64(now%int64(time.Millisecond)) << 12 / uint64(time.Millisecond)
	binary.BigEndian.PutUint64(b[:8], uint64(now/int64(time.Millisecond))<<16|0x7000|fraction)
	_, _ = rand.Read(b[8:]) // never fails
	b[8] = b[8]&0x3f | 0x80
	var text [36]byte
	hex.Encode(text[0:8], b[0:4])
	hex.Encode(text[9:13], b[4:6])
	hex.Encode(text[14:18], b[6:8])
	hex.Encode(text[19:23], b[8:10])
	hex.Encode(text[24:36], b[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}

// hashed stands for a value that must not be stored, such as a session id.
func hashed(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	var sum [sha256.Size]byte
	return hex.EncodeToString(h.Sum(sum[:0])[:8])
}
