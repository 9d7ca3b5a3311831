package claudebalancer

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/claude-balancer/claude-balancer/access"
	"github.com/claude-balancer/claude-balancer/anthropic"
	"github.com/claude-balancer/claude-balancer/api"
	"github.com/claude-balancer/claude-balancer/simulator"
	"github.com/claude-balancer/claude-balancer/store"
)

// key issues a client key and returns its credential.
func (r *rig) key(n api.NewKey) string {
	r.t.Helper()
	k, err := r.app.runtime.AddKey(context.Background(), n)
	if err != nil {
		r.t.Fatal(err)
	}
	return k.Key
}

func (r *rig) keyNamed(name string) api.Key {
	r.t.Helper()
	keys, err := r.app.runtime.Keys(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	for _, k := range keys {
		if k.Name == name {
			return k
		}
	}
	r.t.Fatalf("no key %q", name)
	return api.Key{}
}

func (r *rig) revoke(name string) {
	r.t.Helper()
	if err := r.app.runtime.RevokeKey(context.Background(), name); err != nil {
		r.t.Fatal(err)
	}
}

// dollarEach makes each answer of 32 tokens cost one dollar.
var dollarEach = rigOptions{sim: simulator.Options{Output: 32}, global: []string{"price * 0 31250 0 0 0"}}

func ptr[T any](v T) *T { return &v }

const badKey = "This client key is not good: it is unknown, expired, revoked or not copied whole. Ask the operator for a new one."

func mustRefuseKey(t *testing.T, got reply) {
	t.Helper()
	got.mustBe(t, 401)
	if got.errorType(t) != "authentication_error" || got.errorMessage(t) != badKey || got.header.Get("X-Should-Retry") != "false" {
		t.Errorf("not the answer to a bad key: %v %s", got.header, got.body)
	}
}

func TestAKeyIsTakenFromEitherHeaderAndNeverGoesUpstream(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{directive: []string{"access keys"}})
	c := r.add("a", "max")
	key := r.key(api.NewKey{Name: "ci"})
	for _, header := range [][]string{
		{"X-Api-Key", key},
		{"Authorization", "Bearer " + key},
		{"X-Api-Key", "sk-ant-api03-own", "Authorization", "Bearer " + key},
		{"X-Api-Key", key, "Authorization", "Bearer sk-ant-oat01-own"},
	} {
		r.sim.Reset()
		r.message(sonnet, header...).mustBe(t, 200)
		up := r.sim.Requests()[0].Header
		if got := up.Get("Authorization"); got != "Bearer "+c.Access.Reveal() || up.Get("X-Api-Key") != "" || strings.Contains(fmt.Sprint(up), key) {
			t.Errorf("%q: upstream got %v", header[0], up)
		}
	}
	mustRefuseKey(t, r.message(sonnet, "X-Api-Key", key[:len(key)-1]))
	r.message(sonnet, "Authorization", "Basic "+key).mustBe(t, 401)
}

func TestAKeyThatIsLimitedToModelsGets400ForOthers(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("a", "max")
	key := r.key(api.NewKey{Name: "small", Models: []string{"*haiku*", "claude-sonnet-*"}})
	send := func(path, body string, header ...string) reply {
		return r.send("POST", path, body, append([]string{"X-Api-Key", key}, header...)...)
	}
	const messages, count = "/v1/messages", "/v1/messages/count_tokens"
	for _, path := range []string{messages, count} {
		send(path, messageBody(haiku, false)).mustBe(t, 200)
		send(path, messageBody(sonnet, false)).mustBe(t, 200)
		got := send(path, messageBody(opus, false)).mustBe(t, 400)
		if m := got.errorMessage(t); got.errorType(t) != "invalid_request_error" || !strings.Contains(m, opus) || !strings.Contains(m, "*haiku*") || !strings.Contains(m, "claude-sonnet-*") {
			t.Errorf("%s: %s", path, got.body)
		}
	}
	before := len(r.used())
	for name, body := range map[string]string{
		"no model":        `{"max_tokens":9,"messages":[]}`,
		"two models":      `{"model":"claude-haiku-4-5","max_tokens":9,"messages":[],"model":"claude-opus-4-5"}`,
		"case variant":    `{"model":"claude-haiku-4-5","Model":"claude-opus-4-5","max_tokens":9,"messages":[]}`,
		"escaped name":    `{"model":"claude-haiku-4-5","\u006dodel":"claude-opus-4-5","max_tokens":9,"messages":[]}`,
		"not a string":    `{"model":["claude-haiku-4-5"],"messages":[]}`,
		"not an object":   `[{"model":"claude-haiku-4-5"}]`,
		"not JSON":        `model=claude-haiku-4-5`,
		"trailing object": `{"model":"claude-haiku-4-5","messages":[]}{"model":"claude-opus-4-5"}`,
		"empty":           ``,
	} {
		if got := send(messages, body); got.status != 400 || got.errorType(t) != "invalid_request_error" {
			t.Errorf("%s: status %d %s", name, got.status, got.body)
		}
	}
	for _, encoding := range []string{"gzip", "br", "zstd", "identity, gzip"} {
		if got := send(messages, messageBody(haiku, false), "Content-Encoding", encoding); got.status != 400 {
			t.Errorf("%s: status %d", encoding, got.status)
		}
	}
	send("/v1/messages/batches", `{"requests":[]}`).mustBe(t, 403)
	send("/v1/complete", `{"model":"claude-haiku-4-5"}`).mustBe(t, 403)
	if after := len(r.used()); after != before {
		t.Errorf("%d refused requests went upstream", after-before)
	}
}

