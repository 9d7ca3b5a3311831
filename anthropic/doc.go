// Package anthropic holds the facts of Anthropic's wire as pure functions: what
// a request asks for, what an answer means, what its headers, its stream and
// its usage tell. It does no I/O, starts no goroutine and reads no clock.
//
// A rule of the wire lives here and nowhere else. "Source:" in a comment names
// where the rule was learned; nothing here was learned by probing.
package anthropic
