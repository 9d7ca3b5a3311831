package access_test

import (
	"encoding/binary"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/claude-balancer/claude-balancer/access"
)

var badKey = &access.Refusal{Status: 401, BadKey: true}

func TestManyBadKeysAreSlowedDownByAddress(t *testing.T) {
	t.Parallel()
	c := newClock()
	guard := access.NewGuard(c.Now)
	attacker, other := netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("203.0.113.8")
	failures := 0
	for guard.Refuse(attacker, badKey) == badKey {
		if failures++; failures > 1000 {
			t.Fatal("bad keys are never slowed down")
		}
	}
	if failures < 27 {
		t.Errorf("%d bad keys were enough; a client with an expired key sends as many at once", failures)
	}
	c.Add(20 * time.Second)
	slow := guard.Refuse(attacker, badKey)
	if slow.Status != 429 || slow.Type != "rate_limit_error" || slow.RetryAfter != 40*time.Second || slow.Header.Get("Retry-After") != "40" ||
		slow.Header.Get("X-Should-Retry") != "false" || !slow.BadKey || !strings.Contains(slow.Message, "40s") {
		t.Errorf("refusal: %+v", slow)
	}
	if guard.Refuse(other, badKey) != badKey {
		t.Error("another address is slowed down, too")
	}
	noKey := &access.Refusal{Status: 401}
	if guard.Refuse(attacker, noKey) != noKey {
		t.Error("a request without a key is taken for a guess")
	}
	c.Add(slow.RetryAfter)
	if guard.Refuse(attacker, badKey) != badKey {
		t.Error("slowed down for longer than told")
	}
}

func TestOneClientIsAnIPv4AddressOrAnIPv6Network(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		failing, asking string
		want            bool
	}{
		{"203.0.113.7", "203.0.113.7", true},
		{"203.0.113.7", "::ffff:203.0.113.7", true},
		{"203.0.113.7", "203.0.113.6", false},
		{"2001:db8:1:2::1", "2001:db8:1:2:ffff::9", true},
		{"2001:db8:1:2::1", "2001:db8:1:3::1", false},
		{"fe80::1%eth0", "fe80::2%eth1", true},
	} {
		guard := access.NewGuard(newClock().Now)
		for range 100 {
			guard.Failed(netip.MustParseAddr(tc.failing))
		}
		if _, blocked := guard.Blocked(netip.MustParseAddr(tc.asking)); blocked != tc.want {
			t.Errorf("%s failed: %s blocked = %v, want %v", tc.failing, tc.asking, blocked, tc.want)
		}
	}
	guard := access.NewGuard(newClock().Now)
	if _, blocked := guard.Blocked(netip.Addr{}); blocked {
		t.Error("an unknown address begins blocked")
	}
	for range 100 {
		guard.Failed(netip.Addr{})
	}
	if _, blocked := guard.Blocked(netip.Addr{}); !blocked {
		t.Error("an unknown address is never blocked")
	}
}

func TestManyAddressesBlockNoOther(t *testing.T) {
	t.Parallel()
	guard := access.NewGuard(newClock().Now)
	address := func(i uint32) netip.Addr {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], 0x0b000000+i)
		return netip.AddrFrom4(b)
	}
	var wg sync.WaitGroup
	for worker := range uint32(4) {
		wg.Go(func() {
			for i := range uint32(5000) {
				for range 40 {
					guard.Failed(address(worker*5000 + i))
				}
			}
		})
	}
	wg.Wait()
	for i := range uint32(1000) {
		if _, blocked := guard.Blocked(address(100_000 + i)); blocked {
			t.Fatal("an address that never failed is blocked")
		}
	}
}