func TestAKeyThatIsLimitedToAccountsUsesNoOther(t *testing.T) {
	t.Parallel()
	r := preferring(t, "secret-a", "b")
	r.add("c", "max")
	key := r.key(api.NewKey{Name: "team", Accounts: []string{"b"}})
	session := []string{"X-Claude-Code-Session-Id", "8f0f5aa0-0000-4000-8000-000000000001"}
	if got := r.message(sonnet, session...).mustBe(t, 200); got.header.Get("X-Proxy-Account") != "secret-a" {
		t.Fatalf("a client without key was served by %s", got.header.Get("X-Proxy-Account"))
	}
	for range 3 { // the same conversation, but another client
		got := r.message(sonnet, append([]string{"X-Api-Key", key}, session...)...).mustBe(t, 200)
		if got.header.Get("X-Proxy-Account") != "b" {
			t.Errorf("served by %s", got.header.Get("X-Proxy-Account"))
		}
	}

	r.sim.Reset()
	r.sim.Script("b", simulator.Step{Times: -1, Do: simulator.Overloaded529})
	got := r.message(sonnet, "X-Api-Key", key).mustBe(t, 503)
	if strings.Contains(got.body, "secret-a") || strings.Contains(got.body, `"c"`) || !strings.Contains(got.body, `"b"`) {
		t.Errorf("the refusal names accounts of others: %s", got.body)
	}
	for _, name := range r.used() {
		if name != "b" {
			t.Errorf("account %s was asked", name)
		}
	}

	if err := r.app.runtime.RemoveAccount(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	got = r.message(sonnet, "X-Api-Key", key).mustBe(t, 403)
	if strings.Contains(got.body, "secret-a") || got.errorType(t) != "permission_error" {
		t.Errorf("without any account of its own: %s", got.body)
	}
}

func TestAKeyEndsAtItsExpiry(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("a", "max")
	expires := time.Now().Add(400 * time.Millisecond)
	key := r.key(api.NewKey{Name: "brief", ExpiresAt: ptr(expires.UnixMilli())})
	other := r.key(api.NewKey{Name: "lasting"})
	var got reply
	r.eventually("the key has expired", func() bool {
		got = r.message(sonnet, "X-Api-Key", key)
		return got.status == 401
	})
	mustRefuseKey(t, got)
	if time.Now().Before(expires) {
		t.Error("the key ended early")
	}
	r.message(sonnet, "X-Api-Key", other).mustBe(t, 200)
}

func TestARevokedKeyEndsItsWaitAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("a", "max")
	if _, err := r.app.runtime.UpdateAccount(t.Context(), "a", api.AccountPatch{MaxInFlight: api.Field[int]{Set: true, Value: ptr(1)}}); err != nil {
		t.Fatal(err)
	}
	key, other := r.key(api.NewKey{Name: "gone"}), r.key(api.NewKey{Name: "stays"})
	r.sim.Script("a", simulator.Step{Do: simulator.SilentStream(0)})
	running, cancel := r.begin(r.request("POST", "/v1/messages", messageBody(sonnet, true)))

	queued, unaffected := make(chan reply, 1), make(chan reply, 1)
	go func() { queued <- r.message(sonnet, "X-Api-Key", key) }()
	go func() { unaffected <- r.message(sonnet, "X-Api-Key", other) }()
	r.eventually("both wait", func() bool { return r.app.runtime.pool.Waiting() == 2 })
	r.revoke("gone")
	mustRefuseKey(t, <-queued)
	mustRefuseKey(t, r.message(sonnet, "X-Api-Key", key))
	if n := r.app.runtime.pool.Waiting(); n != 1 {
		t.Errorf("%d wait on", n)
	}
	cancel()
	_ = running.Body.Close()
	(<-unaffected).mustBe(t, 200)
}

