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

const fileIDName = `"file_id"`

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
	if len(container) == 0 {
		return ids
	}
	if container[0] != '{' {
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
