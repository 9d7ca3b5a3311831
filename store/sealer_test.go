package store

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/claude-balancer/claude-balancer/secret"
)

func testKey(b byte) []byte { return bytes.Repeat([]byte{b}, keySize) }

func sealer(tb testing.TB, newKey []byte, oldKeys ...[]byte) *Sealer {
	tb.Helper()
	return got(NewSealer(newKey, oldKeys...))(tb)
}

// inFiles returns which of the texts are somewhere in the database's files.
func inFiles(tb testing.TB, path string, texts ...string) (found []string) {
	tb.Helper()
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		content, err := os.ReadFile(path + suffix)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			tb.Fatal(err)
		}
		for _, text := range texts {
			if bytes.Contains(content, []byte(text)) && !slices.Contains(found, text) {
				found = append(found, text)
			}
		}
	}
	return found
}

func TestSealingLeavesNoPlainCredentialInTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "accounts.db")
	plain := open(t, testOptions(path))
	var tokens []string
	for i := range 50 {
		a := account(fmt.Sprint("acc", i))
		a.Credential.Refresh = secret.New(fmt.Sprintf("refresh-%d-%s", i, strings.Repeat("x", 3000))) // overflow pages
		must(t, plain.AddAccount(t.Context(), a))
		tokens = append(tokens, a.Credential.Access.Reveal(), fmt.Sprintf("refresh-%d-", i))
	}
	for i := range 25 {
		must(t, plain.RemoveAccount(t.Context(), fmt.Sprint("id-acc", i*2)))
	}
	must(t, plain.Close())
	if len(inFiles(t, path, tokens...)) == 0 {
		t.Fatal("without a key, credentials should be there as they are")
	}

	o := testOptions(path)
	o.Keys = sealer(t, testKey(1))
	s := open(t, o)
	check := func(when string) {
		t.Helper()
		if left := inFiles(t, path, tokens...); left != nil {
			t.Errorf("%s, in the clear: %q", when, left)
		}
	}
	check("after sealing")
	if _, err := s.SaveCredential(t.Context(), "id-acc1", 1, Credential{Access: secret.New("second-access"), Refresh: secret.New("second-refresh")}); err != nil {
		t.Fatal(err)
	}
	tokens = append(tokens, "second-access", "second-refresh")
	check("after a change")
	must(t, s.AddAccount(t.Context(), account("later")))
	tokens = append(tokens, "access-later", "refresh-later")
	check("after adding")
	if c := got(s.Credential(t.Context(), "id-later"))(t); c.Access.Reveal() != "access-later" || c.Refresh.Reveal() != "refresh-later" {
		t.Error("a sealed credential does not come back")
	}
	if a := one(t, s, "id-acc3"); a.Credential.Access.Reveal() != "access-acc3" {
		t.Error("a credential that was sealed later does not come back")
	}
	must(t, s.Close())
	check("after closing")
}

func TestSealedStoresNeedTheirKey(t *testing.T) { onEachEngine(t, testSealedStoresNeedTheirKey) }

func testSealedStoresNeedTheirKey(t *testing.T, db testDB) {
	o := db.o
	o.Keys = sealer(t, testKey(1))
	s := open(t, o)
	name := s.Name()
	must(t, s.AddAccount(t.Context(), account("work")))
	must(t, s.Close())

	for _, c := range []struct {
		keys     *Sealer
		want     error
		sentence string
	}{
		{nil, ErrKeyMissing, "encryption key is missing"},
		{sealer(t, testKey(2)), ErrKeyWrong, "encryption key is wrong"},
		{sealer(t, testKey(2), testKey(3)), ErrKeyWrong, "encryption key is wrong"},
	} {
		o.Keys = c.keys
		_, err := Open(t.Context(), o)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.sentence) || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %v", err, c.want)
		}
	}
	o.Keys = sealer(t, testKey(1))
	if a := one(t, open(t, o), "id-work"); a.Credential.Refresh.Reveal() != "refresh-work" {
		t.Error("the right key does not open it any more")
	}
}

func TestANewKeyReplacesTheOldOne(t *testing.T) { onEachEngine(t, testANewKeyReplacesTheOldOne) }

