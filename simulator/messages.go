package simulator

// POST /v1/messages and count_tokens.

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// prompt is the part of a Messages body that the fake looks at.
type prompt struct {
	model     string
	maxTokens int
	stream    bool
	raw       []byte
	fields    map[string]json.RawMessage
}

// usage of an answer, in tokens.
type usage struct {
	Input      int `json:"input_tokens"`
	CacheWrite int `json:"cache_creation_input_tokens"`
	CacheRead  int `json:"cache_read_input_tokens"`
	Output     int `json:"output_tokens"`
}

// input is the whole input, cached or not.
func (u usage) input() int { return u.Input + u.CacheWrite + u.CacheRead }

func serveMessages(x *Exchange) {
	p, problem := x.prompt()
	if problem == nil {
		problem = x.checkPrompt(p)
	}
	if problem != nil {
		x.fail(*problem)
		return
	}

	m := x.sim.compose(x.account, p)
	m.container = x.container(p)
	header, problem := x.account.charge(x.sim.now(), family(p.model), m.usage)
	for name, values := range header {
		x.Writer.Header()[name] = values
	}
	switch {
	case problem != nil:
		x.fail(*problem)
	case p.stream:
		x.stream(m)
	default:
		x.send(http.StatusOK, "application/json", m.whole())
	}
}

func serveCountTokens(x *Exchange) {
	p, problem := x.prompt()
	if problem == nil {
		problem = x.checkModel(p.model)
	}
	if problem != nil {
		x.fail(*problem)
		return
	}
	x.json(http.StatusOK, map[string]int{"input_tokens": p.tokens()})
}

// prompt reads a body as the service does: names are case-sensitive.
func (x *Exchange) prompt() (*prompt, *apiError) {
	body, problem := x.decoded()
	if problem != nil {
		return nil, problem
	}
	return readPrompt(body)
}

func readPrompt(body []byte) (*prompt, *apiError) {
	p := &prompt{raw: body}
	if err := json.Unmarshal(body, &p.fields); err != nil || p.fields == nil {
		return nil, badRequest("The request body is not valid JSON")
	}
	for _, name := range []string{"model", "messages"} {
		if p.fields[name] == nil {
			return nil, badRequest(name + ": Field required")
		}
	}
	for name, to := range map[string]any{"model": &p.model, "max_tokens": &p.maxTokens, "stream": &p.stream} {
		if raw := p.fields[name]; raw != nil && json.Unmarshal(raw, to) != nil {
			return nil, badRequest(name + ": Input has the wrong type")
		}
	}
	var list []json.RawMessage
	if json.Unmarshal(p.fields["messages"], &list) != nil {
		return nil, badRequest("messages: Input should be a valid list")
	}
	if len(list) == 0 {
		return nil, badRequest("messages: at least one message is required")
	}
	return p, nil
}

// checkPrompt refuses what the account cannot have answered.
func (x *Exchange) checkPrompt(p *prompt) *apiError {
	switch {
	case p.fields["max_tokens"] == nil:
		return badRequest("max_tokens: Field required")
	case p.maxTokens < 1:
		return badRequest("max_tokens: Input should be greater than or equal to 1")
	}
	if problem := x.checkModel(p.model); problem != nil {
		return problem
	}
	return x.checkReferences(p)
}

func (x *Exchange) checkModel(model string) *apiError {
	if !knownModel(model) {
		return missing("model: " + model)
	}
	return x.account.mayUse(model)
}

func (a *account) mayUse(model string) *apiError {
	if a.Families == nil || slices.Contains(a.Families, family(model)) {
		return nil
	}
	e := modelForbidden(model)
	return &e
}

var fileReference = regexp.MustCompile(`"file_id"\s*:\s*"(file_[^"\\]*)"`)

// checkReferences refuses files and containers that are not the account's.
func (x *Exchange) checkReferences(p *prompt) *apiError {
	for _, match := range fileReference.FindAllSubmatch(p.raw, -1) {
		if x.account.resource(kindFile, string(match[1])) == nil {
			return missing("File not found: " + string(match[1]))
		}
	}
	if id := p.containerID(); id != "" && x.account.resource(kindContainer, id) == nil {
		return missing("Container not found: " + id)
	}
	return nil
}

// containerID returns the container that the prompt wants to go on with.
func (p *prompt) containerID() string {
	var id string
	if json.Unmarshal(p.fields["container"], &id) == nil {
		return id
	}
	var object struct {
		ID string `json:"id"`
	}
	_ = json.Unmarshal(p.fields["container"], &object) // no object: no id
	return object.ID
}

// container returns the container of the answer: the named one, a new one if
// the prompt asks for one, or none.
func (x *Exchange) container(p *prompt) *container {
	if raw := p.fields["container"]; raw == nil || string(raw) == "null" {
		return nil
	}
	id := p.containerID()
	if id == "" {
		id = x.sim.newID("container_")
		x.account.own(&resource{kind: kindContainer, id: id})
	}
	return &container{ID: id, ExpiresAt: stamp(x.sim.now().Add(containerLife))}
}

// tokens estimates the input: four bytes of prompt are a token.
func (p *prompt) tokens() int {
	n := 0
	for _, name := range []string{"system", "messages", "tools"} {
		n += len(p.fields[name])
	}
	return n/4 + 1
}

// compose makes up the answer to a prompt, the same one for the same prompt.
func (s *Simulator) compose(a *account, p *prompt) message {
	sum := sha256.Sum256(p.raw)
	pick := binary.LittleEndian.Uint64(sum[:]) ^ s.opts.Seed
	wanted := s.opts.Output
	if wanted <= 0 {
		wanted = 24 + int(pick%64)
	}
	m := message{
		id: s.newID("msg_"), model: p.model, start: int(pick % uint64(len(vocabulary))),
		usage: a.cached(p), hourCache: bytes.Contains(p.raw, []byte(`"ttl":"1h"`)), stopReason: "end_turn",
	}
	m.usage.Output = min(wanted, p.maxTokens)
	if p.maxTokens < wanted {
		m.stopReason = "max_tokens"
	}
	return m
}

// maxPrompts bounds the cached prompts of an account.
const maxPrompts = 1000

// cached splits the input of a prompt that uses the prompt cache: what the
// account has seen of the conversation is read, what is new is written.
func (a *account) cached(p *prompt) usage {
	all := p.tokens()
	if !bytes.Contains(p.raw, []byte(`"cache_control"`)) {
		return usage{Input: all}
	}
	key := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%s", p.model, p.fields["system"], p.fields["tools"], p.firstMessage()))
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.prompts) >= maxPrompts {
		clear(a.prompts)
	}
	const uncached = 3
	read := min(a.prompts[key], max(all-uncached, 0))
	a.prompts[key] = max(all-uncached, 0)
	return usage{Input: min(all, uncached), CacheRead: read, CacheWrite: max(all-uncached-read, 0)}
}

func (p *prompt) firstMessage() string {
	var list []json.RawMessage
	if json.Unmarshal(p.fields["messages"], &list) != nil || len(list) == 0 {
		return ""
	}
	return string(list[0])
}

// vocabulary is the text that answers are cut from; a word counts as a token.
var vocabulary = strings.Fields(`
The short answer is that it works, but the order of the steps matters more than it seems at first.
Start with the smallest change that you can test, run it, and read the output before you go on.
If a request fails, look at the status and at the headers: most of the time they already say what
to do next. A limit has a reset; an overload passes; a bad request stays bad however often it is sent.
Here is how I would put it: keep the happy path plain, handle each error where you know what it means,
and write down why. Then measure again, because a guess about speed is wrong more often than not.
`)
