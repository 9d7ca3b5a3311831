package anthropic

// What a request's body and headers say about it: the model, whether it
// streams, which conversation it belongs to.

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"strings"
)

// Bounds, in bytes, of what is taken over from a client.
const (
	maxModel       = 256
	maxSession     = 256
	maxContentPart = 64 << 10 // of what is hashed by ContentKey, for each part
)

// Body is what the balancer wants to know of a request's JSON body.
type Body struct {
	Model           string // "" if absent, no string or over 256 bytes
	Stream          bool
	MetadataSession string // the session id in metadata.user_id, "" if there is none
	// Ambiguous says that another reader may see another model: more than one
	// top-level "model", a case-variant of it, its name spelled with escapes, or
	// a value too long to be one.
	Ambiguous bool
	// Object says that the body is one JSON object, well-formed as far as the
	// walk over it can tell. For valid JSON it is exact.
	Object bool
}

// ReadBody reads top-level members of a JSON object and passes over the rest.
// Of members that occur twice it takes the last, as most JSON readers do.
//
// resources are the distinct ids in a Messages body that are bound to the
// account that made them: files (the value of any "file_id"), the container,
// and the container's own skills. Source: API reference, Files, Code
// execution, Skills.
func ReadBody(b []byte) (out Body, resources []string) {
	var container []byte
	models := 0
	o := readObject(b)
	for {
		name, value, ok := o.next()
		if !ok {
			break
		}
		escaped := bytes.IndexByte(name, '\\') >= 0
		if escaped {
			name = unescapedName(name)
		}
		switch string(name) {
		case "model":
			models++
			out.Model = strings.ToValidUTF8(text(value, maxModel), "\uFFFD")
			tooLong := len(value) > 2 && value[0] == '"' && out.Model == ""
			out.Ambiguous = out.Ambiguous || escaped || models > 1 || tooLong
		case "stream":
			out.Stream = string(value) == "true"
		case "metadata":
			out.MetadataSession = metadataSession(value)
		case "container":
			container = value
		default:
			out.Ambiguous = out.Ambiguous || len(name) == len("model") && bytes.EqualFold(name, []byte("model"))
		}
	}
	out.Object = o.closed && skipSpace(b, o.i) == len(b)
	if o.file > 0 {
		resources = appendFileIDs(resources, b[o.file:])
	}
	return out, appendContainer(resources, container)
}

// unescapedName decodes a member name. A name too long to be one of ours is
// returned as it is.
func unescapedName(raw []byte) []byte {
	const longest = 6 * len("metadata")
	if len(raw) > longest {
		return raw
	}
	quoted := make([]byte, 0, longest+2)
	quoted = append(append(append(quoted, '"'), raw...), '"')
	if s, ok := content(quoted); ok {
		return s
	}
	return raw
}

// metadataSession reads the session id out of metadata.user_id. Source: Claude
// Code 2.1 sends a JSON object as a string; the form
// user_<hash>_account_<uuid>_session_<uuid> is older (reported).
func metadataSession(metadata []byte) string {
	id, ok := content(member(metadata, "user_id"))
	if !ok {
		return ""
	}
	if len(id) > 0 && id[0] == '{' {
		return text(member(id, "session_id"), maxSession)
	}
	const mark = "_session_"
	i := bytes.LastIndex(id, []byte(mark))
	if i < 0 || !bytes.HasPrefix(id, []byte("user_")) {
		return ""
	}
	session := id[i+len(mark):]
	if len(session) > maxSession {
		return ""
	}
	return string(session)
}

// Session returns the id of the conversation that a request belongs to, ""
// if it tells none. The header wins: a subagent's requests carry it too.
// Source: Claude Code 2.1.
func Session(h http.Header, b Body) string {
	if id := h.Get("X-Claude-Code-Session-Id"); id != "" && len(id) <= maxSession {
		return id
	}
	return b.MetadataSession
}

// ContentKey identifies a conversation that tells no session id: a hash over
// the bytes of system and of the first message, which stay the same from turn
// to turn. Of each part the first 64 KiB and the length count. ok is false if
// the body has no messages.
func ContentKey(b []byte) (key [32]byte, ok bool) {
	var system, messages []byte
	o := readObject(b)
	for system == nil || messages == nil {
		name, value, more := o.next()
		if !more {
			break
		}
		switch string(name) {
		case "system":
			system = value
		case "messages":
			messages = value
		}
	}
	first := firstElement(messages)
	if first == nil {
		return key, false
	}
	h := sha256.New()
	for _, part := range [][]byte{system, first} {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		_, _ = h.Write(size[:])
		_, _ = h.Write(part[:min(len(part), maxContentPart)])
	}
	h.Sum(key[:0])
	return key, true
}