func testANewKeyReplacesTheOldOne(t *testing.T, db testDB) {
	o := db.o
	o.Keys = sealer(t, testKey(1))
	s := open(t, o)
	must(t, s.AddAccount(t.Context(), account("work")))
	must(t, s.Close())

	o.Keys = sealer(t, testKey(2), testKey(1))
	must(t, got(Open(t.Context(), o))(t).Close())
	if o.Path != "" && inFiles(t, o.Path, keyID(testKey(1))) != nil {
		t.Error("texts of the old key are left in the file")
	}
	o.Keys = sealer(t, testKey(2)) // the old key is not needed any more
	if a := one(t, open(t, o), "id-work"); a.Credential.Access.Reveal() != "access-work" {
		t.Error("the credential did not survive the new key")
	}
}

func TestAnInterruptedCleaningIsRepeated(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "accounts.db")
	s := open(t, testOptions(path))
	must(t, s.AddAccount(t.Context(), account("work")))
	s.keys = sealer(t, testKey(1))
	must(t, s.write(t.Context(), 0, s.reseal)) // and the process dies
	must(t, s.Close())

	o := testOptions(path)
	o.Keys = sealer(t, testKey(1))
	s = open(t, o)
	var due int
	must(t, s.reader.QueryRow(`SELECT value FROM counters WHERE name = ?`, counterRewrite).Scan(&due))
	if due != 0 || inFiles(t, path, "access-work", "refresh-work") != nil {
		t.Errorf("due %d, found %q", due, inFiles(t, path, "access-work", "refresh-work"))
	}
}

func TestASeedFileIsSealed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "claude-accounts.db")
	runScript(t, path, readFixture(t, "s3"))
	o := testOptions(path)
	o.Keys = sealer(t, testKey(1))
	s := open(t, o)
	if left := inFiles(t, path, "rt-work", "at-work", "rt-idle"); left != nil {
		t.Errorf("in the clear: %q", left)
	}
	if a := one(t, s, "id-work"); a.Credential.Refresh.Reveal() != "rt-work" || a.Credential.Access.Reveal() != "at-work" {
		t.Error("its credential does not come back")
	}
}

func TestASealedTextIsBoundToItsPlace(t *testing.T) {
	t.Parallel()
	k := sealer(t, testKey(1))
	rapid.Check(t, func(t *rapid.T) {
		plain := rapid.String().Draw(t, "plain")
		text := k.seal("a", columnAccess, secret.New(plain))
		if back, err := k.open("a", columnAccess, text); err != nil || back.Reveal() != plain {
			t.Fatalf("%q came back as %q, %v", plain, back.Reveal(), err)
		}
		if plain == "" {
			return
		}
		if again := k.seal("a", columnAccess, secret.New(plain)); again == text {
			t.Fatal("the same text twice: the nonce is not random")
		}
		for _, place := range [][2]string{{"b", columnAccess}, {"a", columnRefresh}, {"", "a" + columnAccess}} {
			if _, err := k.open(place[0], place[1], text); err == nil {
				t.Fatalf("it opens for %q", place)
			}
		}
		at := rapid.IntRange(len(sealPrefix+k.current)+1, len(text)-1).Draw(t, "at")
		damaged := text[:at] + string(rune('A'+(text[at]+1)%26)) + text[at+1:]
		if _, err := k.open("a", columnAccess, damaged); err == nil && damaged != text {
			t.Fatal("a damaged text opens")
		}
	})
}

func TestKeysAreReadInEveryCommonForm(t *testing.T) {
	t.Parallel()
	key := []byte("\xfb\xff\xfe0123456789abcdefghijklmnopqrs")
	for _, text := range []string{
		hex.EncodeToString(key), strings.ToUpper(hex.EncodeToString(key)),
		base64.StdEncoding.EncodeToString(key), base64.RawStdEncoding.EncodeToString(key),
		base64.URLEncoding.EncodeToString(key), base64.RawURLEncoding.EncodeToString(key),
		" " + hex.EncodeToString(key) + "\n",
	} {
		if have, err := ParseKey(text); err != nil || !bytes.Equal(have, key) {
			t.Errorf("%q: %x, %v", text, have, err)
		}
	}
	for _, text := range []string{"", "hunter2", hex.EncodeToString(key[:31]), hex.EncodeToString(key) + "00", base64.StdEncoding.EncodeToString(key[:16])} {
		_, err := ParseKey(text)
		if err == nil || text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := NewSealer(testKey(1), []byte("short")); err == nil {
		t.Error("a short old key is taken")
	}
}