func TestARevokedKeyEndsItsRunningAnswerVisibly(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("a", "max")
	key := r.key(api.NewKey{Name: "gone"})
	r.sim.Script("a", simulator.Step{Do: simulator.SilentStream(0)})
	running, _ := r.begin(r.request("POST", "/v1/messages", messageBody(sonnet, true), "X-Api-Key", key))
	r.revoke("gone")
	body, err := io.ReadAll(running.Body)
	if err != nil || !strings.Contains(string(body), "event: error") || !strings.Contains(string(body), "The client key was revoked.") {
		t.Errorf("the stream ended like this: %v %q", err, body)
	}
	if row := r.last(); row.Outcome != api.OutcomeTruncated || deref(row.ErrorMessage) != "The client key was revoked." {
		t.Errorf("row: %s, %s", row.Outcome, deref(row.ErrorMessage))
	}
	r.eventually("upstream's stream ends", func() bool { return r.sim.ActiveStreams() == 0 })
	if a := r.account("a"); a.Status != api.StatusAvailable || len(a.Limits) > 0 {
		t.Errorf("the account is blamed for it: %+v", a)
	}
}

func TestAKeyRevokedByAnotherProcessEndsWithinASecond(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("a", "max")
	key := r.key(api.NewKey{Name: "gone"})
	r.sim.Script("a", simulator.Step{Do: simulator.Hang})
	waiting := make(chan reply, 1)
	go func() { waiting <- r.message(sonnet, "X-Api-Key", key) }()
	r.eventually("the request is upstream", func() bool { return r.sim.InFlight() == 1 })

	other, err := store.Open(t.Context(), store.Options{Path: filepath.Join(r.dir, "data", "accounts.db"), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	keys, err := other.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := other.RemoveKey(t.Context(), keys[0].ID); err != nil {
		t.Fatal(err)
	}
	mustRefuseKey(t, <-waiting)
}

func TestARotatedKeyKeepsItsFormerCredentialForTheGracePeriod(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("a", "max")
	former := r.key(api.NewKey{Name: "ci", RPM: ptr(4)})
	rotate := func(grace time.Duration) string {
		k, err := r.app.runtime.RotateKey(t.Context(), "ci", grace)
		if err != nil {
			t.Fatal(err)
		}
		return k.Key
	}
	current := rotate(time.Hour)
	r.message(sonnet, "X-Api-Key", former).mustBe(t, 200)
	r.message(sonnet, "X-Api-Key", current).mustBe(t, 200)

	latest := rotate(0)
	mustRefuseKey(t, r.message(sonnet, "X-Api-Key", former))
	mustRefuseKey(t, r.message(sonnet, "X-Api-Key", current))
	r.message(sonnet, "X-Api-Key", latest).mustBe(t, 200)
	r.message(sonnet, "X-Api-Key", latest).mustBe(t, 200)
	r.message(sonnet, "X-Api-Key", latest).mustBe(t, 429) // one key, one count
}

func TestUsageAndCostAreCountedByKey(t *testing.T) {
	t.Parallel()
	r := newRig(t, dollarEach)
	r.add("a", "max")
	name := "counted " + strconv.FormatInt(conversations.Add(1), 10)
	key := r.key(api.NewKey{Name: name})
	if used := r.keyNamed(name).LastUsed; used != nil {
		t.Errorf("used before it was: %v", *used)
	}
	start := time.Now().UnixMilli()
	r.message(sonnet, "X-Api-Key", key).mustBe(t, 200)
	r.stream(sonnet, "X-Api-Key", key).mustBe(t, 200)
	r.message(sonnet).mustBe(t, 200)

	if k := r.keyNamed(name); k.SpentUSD != 2 || k.LastUsed == nil || *k.LastUsed < start {
		t.Errorf("key: %+v", k)
	}
	r.rows(3)
	rows, err := r.app.runtime.Requests(t.Context(), api.RequestQuery{Limit: 10, Client: name})
	if err != nil || len(rows) != 2 || deref(rows[0].Client) != name || *rows[0].CostUSD != 1 {
		t.Errorf("history: %v %+v", err, rows)
	}
	stats, err := r.app.runtime.Stats(t.Context(), time.Time{})
	if u := stats.ByKey[name]; err != nil || len(stats.ByKey) != 1 || u.Requests != 2 || u.Tokens.Output != 64 || *u.CostUSD != 2 {
		t.Errorf("stats: %v %+v", err, stats.ByKey)
	}
	if n := counted(t, metrics.keyRequests.WithLabelValues(name, "ok")); n != 2 {
		t.Errorf("metrics count %v requests", n)
	}
	if usd := counted(t, metrics.keyCost.WithLabelValues(name)); usd != 2 {
		t.Errorf("metrics count $%v", usd)
	}
	if n := counted(t, metrics.keyTokens.WithLabelValues(name, "output")); n != 64 {
		t.Errorf("metrics count %v output tokens", n)
	}
	if err := r.app.runtime.saveUse(t.Context()); err != nil {
		t.Fatal(err)
	}
	stored, err := r.app.runtime.store.Keys(t.Context())
	if err != nil || stored[0].LastUsed.UnixMilli() < start {
		t.Errorf("last use is not written: %v %v", err, stored[0].LastUsed)
	}
}

func TestAKeySeesItsOwnFilesOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("a", "max")
	mine, theirs := r.key(api.NewKey{Name: "mine"}), r.key(api.NewKey{Name: "theirs"})
	upload := func(key string) string {
		body := "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\nContent-Type: text/plain\r\n\r\nhello\r\n--b--\r\n"
		got := r.send("POST", "/v1/files", body, "X-Api-Key", key, "Content-Type", "multipart/form-data; boundary=b", "Anthropic-Beta", "files-api-2025-04-14").mustBe(t, 200)
		return got.json(t)["id"].(string)
	}
	a, b := upload(mine), upload(theirs)
	r.send("GET", "/v1/files/"+a, "", "X-Api-Key", mine, "Anthropic-Beta", "files-api-2025-04-14").mustBe(t, 200)
	for _, method := range []string{"GET", "HEAD", "DELETE"} {
		r.send(method, "/v1/files/"+b, "", "X-Api-Key", mine, "Anthropic-Beta", "files-api-2025-04-14").mustBe(t, 404)
	}
	document := func(id string) string {
		return `{"type":"document","source":{"type":"file","file_id":"` + id + `"}}`
	}
	body := func(content ...string) string {
		return `{"model":"claude-sonnet-4-5","max_tokens":9,"messages":[{"role":"user","content":[` + strings.Join(content, ",") + `]}]}`
	}
	before := len(r.used())
	plain := body(document(a), document(b))
	r.send("POST", "/v1/messages", plain, "X-Api-Key", mine).mustBe(t, 404)
	r.send("POST", "/v1/messages", gzipped(t, plain), "X-Api-Key", mine, "Content-Encoding", "gzip").mustBe(t, 404)
	disguised := body(strings.ReplaceAll(document(b), "file_id", `file\u005fid`))
	r.send("POST", "/v1/messages", disguised, "X-Api-Key", mine).mustBe(t, 404)
	var many []string
	for i := range anthropic.MaxResources {
		many = append(many, document(fmt.Sprintf("file_%d", i)))
	}
	r.send("POST", "/v1/messages", body(append(many, document(b))...), "X-Api-Key", mine).mustBe(t, 400)
	if len(r.used()) != before {
		t.Error("another key's file went upstream")
	}
}

func TestKeysAreStoredAsHashesOnly(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("a", "max")
	key := r.key(api.NewKey{Name: "ci"})
	r.message(sonnet, "X-Api-Key", key).mustBe(t, 200)
	files := readAll(t, filepath.Join(r.dir, "data"))
	if strings.Contains(files, key) || strings.Contains(files, key[3:43]) {
		t.Error("the credential is in the database")
	}
	if k := r.keyNamed("ci"); k.Key != "" {
		t.Error("the credential is shown again")
	}
}

// Guessing does not get slower for those who have a good key.
func TestBadKeysAreSlowedDownByAddressAndLockNobodyOut(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	r.add("a", "max")
	good := r.key(api.NewKey{Name: "good"})
	wrong, err := access.NewCredential(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	here, there := r.from("203.0.113.7:40000"), r.from("203.0.113.8:40000")
	var got reply
	for range 40 {
		got = here.message(sonnet, "X-Api-Key", wrong.Reveal())
	}
	if got.mustBe(t, 429).errorType(t) != "rate_limit_error" || got.header.Get("Retry-After") == "" {
		t.Errorf("%v %s", got.header, got.body)
	}
	here.send("GET", "/api/stats", "", "Authorization", basicAuth(wrong.Reveal())).mustBe(t, 429)
	here.message(sonnet, "X-Api-Key", good).mustBe(t, 200)
	there.message(sonnet, "X-Api-Key", wrong.Reveal()).mustBe(t, 401)
}

func counted(t *testing.T, c prometheus.Counter) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families[0].GetMetric()[0].GetCounter().GetValue()
}
