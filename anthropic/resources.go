package anthropic

// Ids of things that belong to one account: in a request's body, and in the
// answer that made them.

import (
	"bytes"
	"slices"
	"strings"
)

const (
	maxResourceID = 256 // bytes
	maxResources  = 64  // in one body
)

const (
	fileIDName    = `"file_id"`
	containerName = `"container"`
)

// BodyResources returns the distinct ids in a Messages body that are bound to
// the account that made them: files (the value of any "file_id"), the
// container, and the container's own skills. It returns nil, and quickly, if
// the body names none. Source: API reference, Files, Code execution, Skills.
func BodyResources(b []byte) []string {
	file, container := mentions(b)
	var ids []string
	if file >= 0 {
		ids = appendFileIDs(ids, b[file:])
	}
	if container {
		ids = appendContainer(ids, member(b, "container"))
	}
	return ids
}

// mentions looks, in one pass, where the first file_id is (-1 if nowhere) and
// whether a container is named. Inside a JSON string the closing quote would be
// escaped, so texts about them rarely count.
func mentions(b []byte) (file int, container bool) {
	file = -1
	for i := 0; ; {
		n := indexQuote(b[i:])
		if n < 0 || i+n+1 == len(b) {
			return file, container
		}
		i += n
		switch b[i+1] {
		case 'f':
			if file < 0 && hasPrefix(b[i:], fileIDName) {
				file = i
			}
		case 'c':
			container = container || hasPrefix(b[i:], containerName)
		}
		i++
	}
}

func hasPrefix(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && string(b[:len(prefix)]) == prefix
}

func appendFileIDs(ids []string, b []byte) []string {
	for {
		i := bytes.Index(b, []byte(fileIDName))
		if i < 0 {
			return ids
		}
		b = b[i+len(fileIDName):]
		i = skipSpace(b, 0)
		if i == len(b) || b[i] != ':' {
			continue // a string of that wording, not a member
		}
		i = skipSpace(b, i+1)
		end := skipValue(b, i)
		if end < 0 {
			return ids
		}
		ids = appendID(ids, b[i:end], "file_")
		b = b[end:]
	}
}

// appendContainer reads the container parameter: an id, or an object with an
// id and skills. Skills without the prefix are Anthropic's own.
func appendContainer(ids []string, container []byte) []string {
	if len(container) == 0 || container[0] != '{' {
		return appendID(ids, container, "")
	}
	ids = appendID(ids, member(container, "id"), "")
	for skill := range elements(member(container, "skills")) {
		ids = appendID(ids, member(skill, "skill_id"), "skill_")
	}
	return ids
}

func appendID(ids []string, value []byte, prefix string) []string {
	id := text(value, maxResourceID)
	if len(id) <= len(prefix) || id[:len(prefix)] != prefix || len(ids) == maxResources || slices.Contains(ids, id) {
		return ids
	}
	return append(ids, id)
}

// SharedSkill reports whether a skill is Anthropic's own, which every account
// has: its id has no prefix. Source: API reference, Skills.
func SharedSkill(id string) bool { return !strings.HasPrefix(id, "skill_") }

// CreatedID returns the id of the resource that an answer describes: its
// top-level "id", "" if there is none.
func CreatedID(answer []byte) string {
	return text(member(answer, "id"), maxResourceID)
}

// ContainerID returns the id of the container that a Messages answer used, ""
// if it used none.
func ContainerID(answer []byte) string {
	return text(member(member(answer, "container"), "id"), maxResourceID)
}
