package anthropic

// Ids of things that belong to one account: in a request's body, and in the
// answer that made them.

import (
	"bytes"
	"slices"
	"strings"
)

const maxResourceID = 256 // bytes

// MaxResources bounds the ids that are read in one body. A body with more is
// read up to one more, so that it can be told from one with so many. It is more
// than the images and documents that upstream takes in one request.
const MaxResources = 1000

const fileIDName = `"file_id"`

// isFileIDName reports whether a string, with its quotes, reads "file_id" once
// its escapes are resolved: each \u escape of a letter makes it five bytes longer.
func isFileIDName(quoted []byte) bool {
	const plain = len(fileIDName)
	if len(quoted) == plain {
		return string(quoted) == fileIDName
	}
	escapes := len(quoted) - plain
	return escapes > 0 && escapes%5 == 0 && escapes <= 5*(plain-2) && bytes.IndexByte(quoted, '\\') > 0 &&
		string(unescapedName(quoted[1:len(quoted)-1])) == fileIDName[1:plain-1]
}

// appendFileIDs walks from string to string. b begins outside of one.
func appendFileIDs(ids []string, b []byte) []string {
	for i := 0; ; {
		n := indexQuote(b[i:])
		if n < 0 {
			return ids
		}
		begin := i + n
		if i = skipString(b, begin); i < 0 {
			return ids
		}
		if !isFileIDName(b[begin:i]) {
			continue
		}
		colon := skipSpace(b, i)
		if colon == len(b) || b[colon] != ':' {
			continue // a string of that wording, not a member
		}
		begin = skipSpace(b, colon+1)
		if i = skipValue(b, begin); i < 0 {
			return ids
		}
		ids = appendID(ids, b[begin:i], "file_")
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
	if len(id) <= len(prefix) || id[:len(prefix)] != prefix || len(ids) > MaxResources || slices.Contains(ids, id) {
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
